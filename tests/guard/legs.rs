//! The guard between encrypted legs.

use walgate::source::replication::Walsender;
use walgate::source::{ConnectError, Failure};

use crate::support::certificates::Authority;
use crate::support::client::connector;
use crate::support::daemon::Walgate;
use crate::support::{Sql, postgres};

#[tokio::test]
async fn a_refusal_passes_every_combination_of_legs_and_the_session_goes_on() {
    let authority = Authority::new("ca");
    let server = postgres(17).tls(authority.server(&["db.test"], "db")).start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE bad (v text); CREATE PUBLICATION bad FOR TABLE bad");
    let identity = authority.sign(&["leg.test"], "leg");
    let file = |kind: &str, text: &str| authority.file(kind, text, 0o600).display().to_string();
    let (certificate, key) = (file("leg.crt", &identity.certificate), file("leg.key", &identity.key));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    for (upstream, arguments, client) in [
        ("sslmode=disable", &tls[..], "sslmode=require channel_binding=disable"),
        ("sslmode=require", &[], "sslmode=disable"),
        ("sslmode=require", &tls, "sslmode=require channel_binding=disable"),
    ] {
        let to = format!("host=127.0.0.1 port={} user=postgres dbname=postgres {upstream}", server.port());
        let walgate = Walgate::run(&to, &[&["--guard", "block"], arguments].concat());
        let dsn = format!("{} {client}", walgate.dsn("postgres", "postgres"));
        let mut session = connector(&dsn).replication(Walsender::Database).await.unwrap();
        match session.query("CREATE_REPLICATION_SLOT s LOGICAL pgoutput").await {
            Err(Failure::Server(error)) => assert_eq!(error.code, "WG001", "{upstream} | {client}"),
            other => panic!("{upstream} | {client}: {other:?}"),
        }
        let system = session.identify_system().await.map_err(ConnectError::from).unwrap();
        assert_eq!(system.database.as_deref(), Some("postgres"));
    }
}
