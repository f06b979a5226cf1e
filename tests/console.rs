//! The console as its clients see it: psql, and tokio-postgres in the simple and the extended protocol.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use postgres_protocol::password::scram_sha_256;
use support::daemon::Walgate;
use support::{Sql, eventually, postgres, session};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::{PgLsn, Type};
use walgate::scratch::{Server, Signal, find, free_port};

/// Every command that answers with a table.
const SHOWS: [&str; 9] = ["LAG", "SLOTS", "FINDINGS", "GATES", "SESSIONS", "SOURCES", "CONFIG", "VERSION", "HELP"];

fn server() -> Server {
    postgres(18).start().expect("PostgreSQL starts")
}

fn walgate(server: &Server, arguments: &[&str]) -> Walgate {
    Walgate::run(&server.dsn("postgres"), arguments)
}

/// Runs what psql would be typed, a line each.
fn psql(walgate: &Walgate, database: &str, lines: &[&str]) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = find(15).and_then(|installation| installation.program("psql"));
    let on_path = || std::env::split_paths(&path).map(|directory| directory.join("psql")).find(|path| path.is_file());
    let psql: PathBuf = installed.or_else(on_path).expect("psql is installed: PostgreSQL 15's client programs");
    let mut command = Command::new(psql);
    command.args(["-X", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &walgate.port().to_string(), "-U", "ops"]);
    command.arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql runs");
    // One that was refused reads nothing.
    let _ = child.stdin.take().expect("it is piped").write_all(lines.join("\n").as_bytes());
    child.wait_with_output().expect("psql ends")
}

#[track_caller]
fn text(output: &Output) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    out.into_owned()
}

#[test]
fn psql_is_answered_by_every_command() {
    let server = server();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("SELECT pg_create_logical_replication_slot('shop', 'pgoutput')");
    let walgate = walgate(&server, &[]);
    walgate.lag_until("shop", "is known", |_| true);
    eventually("an audit", || match walgate.get("/v1/identity") {
        (200, _) => Ok(()),
        other => Err(other),
    });
    for show in SHOWS {
        text(&psql(&walgate, "walgate", &[&format!("SHOW {show};")]));
    }
    let out = text(&psql(&walgate, "walgate", &["show /* all */ slots; -- of it", "\\x", "SHOW LAG;"]));
    assert!(out.contains("shop") && out.contains("pgoutput") && out.contains("retained_wal_bytes"), "{out}");
    let out = text(&psql(&walgate, "walgate", &["SHOW SESSIONS \\gdesc"]));
    assert!(out.contains("timestamp with time zone") && out.contains("application_name"), "{out}");
    let out = text(&psql(&walgate, "walgate", &["SET extra_float_digits = 3;", ";", "-- nothing", "SHOW VERSION;"]));
    assert!(out.contains(env!("CARGO_PKG_VERSION")), "{out}");
}

#[test]
fn what_is_not_known_is_an_error_with_a_hint_and_the_session_goes_on() {
    let server = server();
    let walgate = walgate(&server, &[]);
    let output = psql(&walgate, "walgate", &["SHOW LAGS;"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("SHOW HELP"), "{error}");
    let sql = Sql::connect(&walgate.dsn("ops", "walgate"));
    for (command, code) in [("SELECT 1", "42601"), ("SHOW GATE", "42601"), ("BEGIN", "0A000")] {
        let error = sql.try_rows(command).expect_err("it is not known");
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{command}");
    }
    assert_eq!(sql.value("SHOW VERSION"), concat!("walgate ", env!("CARGO_PKG_VERSION")));
    let rows = sql.rows("SHOW HELP; SHOW VERSION");
    assert_eq!(rows.len(), 1, "each statement of a text is answered");
}

#[tokio::test]
async fn prepared_statements_have_real_types_in_binary() {
    let server = server();
    Sql::connect(&server.dsn("postgres")).run("SELECT pg_create_physical_replication_slot('standby', true)");
    let walgate = walgate(&server, &[]);
    let lag = walgate.lag_until("standby", "retains", |consumer| !consumer["retained_wal_bytes"].is_null());
    let client = session(&walgate.dsn("ops", "walgate")).await.expect("the console takes it");
    let statement = client.prepare("SHOW LAG;").await.expect("it is prepared");
    let kind = |name: &str| {
        let column = statement.columns().iter().find(|column| column.name() == name);
        column.map(|column| column.type_().clone()).unwrap_or_else(|| panic!("no {name}"))
    };
    for (name, expected) in [
        ("slot", Type::TEXT),
        ("seconds", Type::FLOAT8),
        ("seconds_max", Type::FLOAT8),
        ("rows", Type::INT8),
        ("server_lsn", Type::PG_LSN),
        ("observed_age_seconds", Type::FLOAT8),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
    let row = client.query_one(&statement, &[]).await.expect("it runs");
    assert_eq!(row.get::<_, &str>("slot"), "standby");
    assert_eq!(row.get::<_, &str>("kind"), "physical");
    assert!(row.get::<_, Option<i64>>("retained_wal_bytes").is_some(), "{lag}");
    assert_ne!(row.get::<_, PgLsn>("server_lsn"), PgLsn::from(0));
    assert_eq!(row.get::<_, Option<i64>>("transactions"), None, "what is not known is null");
    assert_eq!(row.get::<_, Option<PgLsn>>("sent_lsn"), None);

    let row = client.query_one("SHOW SLOTS", &[]).await.expect("it runs");
    assert!(!row.get::<_, bool>("active"));
    let statement = client.prepare("SHOW SESSIONS").await.expect("it is prepared");
    let started = statement.columns().iter().find(|column| column.name() == "started").map(|column| column.type_());
    assert_eq!(started, Some(&Type::TIMESTAMPTZ));
    let rows = client.query(&statement, &[]).await.expect("it runs");
    let own: Vec<_> = rows.iter().filter(|row| row.get::<_, &str>("kind") == "console").collect();
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].get::<_, &str>("user"), own[0].get::<_, &str>("database")), ("ops", "walgate"));
    assert!(own[0].get::<_, i64>("received_bytes") > 0);

    let error = client.prepare("SHOW NOTHING").await.expect_err("it is not known");
    assert_eq!(error.code().map(|code| code.code()), Some("42601"));
    assert!(client.query("SET x = 1", &[]).await.expect("SET does nothing").is_empty());
    assert!(client.query("", &[]).await.expect("nothing is fine").is_empty());
    let messages = client.simple_query("SHOW VERSION").await.expect("it runs");
    assert!(messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))));
}

#[test]
fn a_relayed_session_is_listed_with_what_it_moved() {
    let server = server();
    let walgate = walgate(&server, &[]);
    let console = Sql::connect(&walgate.dsn("ops", "walgate"));
    let relayed = Sql::connect(&format!("{} application_name=shop", walgate.dsn("postgres", "postgres")));
    relayed.run("SELECT repeat('x', 100000)");
    eventually("the session to be listed", || {
        let rows = console.rows("SHOW SESSIONS");
        let listed = rows.iter().find(|row| row[2].as_deref() == Some("sql"));
        match listed {
            Some(row) if row[9].as_deref().and_then(|sent| sent.parse().ok()).unwrap_or(0u64) > 100_000 => {
                assert_eq!(row[5].as_deref(), Some("shop"));
                assert!(row[10].is_some(), "{row:?}");
                Ok(())
            }
            _ => Err(rows),
        }
    });
    drop(relayed);
    eventually("the session to be gone", || {
        let rows = console.rows("SHOW SESSIONS");
        if rows.len() == 1 { Ok(()) } else { Err(rows) }
    });
    assert_eq!(walgate.get("/v1/sources").1["sources"][0]["sessions"]["console"], 1);
}

#[test]
fn a_real_database_of_that_name_and_replication_stay_reachable() {
    let server = server();
    Sql::connect(&server.dsn("postgres")).run("CREATE DATABASE walgate");
    let walgate = walgate(&server, &[]);
    for _ in 0..2 {
        let real = Sql::connect(&walgate.dsn("postgres", "walgate"));
        assert_eq!(real.value("SELECT current_database()"), "walgate");
    }
    assert_eq!(walgate.log().matches("database of the console's name").count(), 1, "{}", walgate.log());
    let replication = psql(&walgate, "dbname=walgate user=postgres replication=database", &["IDENTIFY_SYSTEM;"]);
    assert!(text(&replication).contains("systemid"));
}

#[test]
fn a_replication_connection_to_the_consoles_name_goes_to_the_source() {
    let server = server();
    let walgate = walgate(&server, &[]);
    let output = psql(&walgate, "dbname=walgate user=postgres replication=database", &["IDENTIFY_SYSTEM;"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("database \"walgate\" does not exist"), "{error}");
}

#[test]
fn the_console_can_be_renamed_and_switched_off() {
    let server = server();
    let renamed = walgate(&server, &["--console", "status"]);
    assert!(Sql::connect(&renamed.dsn("ops", "status")).value("SHOW VERSION").starts_with("walgate"));
    let error = Sql::try_connect(&renamed.dsn("postgres", "walgate")).err().expect("there is no such database");
    assert!(error.contains("does not exist"), "{error}");
    let off = walgate(&server, &["--console", "off"]);
    let error = Sql::try_connect(&off.dsn("postgres", "walgate")).err().expect("there is no such database");
    assert!(error.contains("does not exist"), "{error}");
}

#[test]
fn the_console_answers_while_the_source_cannot_be_reached_or_not_be_asked() {
    let port = free_port().expect("there is a free port");
    let upstream = format!("host=127.0.0.1 port={port} user=postgres password=hunter2");
    for arguments in [&[][..], &["--passive"]] {
        let walgate = Walgate::run(&upstream, arguments);
        let console = Sql::connect(&walgate.dsn("ops", "walgate"));
        let config = console.rows("SHOW CONFIG");
        assert!(config.contains(&vec![Some("source.main.password".into()), Some("***".into())]), "{config:?}");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(console.rows("SHOW LAG").is_empty());
        assert_eq!(console.rows("SHOW SOURCES").len(), 1);
    }
}

#[test]
fn an_auth_file_lets_in_those_who_know_their_password() {
    let server = server();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("userlist.txt");
    fs::write(&file, format!("; users\n\"ops\" \"{}\"\n", scram_sha_256(b"secret"))).expect("the file is written");
    let walgate = walgate(&server, &["--auth-file", file.to_str().expect("it is UTF-8")]);
    let log_in =
        |user: &str, password: &str| Sql::try_connect(&format!("{} password={password}", walgate.dsn(user, "walgate")));
    let console = log_in("ops", "secret").unwrap_or_else(|error| panic!("{error}"));
    assert!(console.value("SHOW VERSION").starts_with("walgate"));
    for (user, password) in [("ops", "wrong"), ("nobody", "secret")] {
        let error = log_in(user, password).err().expect("it is refused");
        assert!(error.contains("28P01") && error.contains("password authentication failed"), "{error}");
    }
    let with_password = |password: &str| {
        let dsn = format!("{} password={password}", walgate.dsn("ops", "walgate"));
        psql(&walgate, &dsn, &["SHOW VERSION;"]).status.success()
    };
    assert!(with_password("secret") && !with_password("Secret"), "libpq agrees");
}

#[test]
fn an_auth_file_with_a_plain_password_is_refused_at_the_start() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("userlist.txt");
    fs::write(&file, "\"ops\" \"hunter2\"\n").expect("the file is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
    command.args(["run", "--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--http", "off", "--auth-file"]);
    let output = command.arg(&file).output().expect("walgate runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(":1: ") && error.contains("SCRAM-SHA-256$"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn clients_from_elsewhere_are_refused_without_an_auth_file() {
    // Sends nothing: it only asks the system for the address that a way out would have.
    let way_out = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let address = match way_out {
        Ok(address) if !address.ip().is_loopback() && !address.ip().is_unspecified() => address.ip(),
        // The unit test of the rule has to do.
        _ => return,
    };
    let server = server();
    let port = free_port().expect("there is a free port");
    let walgate = Walgate::run_at(&server.dsn("postgres"), &format!("0.0.0.0:{port}"), &[]);
    let error = Sql::try_connect(&format!("host={address} port={port} user=ops dbname=walgate")).err();
    let error = error.expect("it is refused");
    assert!(error.contains("28000") && error.contains("auth_file"), "{error}");
    assert!(Sql::try_connect(&walgate.dsn("ops", "walgate")).is_ok());
}

#[tokio::test]
async fn many_consoles_at_once_are_all_answered() {
    let server = server();
    let walgate = walgate(&server, &[]);
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(session(&walgate.dsn("ops", "walgate")).await.expect("the console takes it"));
    }
    let answers = futures_util::future::join_all(clients.iter().map(|client| client.query("SHOW SESSIONS", &[]))).await;
    for answer in answers {
        assert!(answer.expect("it is answered").len() >= 200);
    }
}

#[test]
fn consoles_end_with_a_reason_when_walgate_drains() {
    let server = server();
    let mut walgate = walgate(&server, &[]);
    let mut client = raw(&walgate);
    assert!(walgate.end(Signal::Terminate).success());
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("it is closed in order");
    assert!(String::from_utf8_lossy(&rest).contains("57P01"));
}

#[test]
fn garbage_is_answered_with_an_error_and_harms_nobody() {
    let server = server();
    let walgate = walgate(&server, &[]);
    let other = Sql::connect(&walgate.dsn("ops", "walgate"));
    let garbage: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"Q\0\0\0\0",
        b"Q\xff\xff\xff\xff",
        b"Q\x7f\xff\xff\xff",
        b"P\0\0\0\x06a\0",
        b"B\0\0\0\x08\0\0\xff\xff",
        b"D\0\0\0\x06X\0",
        b"F\0\0\0\x04",
    ];
    for bytes in garbage {
        let mut client = raw(&walgate);
        client.write_all(bytes).expect("it is sent");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("it is closed in order");
        assert!(String::from_utf8_lossy(&answer).contains("08P01"), "{bytes:?}: {answer:?}");
    }
    assert!(other.value("SHOW VERSION").starts_with("walgate"));
    assert!(!walgate.log().contains("panicked"), "{}", walgate.log());
}

/// A console session of which the greeting was read.
fn raw(walgate: &Walgate) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", walgate.port())).expect("it connects");
    client.write_all(b"\0\0\0\x23\0\x03\0\0user\0ops\0database\0walgate\0\0").expect("it is sent");
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"Z\0\0\0\x05I") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("it is greeted");
        greeting.extend(byte);
    }
    client
}
