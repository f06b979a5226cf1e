//! Encryption on either leg, and logins through it.

use std::fs;

use walgate::scratch::{Server, Signal, free_port, signal};
use walgate::source::ConnectError;

use crate::support::certificates::Authority;
use crate::support::client::{ENCRYPTED, ask, connector};
use crate::support::daemon::Walgate;
use crate::support::{eventually, postgres};

/// Certificates for both legs, and a server whose role `app` logs in by SCRAM.
struct Scene {
    authority: Authority,
    server: Server,
}

impl Scene {
    fn new() -> Scene {
        let authority = Authority::new("ca");
        let server =
            postgres(17).tls(authority.server(&["db.test"], "db")).access("host all app 127.0.0.1/32 scram-sha-256");
        let server = server.start().unwrap();
        let sql = crate::support::Sql::connect(&server.dsn("postgres"));
        sql.run("CREATE ROLE app LOGIN REPLICATION PASSWORD 'secret'");
        Scene { authority, server }
    }

    /// The connection string of the leg to the server.
    fn upstream(&self, more: &str) -> String {
        let (port, root) = (self.server.port(), self.authority.root());
        format!("host=db.test hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres sslrootcert={root} {more}")
    }

    /// The files of the certificate that clients are shown.
    fn client_leg(&self, name: &str) -> [String; 4] {
        let identity = self.authority.sign(&[name], name);
        let file = |kind: &str, text: &str| self.authority.file(kind, text, 0o600).display().to_string();
        let (certificate, key) = (file("leg.crt", &identity.certificate), file("leg.key", &identity.key));
        ["--tls-cert".into(), certificate, "--tls-key".into(), key]
    }

    /// A client of walgate that logs in as `app`.
    fn client(&self, walgate: &Walgate, more: &str) -> String {
        let (port, root) = (walgate.port(), self.authority.root());
        format!(
            "host=leg.test hostaddr=127.0.0.1 port={port} user=app password=secret dbname=postgres sslrootcert={root} {more}"
        )
    }
}

fn run(upstream: &str, more: &[String]) -> Walgate {
    Walgate::run(upstream, &more.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn each_leg_is_encrypted_or_not_as_it_is_set_and_logins_pass() {
    let scene = Scene::new();
    let certificate = scene.client_leg("leg.test");
    for (upstream, arguments, client, expected) in [
        ("sslmode=disable", &[][..], "sslmode=disable", "plain"),
        // The server's offer of SCRAM-SHA-256-PLUS is one that a client without TLS would refuse.
        ("sslmode=verify-full", &[], "sslmode=disable", "TLSv1.3"),
        ("sslmode=require sslnegotiation=direct", &[], "sslmode=disable", "TLSv1.3"),
        ("sslmode=disable", &certificate, "sslmode=verify-full channel_binding=disable", "plain"),
        ("sslmode=disable", &certificate, "sslmode=require sslnegotiation=direct", "plain"),
        ("sslmode=verify-full", &certificate, "sslmode=verify-full channel_binding=disable", "TLSv1.3"),
        ("sslmode=verify-full", &certificate, "sslmode=disable", "TLSv1.3"),
    ] {
        let walgate = run(&scene.upstream(upstream), arguments);
        let dsn = scene.client(&walgate, client);
        let seen = ask(&dsn, ENCRYPTED).await;
        assert_eq!(
            seen.unwrap_or_else(|error| panic!("{upstream} | {client}: {error}")),
            expected,
            "{upstream} | {client}"
        );
        let bare = connector(&dsn).open().await.unwrap();
        assert_eq!(bare.stream.is_encrypted(), !client.contains("disable ") && !client.ends_with("sslmode=disable"));
    }
}

#[tokio::test]
async fn a_login_bound_to_one_of_two_channels_is_refused_with_the_way_out() {
    let scene = Scene::new();
    let walgate = run(&scene.upstream("sslmode=require"), &scene.client_leg("leg.test"));
    for binding in ["prefer", "require"] {
        let dsn = scene.client(&walgate, &format!("sslmode=require channel_binding={binding}"));
        let error = ask(&dsn, "SELECT 'in'").await.unwrap_err();
        let refusal = error.server_error().expect("walgate says why");
        assert_eq!(refusal.code, "28000");
        assert_eq!(refusal.hint.as_deref(), Some("Set channel_binding=disable in the client's connection string."));
    }
    let dsn = scene.client(&walgate, "sslmode=require channel_binding=disable");
    assert_eq!(ask(&dsn, "SELECT 'in'").await.unwrap(), "in");
}

#[tokio::test]
async fn a_wrong_password_is_answered_in_the_servers_words_on_every_combination_of_legs() {
    let scene = Scene::new();
    let direct = scene.upstream("sslmode=disable").replace("user=postgres", "user=app password=wrong");
    let refusal = |error: ConnectError| error.server_error().cloned().expect("the server refuses");
    let expected = refusal(ask(&direct, "SELECT ''").await.unwrap_err());
    assert_eq!(expected.code, "28P01");
    let certificate = scene.client_leg("leg.test");
    for upstream in ["sslmode=disable", "sslmode=require"] {
        for (arguments, client) in
            [(&[][..], "sslmode=disable"), (&certificate, "sslmode=require channel_binding=disable")]
        {
            let walgate = run(&scene.upstream(upstream), arguments);
            let dsn = scene.client(&walgate, client).replace("secret", "wrong");
            let error = refusal(ask(&dsn, "SELECT ''").await.unwrap_err());
            assert_eq!(error, expected, "{upstream} | {client}");
            assert!(!walgate.log().contains("secret"));
        }
    }
}

#[tokio::test]
async fn a_certificate_is_read_again_at_sighup_and_a_broken_one_changes_nothing() {
    let scene = Scene::new();
    let arguments = scene.client_leg("old.test");
    let walgate = run(&scene.upstream("sslmode=disable"), &arguments);
    let verified_as = async |name: &str| {
        let dsn = scene.client(&walgate, "sslmode=verify-full").replace("leg.test", name);
        connector(&dsn).open().await.is_ok()
    };
    assert!(verified_as("old.test").await && !verified_as("new.test").await);
    scene.client_leg("new.test");
    assert!(signal(walgate.pid(), Signal::HangUp));
    eventually("the reload", || if walgate.log().contains("read again") { Ok(()) } else { Err(walgate.log()) });
    assert!(verified_as("new.test").await && !verified_as("old.test").await);
    fs::write(&arguments[1], "no certificate").unwrap();
    assert!(signal(walgate.pid(), Signal::HangUp));
    eventually("the refusal", || if walgate.log().contains("not reloaded") { Ok(()) } else { Err(walgate.log()) });
    assert!(verified_as("new.test").await);
}

#[tokio::test]
async fn direct_tls_without_the_protocols_name_and_tls_without_a_certificate_are_refused() {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    let scene = Scene::new();
    let plain = run(&scene.upstream("sslmode=disable"), &[]);
    let direct = scene.client(&plain, "sslmode=require sslnegotiation=direct");
    assert_eq!(connector(&direct).open().await.unwrap_err().kind(), "tls");
    let require = scene.client(&plain, "sslmode=require");
    let error = connector(&require).open().await.unwrap_err();
    assert!(error.to_string().contains("does not offer TLS"), "{error}");

    let walgate = run(&scene.upstream("sslmode=disable"), &scene.client_leg("leg.test"));
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    let pem = fs::read(scene.authority.root()).unwrap();
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", walgate.port())).await.unwrap();
    let name = ServerName::try_from("leg.test").unwrap();
    let mut stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.unwrap();
    assert_eq!(tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await.unwrap_or(0), 0);
    eventually("the reason", || if walgate.log().contains("ALPN") { Ok(()) } else { Err(walgate.log()) });
}

#[tokio::test]
async fn either_leg_may_be_a_unix_domain_socket() {
    let scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let socket = directory.path().join(format!(".s.PGSQL.{port}"));
    let upstream = scene.server.socket_dsn("postgres");
    let dsn = format!("host={} port={port} user=app password=secret dbname=postgres", directory.path().display());
    {
        let walgate = Walgate::run_at(&upstream, socket.to_str().unwrap(), &[]);
        assert_eq!(
            ask(
                &dsn,
                "SELECT coalesce(client_addr::text, 'socket') FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            )
            .await
            .unwrap(),
            "socket"
        );
        assert_eq!(ask(&format!("{dsn} sslmode=require"), ENCRYPTED).await.unwrap(), "plain");
        // A second one does not take the first one's place.
        let second = std::process::Command::new(env!("CARGO_BIN_EXE_walgate"))
            .args(["run", "--http", "off", "--upstream", &upstream, "--listen", socket.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(!second.status.success());
        assert!(String::from_utf8_lossy(&second.stderr).contains("cannot listen at"), "{second:?}");
        drop(walgate);
    }
    // It was killed and left its socket: the next one replaces it.
    assert!(socket.exists());
    let _walgate = Walgate::run_at(&upstream, socket.to_str().unwrap(), &[]);
    assert_eq!(ask(&dsn, "SELECT 'in'").await.unwrap(), "in");
}
