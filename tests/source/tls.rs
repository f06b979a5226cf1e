//! `sslmode` and what goes with it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use rcgen::{CertificateParams, DnType, KeyPair};
use walgate::scratch::{Server, Tls};
use walgate::source::{Connector, Dsn};

use super::support::certificates::Authority;
use super::support::client::{Bare, ENCRYPTED, ask, connector, try_connector};
use super::support::postgres;

fn dsn(server: &Server, host: &str, more: &str) -> String {
    format!("host={host} hostaddr=127.0.0.1 port={} dbname=postgres user=postgres {more}", server.port())
}

/// What a session says of its encryption, or the kind of error.
async fn outcome(dsn: &str) -> String {
    match ask(dsn, ENCRYPTED).await {
        Ok(version) => version,
        Err(error) => error.kind().to_owned(),
    }
}

#[tokio::test]
async fn each_sslmode_does_as_libpq_against_servers_with_and_without_tls() {
    let authority = Authority::new("ca");
    let root = format!("sslrootcert={}", authority.root());
    let plain = postgres(16).start().unwrap();
    let tls = postgres(16).tls(authority.server(&["db.test"], "db")).start().unwrap();
    for (mode, from_plain, from_tls) in [
        ("sslmode=disable", "plain", "plain"),
        ("sslmode=allow", "plain", "plain"),
        ("sslmode=prefer", "plain", "TLSv1.3"),
        ("", "plain", "TLSv1.3"),
        ("sslmode=require", "tls", "TLSv1.3"),
        ("sslmode=require ssl_max_protocol_version=TLSv1.2", "tls", "TLSv1.2"),
        (&format!("sslmode=verify-ca {root}"), "tls", "TLSv1.3"),
        (&format!("sslmode=verify-full {root}"), "tls", "TLSv1.3"),
    ] {
        assert_eq!(outcome(&dsn(&plain, "db.test", mode)).await, from_plain, "{mode}");
        assert_eq!(outcome(&dsn(&tls, "db.test", mode)).await, from_tls, "{mode}");
        let bare = connector(&dsn(&tls, "db.test", mode)).open().await.unwrap();
        assert_eq!(bare.stream.is_encrypted(), from_tls != "plain", "{mode}");
    }
    let socket = format!("{} sslmode=require", tls.socket_dsn("postgres"));
    assert_eq!(ask(&socket, ENCRYPTED).await.unwrap(), "plain");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let server = postgres(18).tls(authority.server(&["db.test"], "db")).start().unwrap();
    for mode in ["verify-ca", "verify-full", "require"] {
        let error = connector(&dsn(&server, "db.test", &format!("sslmode={mode} sslrootcert={}", other.root())));
        let error = error.sql().await.unwrap_err();
        assert!(error.to_string().contains("sslrootcert does not hold the CA"), "{error}");
        assert_eq!((error.kind(), error.is_transient()), ("tls", false));
    }
    // libpq verifies here too, and then falls back to clear text, as prefer means.
    let prefer = dsn(&server, "db.test", &format!("sslmode=prefer sslrootcert={}", other.root()));
    assert_eq!(outcome(&prefer).await, "plain");
}

#[tokio::test]
async fn verify_full_checks_the_name_and_verify_ca_does_not() {
    let authority = Authority::new("ca");
    let root = authority.root();
    for (names, common_name, good, bad) in [
        (
            &["db.test", "127.0.0.1"][..],
            "ignored.test",
            &["db.test", "DB.TEST", "127.0.0.1"][..],
            &["ignored.test", "x"][..],
        ),
        (&["*.db.test"], "db", &["a.db.test"], &["db.test", "a.b.db.test"]),
        // Without alternative names, libpq falls back to the common name.
        (&[], "db.test", &["db.test"], &["other.test", "127.0.0.1"]),
        (&[], "*.db.test", &["a.db.test"], &["db.test"]),
    ] {
        let server = postgres(17).tls(authority.server(names, common_name)).start().unwrap();
        for host in good {
            let full = dsn(&server, host, &format!("sslmode=verify-full sslrootcert={root}"));
            assert_eq!(outcome(&full).await, "TLSv1.3", "{host} of {names:?} {common_name}");
        }
        for host in bad {
            let full = dsn(&server, host, &format!("sslmode=verify-full sslrootcert={root}"));
            assert_eq!(outcome(&full).await, "tls", "{host} of {names:?} {common_name}");
            let authority_only = dsn(&server, host, &format!("sslmode=verify-ca sslrootcert={root}"));
            assert_eq!(outcome(&authority_only).await, "TLSv1.3", "{host} of {names:?} {common_name}");
        }
    }
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_its_own_root() {
    let authority = Authority::new("unused");
    let key = KeyPair::generate().unwrap();
    for is_ca in [rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained), rcgen::IsCa::NoCa] {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = is_ca;
        params.distinguished_name.push(DnType::CommonName, "db.test");
        let certificate = params.self_signed(&key).unwrap().pem();
        let root = authority.file("self.crt", &certificate, 0o644);
        let server =
            postgres(18).tls(Tls { certificate, key: key.serialize_pem(), client_roots: None }).start().unwrap();
        let with = |host: &str| dsn(&server, host, &format!("sslmode=verify-full sslrootcert={}", root.display()));
        assert_eq!(outcome(&with("db.test")).await, "TLSv1.3");
        assert_eq!(outcome(&with("other.test")).await, "tls");
    }
}

/// `openssl x509 -req`, the manual's second recipe, makes such certificates with OpenSSL 3.0.
#[tokio::test]
async fn a_certificate_of_version_1_will_do_where_nothing_is_verified() {
    let authority = Authority::new("ca");
    let (certificate, key) =
        (include_str!("files/version-1.crt").to_owned(), include_str!("files/version-1.key").to_owned());
    let server = postgres(16).tls(Tls { certificate, key, client_roots: None }).start().unwrap();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let max = format!("ssl_max_protocol_version={version}");
        assert_eq!(outcome(&dsn(&server, "db.test", &format!("sslmode=require {max}"))).await, version);
        let verified = format!("sslmode=verify-ca {max} sslrootcert={}", authority.root());
        assert_eq!(outcome(&dsn(&server, "db.test", &verified)).await, "tls");
    }
}

#[tokio::test]
async fn a_root_in_the_home_directory_is_used_without_being_named() {
    let authority = Authority::new("ca");
    let server = postgres(16).tls(Authority::new("other").server(&["db.test"], "db")).start().unwrap();
    let home = tempfile::tempdir().unwrap();
    let resolve = |more: &str| {
        let dsn = Dsn::resolve(Some(&dsn(&server, "db.test", more)), &Bare(Some(home.path().into()))).unwrap();
        Connector::new(dsn)
    };
    resolve("sslmode=require").unwrap().sql().await.unwrap();
    let error = resolve("sslmode=verify-ca").unwrap_err();
    assert!(error.to_string().contains("need a root certificate"), "{error}");
    std::fs::create_dir(home.path().join(".postgresql")).unwrap();
    std::fs::copy(authority.root(), home.path().join(".postgresql/root.crt")).unwrap();
    assert_eq!(resolve("sslmode=require").unwrap().sql().await.unwrap_err().kind(), "tls");
}

#[tokio::test]
async fn client_certificates_log_in_and_their_keys_must_be_private() {
    let authority = Authority::new("ca");
    let server = postgres(15)
        .tls(authority.server(&["db.test"], "db"))
        .access("hostssl all certified 127.0.0.1/32 cert")
        .access("host all certified 127.0.0.1/32 reject")
        .start()
        .unwrap();
    let admin = connector(&server.dsn("postgres")).sql().await.unwrap();
    admin.batch_execute("CREATE ROLE certified LOGIN").await.unwrap();
    let mine = authority.sign(&[], "certified");
    let certificate = authority.file("me.crt", &mine.certificate, 0o644);
    let with = |key: &std::path::Path| {
        let (certificate, key) = (certificate.display(), key.display());
        dsn(&server, "db.test", &format!("user=certified sslmode=require sslcert={certificate} sslkey={key}"))
    };

    let key = authority.file("me.key", &mine.key, 0o600);
    assert_eq!(ask(&with(&key), "SELECT current_user::text").await.unwrap(), "certified");
    let without = dsn(&server, "db.test", "user=certified sslmode=require");
    assert_eq!(outcome(&without).await, "auth");

    let open = authority.file("open.key", &mine.key, 0o644);
    let other = authority.file("other.key", &authority.sign(&[], "x").key, 0o600);
    let none = authority.file("none.key", "", 0o600);
    let encrypted = authority.file(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        0o600,
    );
    for (key, expected) in [
        (open.as_path(), "chmod 600"),
        (&other, "does not go with its key"),
        (&none, "no private key"),
        (&encrypted, "the key is encrypted"),
        (std::path::Path::new("/nonexistent"), "does not exist"),
    ] {
        let error = try_connector(&with(key)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), "config");
    }
}

#[tokio::test]
async fn direct_negotiation_works_from_17_on_and_says_so_before() {
    let authority = Authority::new("ca");
    for (major, expected) in [(16, "tls"), (17, "TLSv1.3"), (18, "TLSv1.3")] {
        let server = postgres(major).tls(authority.server(&["db.test"], "db")).start().unwrap();
        let direct = dsn(&server, "db.test", "sslmode=require sslnegotiation=direct connect_timeout=5");
        let outcome = outcome(&direct).await;
        // An older server takes the handshake for a broken packet and hangs up.
        assert!(outcome == expected || major == 16 && outcome == "closed", "{major}: {outcome}");
    }
}

#[tokio::test]
async fn allow_and_prefer_try_the_other_way_when_pg_hba_conf_wants_it() {
    let authority = Authority::new("ca");
    let server = postgres(18)
        .tls(authority.server(&["db.test"], "db"))
        .access("hostnossl all only_tls 127.0.0.1/32 reject")
        .access("hostssl all only_plain 127.0.0.1/32 reject")
        .start()
        .unwrap();
    let admin = connector(&server.dsn("postgres")).sql().await.unwrap();
    admin.batch_execute("CREATE ROLE only_tls LOGIN; CREATE ROLE only_plain LOGIN").await.unwrap();
    for (user, mode, expected) in [
        ("only_tls", "allow", "TLSv1.3"),
        ("only_tls", "prefer", "TLSv1.3"),
        ("only_tls", "disable", "auth"),
        ("only_plain", "allow", "plain"),
        ("only_plain", "prefer", "plain"),
        ("only_plain", "require", "auth"),
    ] {
        let outcome = outcome(&dsn(&server, "db.test", &format!("user={user} sslmode={mode}"))).await;
        assert_eq!(outcome, expected, "{user} {mode}");
    }
}

/// A server that reads the SSLRequest, answers these bytes, and tells what it is sent then until the end.
fn impostor(answer: &'static [u8]) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = listener.local_addr().expect("it has an address").port();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("somebody comes");
        let mut request = [0; 8];
        socket.read_exact(&mut request).expect("a request comes");
        socket.write_all(answer).expect("an answer goes");
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        let _ = tell.send(rest);
    });
    (port, told)
}

#[tokio::test]
async fn bytes_in_clear_behind_the_servers_yes_are_never_taken_for_its_own() {
    let injected = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let (port, told) = impostor(injected);
    let connector = connector(&format!("host=127.0.0.1 port={port} user=u password=s3cret sslmode=require"));
    let error = connector.sql().await.unwrap_err();
    assert_eq!(error.kind(), "tls", "{error}");
    let sent = told.recv().unwrap();
    assert!(!sent.windows(6).any(|window| window == b"s3cret"));
}

#[tokio::test]
async fn an_error_before_tls_is_not_shown() {
    let (port, _) = impostor(b"E\0\0\0\x10Mcome here\0\0");
    let error = connector(&format!("host=127.0.0.1 port={port} user=u sslmode=require")).open().await.unwrap_err();
    assert_eq!(error.kind(), "protocol");
    assert!(!error.to_string().contains("come here"), "{error}");
}
