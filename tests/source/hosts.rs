//! Where to connect to: dead, silent and several hosts, and Unix-domain sockets.

use std::net::TcpListener;
use std::time::Duration;

use walgate::scratch::free_port;
use walgate::source::dsn::Target;

use super::support::client::{ask, connector};
use super::support::{postgres, session};

const PORT: &str = "SELECT current_setting('port')";

#[tokio::test]
async fn a_dead_server_a_wrong_name_and_silence_are_told_apart() {
    let dead = free_port().unwrap();
    let error = connector(&format!("host=127.0.0.1 port={dead} user=u")).open().await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), ("refused", true));
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{dead}: connection refused")), "{error}");

    let error = connector("host=no-such-host.invalid user=u").open().await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), ("dns", true));

    let error = connector("host=/nonexistent user=u").sql().await.unwrap_err();
    assert_eq!(error.kind(), "refused");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for mode in ["disable", "require"] {
        let dsn = format!("host=127.0.0.1 port={port} user=u connect_timeout=1 sslmode={mode}");
        let error = connector(&dsn).sql().await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), ("timeout", true));
        assert!(error.to_string().contains("no answer within 1s"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hangs_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = connector(&format!("host=127.0.0.1 port={port} user=u sslmode=disable")).sql().await.unwrap_err();
    hangs_up.join().unwrap();
    assert_eq!((error.kind(), error.is_transient()), ("closed", true), "{error}");
}

#[tokio::test]
async fn unix_sockets_are_found_by_their_directory() {
    let server = postgres(14).start().unwrap();
    assert_eq!(ask(&server.socket_dsn("postgres"), PORT).await.unwrap(), server.port().to_string());
    let directory = server.socket_directory().display().to_string().replace('/', "%2F");
    let uri = format!("postgresql://postgres@{directory}:{}/postgres", server.port());
    assert_eq!(ask(&uri, PORT).await.unwrap(), server.port().to_string());
    let bare = connector(&uri).open().await.unwrap();
    assert!(bare.stream.tcp().is_none() && bare.address.is_none());
}

#[tokio::test]
async fn the_first_host_that_answers_is_taken() {
    let server = postgres(18).start().unwrap();
    let (port, dead) = (server.port(), free_port().unwrap());
    let dsn =
        format!("host=127.0.0.1,no-such-host.invalid,localhost port={dead},1,{port} user=postgres dbname=postgres");
    assert_eq!(ask(&dsn, PORT).await.unwrap(), port.to_string());
    let bare = connector(&dsn).open().await.unwrap();
    assert_eq!(bare.host.target, Target::Name("localhost".into()));
    let address = bare.address.unwrap();
    assert!(address.ip().is_loopback() && address.port() == port);
    assert!(bare.stream.tcp().unwrap().nodelay().unwrap());

    let several = connector(&dsn);
    assert_eq!(several.open_host(&several.dsn().hosts()[0]).await.unwrap_err().kind(), "refused");
    several.open_host(&several.dsn().hosts()[2]).await.unwrap();

    // Refused by one that is up, the others are not asked: the same role would be tried again and again.
    for mode in ["disable", "prefer"] {
        let dsn = format!("host=127.0.0.1,127.0.0.1 port={port},{port} user=nobody dbname=postgres sslmode={mode}");
        let error = connector(&dsn).sql().await.unwrap_err();
        assert_eq!(error.to_string().matches("does not exist").count(), 1, "{error}");
    }
}

#[tokio::test]
async fn target_session_attrs_finds_the_right_one_of_several() {
    let mut primary = postgres(16).start().unwrap();
    let standby = primary.standby(&format!("host=127.0.0.1 port={} user=postgres", primary.port())).unwrap();
    let (up, down) = (primary.port().to_string(), standby.port().to_string());
    let read_only = "options='-c default_transaction_read_only=on'";
    for (ports, attrs, more, expected) in [
        (format!("{down},{up}"), "any", "", Ok(&down)),
        (format!("{down},{up}"), "read-write", "", Ok(&up)),
        (format!("{down},{up}"), "primary", "", Ok(&up)),
        (format!("{up},{down}"), "read-only", "", Ok(&down)),
        (format!("{up},{down}"), "standby", "", Ok(&down)),
        (format!("{up},{down}"), "prefer-standby", "", Ok(&down)),
        (format!("{up},{up}"), "prefer-standby", "", Ok(&up)),
        (format!("{up},{down}"), "read-only", read_only, Ok(&up)),
        (format!("{up},{down}"), "read-write", read_only, Err("the server is read-only")),
        (format!("{down},{down}"), "primary", "", Err("the server is a standby")),
        (format!("{up},{up}"), "standby", "", Err("the server is a primary")),
    ] {
        let dsn = format!(
            "host=127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres target_session_attrs={attrs} {more}"
        );
        match (ask(&dsn, PORT).await, expected) {
            (Ok(port), Ok(expected)) => assert_eq!(&port, expected, "{attrs}"),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{attrs}: {error}");
                assert_eq!((error.kind(), error.is_transient()), ("session_attrs", true));
            }
            (seen, _) => panic!("{attrs} of {ports}: {seen:?}"),
        }
    }
}

#[tokio::test]
async fn keepalives_reach_the_socket() {
    let server = postgres(18).start().unwrap();
    let dsn = format!("{} keepalives_idle=77 keepalives_interval=7 tcp_user_timeout=4321", server.dsn("postgres"));
    let bare = connector(&dsn).open().await.unwrap();
    let socket = socket2::SockRef::from(bare.stream.tcp().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(4321)));
    let off = connector(&format!("{} keepalives=0", server.dsn("postgres"))).open().await.unwrap();
    assert!(!socket2::SockRef::from(off.stream.tcp().unwrap()).keepalive().unwrap());
}

#[tokio::test]
async fn dropping_an_sql_session_ends_it_on_the_server() {
    let server = postgres(18).start().unwrap();
    let watcher = session(&server.dsn("postgres")).await.unwrap();
    let watched = connector(&format!("{} application_name=watched", server.dsn("postgres"))).sql().await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'watched'";
    assert_eq!(watcher.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    drop(watched);
    while watcher.query_one(count, &[]).await.unwrap().get::<_, i64>(0) != 0 {
        tokio::task::yield_now().await;
    }
}
