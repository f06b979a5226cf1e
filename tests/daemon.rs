//! The daemon from a file: many sources, a file read again, a token, TLS.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use support::certificates::Authority;
use support::daemon::{Walgate, free_address};
use support::{Sql, eventually, postgres};
use walgate::scratch::{Server, Signal};

fn server() -> Server {
    postgres(17).start().expect("the server starts")
}

/// A section of the file.
fn section(name: &str, server: &Server, listen: &str, more: &str) -> String {
    let dsn = server.dsn("postgres");
    format!("[[source]]\nname = {name:?}\ndsn = {dsn:?}\nlisten = {listen:?}\n{more}\n")
}

const HTTP: &str = "[http]\nlisten = \"HTTP\"\n";

/// A session through a listener.
fn through(listen: &str) -> Sql {
    let port = listen.rsplit(':').next().unwrap_or_default();
    Sql::connect(&format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"))
}

fn sources(walgate: &Walgate) -> Vec<String> {
    let (_, body) = walgate.get("/v1/sources");
    let sources = body["sources"].as_array().cloned().unwrap_or_default();
    sources.iter().filter_map(|source| Some(source["source"].as_str()?.to_owned())).collect()
}

#[test]
fn every_source_has_its_proxy_and_its_consumers() {
    let (blue, green) = (server(), server());
    let (at_blue, at_green) = (free_address(), free_address());
    let file = [HTTP, &section("blue", &blue, &at_blue, ""), &section("green", &green, &at_green, "")].concat();
    let walgate = Walgate::configured(&file, &at_blue);
    for (name, server, listen) in [("blue", &blue, &at_blue), ("green", &green, &at_green)] {
        let sql = through(listen);
        assert_eq!(sql.value("SHOW port"), server.port().to_string());
        sql.run(&format!("SELECT pg_create_physical_replication_slot('of_{name}', true)"));
        walgate.lag_until(&format!("of_{name}"), "it is shown", |consumer| consumer["source"] == name);
        let (_, body) = walgate.get(&format!("/v1/lag?source={name}"));
        assert_eq!(body["consumers"].as_array().map(Vec::len), Some(1), "{body}");
    }
    let (_, metrics) = walgate.get("/metrics");
    for series in [r#"walgate_slot_active{source="blue",slot="of_blue"} 0"#, r#"{source="green",slot="of_green"}"#] {
        assert!(metrics.as_str().is_some_and(|metrics| metrics.contains(series)), "{metrics}");
    }
}

#[test]
fn a_file_read_again_changes_what_has_changed_and_nothing_else() {
    let (one, other) = (server(), server());
    let (at_kept, at_moved, at_new) = (free_address(), free_address(), free_address());
    let kept = section("kept", &one, &at_kept, "");
    let walgate = Walgate::configured(&[HTTP, &kept, &section("moved", &one, &at_moved, "")].concat(), &at_kept);
    let (in_kept, in_moved) = (through(&at_kept), through(&at_moved));

    let elsewhere = free_address();
    let moved = section("moved", &one, &elsewhere, "");
    walgate.configure(&[HTTP, &kept, &moved, &section("new", &other, &at_new, "")].concat());
    assert_eq!(sources(&walgate), ["kept", "moved", "new"]);
    assert_eq!(in_kept.value("SELECT 1"), "1", "a session of a source that stays as it is stays");
    assert_eq!(in_moved.value("SELECT 1"), "1", "a session of one that moves is let finish");
    assert_eq!(through(&elsewhere).value("SHOW port"), one.port().to_string());
    assert_eq!(through(&at_new).value("SHOW port"), other.port().to_string());
    assert!(
        Sql::try_connect(&format!("host=127.0.0.1 port={} user=postgres", at_moved.rsplit(':').next().unwrap()))
            .is_err()
    );

    // Limits change under sessions, which stay.
    walgate.configure(&[HTTP, &section("kept", &one, &at_kept, "max_sessions = 1"), &moved].concat());
    assert_eq!(sources(&walgate), ["kept", "moved"]);
    let port = at_kept.rsplit(':').next().unwrap();
    let refused = Sql::try_connect(&format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")).err();
    assert!(refused.is_some_and(|error| error.contains("too many sessions")));
    walgate.configure(
        &[HTTP, &section("kept", &one, &at_kept, "max_sessions = 2\nstale_after = \"9s\""), &moved].concat(),
    );
    assert_eq!((in_kept.value("SELECT 1"), through(&at_kept).value("SELECT 1")), ("1".into(), "1".into()));

    // What cannot be listened at changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    walgate
        .configure(&[HTTP, &section("kept", &one, &taken, ""), &section("third", &one, &free_address(), "")].concat());
    assert!(
        walgate.log().contains(&format!("not reloaded: everything stays as it was error=cannot listen at {taken}"))
    );
    assert_eq!(sources(&walgate), ["kept", "moved"]);
    assert_eq!(through(&at_kept).value("SELECT 1"), "1");

    // A source that is somewhere else now is looked at there.
    let system = |server: &Server| {
        Sql::connect(&server.dsn("postgres")).value("SELECT system_identifier FROM pg_control_system()")
    };
    walgate
        .configure(&[HTTP, &section("kept", &one, &at_kept, ""), &section("moved", &other, &elsewhere, "")].concat());
    eventually("the other server", || match walgate.get("/v1/sources?source=moved").1["sources"][0].clone() {
        source if source["system_identifier"] == system(&other) => Ok(()),
        source => Err(source),
    });

    walgate.configure(&[HTTP, &kept, "lisen = 1"].concat());
    assert!(walgate.log().contains("unknown key \"lisen\"; did you mean \"listen\"?"), "{}", walgate.log());
    assert_eq!((sources(&walgate).len(), in_kept.value("SELECT 1")), (2, "1".into()));
}

#[test]
fn a_configuration_can_be_checked_without_running_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("walgate.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_walgate")).args(["run", "--check-config", "-c"]).arg(&path).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // Nothing listens there, and nothing is to.
    assert_eq!(check("[[source]]\nname = \"a\"\ndsn = \"host=127.0.0.1 port=1\"").0, Some(0));
    let (code, error) = check("[[source]]\nname = \"a\"\ndns = \"host=127.0.0.1\"");
    assert_eq!(
        (code, error.contains("walgate.toml:3: unknown key \"dns\"; did you mean \"dsn\"?")),
        (Some(64), true),
        "{error}"
    );
    let run =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_walgate")).arg("run").args(arguments).output().unwrap();
    assert_eq!(run(&["-c", "a.toml", "--listen", "127.0.0.1:1"]).status.code(), Some(64));
    assert_eq!(run(&["--check-config", "--upstream", "host=a", "--observe", "magic"]).status.code(), Some(64));
    assert_eq!(run(&["--check-config", "--upstream", "host=a", "--passive"]).status.code(), Some(64));
    assert_eq!(run(&["--check-config", "--upstream", "host=a", "--observe", "slot"]).status.code(), Some(0));
}

#[test]
fn a_token_is_wanted_where_one_is_configured() {
    let server = server();
    let listen = free_address();
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let file = [HTTP, &format!("token_file = {token:?}\n"), &section("main", &server, &listen, "")].concat();
    let walgate = Walgate::configured(&file, &listen);
    let ask = |token: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.get(format!("http://127.0.0.1:{}/v1/lag", walgate.http()));
        request.header("Authorization", &format!("Bearer {token}")).call().unwrap().status().as_u16()
    };
    for route in ["/v1/lag", "/v1/slots", "/v1/sources", "/v1/events"] {
        let (status, problem) = walgate.get(route);
        assert_eq!((status, problem["status"].clone()), (401, Value::from(401)), "{route}");
    }
    assert_eq!((ask("first"), ask("firs"), ask("")), (200, 401, 401));
    for route in ["/livez", "/metrics"] {
        assert_eq!(walgate.get(route).0, 200, "{route}");
    }
    std::fs::write(&token, "second\n").unwrap();
    walgate.configure(&file);
    assert_eq!((ask("first"), ask("second")), (401, 200));
}

#[test]
fn http_speaks_tls_and_nobody_waits_for_anothers_handshake() {
    let server = server();
    let authority = Authority::new("http");
    let identity = authority.sign(&["localhost"], "localhost");
    let certificate = authority.file("http.crt", &identity.certificate, 0o644);
    let key = authority.file("http.key", &identity.key, 0o600);
    let listen = free_address();
    // The log says when it listens, and nothing answers without TLS.
    let address = free_address();
    let file = format!(
        "[http]\nlisten = {address:?}\ntls_cert = {certificate:?}\ntls_key = {key:?}\n{}",
        section("main", &server, &listen, "")
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("walgate.toml");
    std::fs::write(&path, file).unwrap();
    let mut walgate = Command::new(env!("CARGO_BIN_EXE_walgate")).args(["run", "-c"]).arg(&path).spawn().unwrap();
    let silent = eventually("it to listen", || std::net::TcpStream::connect(&address));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.root()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(connection, std::net::TcpStream::connect(&address).unwrap());
    std::io::Write::write_all(&mut stream, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"), "{answer}");
    drop(silent);
    walgate::scratch::signal(i32::try_from(walgate.id()).unwrap(), Signal::Terminate);
    assert!(walgate.wait().unwrap().success());
}
