//! Passwords and the rest of `pg_hba.conf`.

use walgate::scratch::{Server, Tls};
use walgate::source::Failure;
use walgate::source::replication::Walsender;

use super::support::certificates::Authority;
use super::support::client::{ask, connector};
use super::support::postgres;

const METHODS: [&str; 4] = ["trust", "password", "md5", "scram"];

/// A server with TLS that knows a role for each method, all with the password `it's s3cret`.
async fn server(major: u32) -> Server {
    server_with(major, Authority::new("ca").server(&["localhost", "127.0.0.1"], "db")).await
}

async fn server_with(major: u32, tls: Tls) -> Server {
    let mut builder = postgres(major).tls(tls);
    for method in METHODS {
        let written = if method == "scram" { "scram-sha-256" } else { method };
        for database in ["all", "replication"] {
            builder = builder.access(&format!("host {database} {method}_user 127.0.0.1/32 {written}"));
        }
    }
    let server = builder.start().expect("the server starts");
    let admin = connector(&server.dsn("postgres")).sql().await.expect("the superuser is let in");
    for method in METHODS {
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        let sql = format!(
            "SET password_encryption = '{encryption}'; \
             CREATE ROLE {method}_user LOGIN REPLICATION PASSWORD 'it''s s3cret'"
        );
        admin.batch_execute(&sql).await.expect("the role can be made");
    }
    server
}

fn dsn(server: &Server, user: &str, more: &str) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres user={user} {more}", server.port())
}

const PASSWORD: &str = r"password='it\'s s3cret'";

#[tokio::test]
async fn every_method_logs_in_to_sql_and_to_replication_with_and_without_tls() {
    for major in [14, 18] {
        let server = server(major).await;
        for method in METHODS {
            for tls in ["sslmode=disable", "sslmode=require"] {
                let dsn = dsn(&server, &format!("{method}_user"), &format!("{PASSWORD} {tls}"));
                assert_eq!(ask(&dsn, "SELECT current_user::text").await.unwrap(), format!("{method}_user"));
                for walsender in [Walsender::Database, Walsender::Cluster] {
                    let mut session = connector(&dsn).replication(walsender).await.unwrap();
                    let identity = session.identify_system().await.unwrap();
                    let database = (walsender == Walsender::Database).then(|| "postgres".to_owned());
                    assert_eq!(identity.database, database);
                    assert_eq!(session.server_major(), Some(major));
                    session.close().await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn scram_binds_the_tls_channel_when_it_can() {
    let server = server(17).await;
    let scram = |more: &str| dsn(&server, "scram_user", &format!("{PASSWORD} {more}"));
    for more in [
        "sslmode=require channel_binding=require",
        "sslmode=require channel_binding=require sslnegotiation=direct",
        "sslmode=require channel_binding=require ssl_max_protocol_version=TLSv1.2",
        "sslmode=require channel_binding=disable",
        "sslmode=require channel_binding=prefer",
    ] {
        assert_eq!(ask(&scram(more), "SELECT current_user::text").await.unwrap(), "scram_user", "{more}");
    }
    for (user, more) in [
        ("scram_user", "sslmode=disable channel_binding=require"),
        ("md5_user", "sslmode=require channel_binding=require"),
        ("password_user", "sslmode=require channel_binding=require"),
        ("trust_user", "sslmode=require channel_binding=require"),
    ] {
        let error = connector(&dsn(&server, user, &format!("{PASSWORD} {more}"))).sql().await.unwrap_err();
        assert!(error.to_string().contains("channel_binding=require"), "{user}: {error}");
        assert_eq!(error.kind(), "auth");
    }
}

/// The server hashes its certificate too, and lets nobody in whose hash differs. The two from files were made by
/// `openssl req -new -x509 -key KEY -subj /CN=db.test -days 36500`, one with `-sha384 -sigopt rsa_padding_mode:pss`.
#[tokio::test]
async fn the_hash_that_binds_is_that_of_the_certificates_signature() {
    let sign = |algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem();
        Tls { certificate, key: key.serialize_pem(), client_roots: None }
    };
    let made = |certificate: &str, key: &str| Tls {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        client_roots: None,
    };
    for (tls, bound) in [
        (sign(&rcgen::PKCS_ECDSA_P256_SHA256), true),
        (sign(&rcgen::PKCS_ECDSA_P384_SHA384), true),
        (made(include_str!("files/rsa-pss.crt"), include_str!("files/rsa-pss.key")), true),
        // Its signature names no hash function: nothing to bind with, on either side.
        (made(include_str!("files/ed25519.crt"), include_str!("files/ed25519.key")), false),
    ] {
        let server = server_with(18, tls).await;
        let scram = |binding: &str| {
            let more = format!("{PASSWORD} sslmode=require channel_binding={binding}");
            connector(&dsn(&server, "scram_user", &more))
        };
        scram("prefer").sql().await.unwrap();
        match (scram("require").sql().await, bound) {
            (Ok(_), true) => {}
            (Err(error), false) => assert_eq!(error.kind(), "auth", "{error}"),
            (seen, _) => panic!("{seen:?}"),
        }
    }
}

#[tokio::test]
async fn require_auth_refuses_other_methods_before_a_password_is_sent() {
    let server = server(16).await;
    for (method, allowed, refused) in [
        ("trust", "none", "!none"),
        ("password", "password,scram-sha-256", "scram-sha-256"),
        ("md5", "!password", "password,scram-sha-256,none"),
        ("scram", "scram-sha-256", "md5"),
    ] {
        let with = |rule: &str| dsn(&server, &format!("{method}_user"), &format!("{PASSWORD} require_auth={rule}"));
        ask(&with(allowed), "SELECT current_user::text").await.unwrap();
        let error = connector(&with(refused)).replication(Walsender::Database).await.unwrap_err();
        assert!(matches!(error.failure(), Some(Failure::Auth(_))), "{error}");
        assert!(error.to_string().contains("require_auth does not allow"), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_told_without_showing_it() {
    let server = server(18).await;
    for method in ["password", "md5", "scram"] {
        let user = format!("{method}_user");
        for more in ["sslmode=disable", "sslmode=prefer", "sslmode=require"] {
            let wrong = connector(&dsn(&server, &user, &format!("password=hunter2 {more}")));
            let error = wrong.sql().await.unwrap_err();
            let reported = error.server_error().unwrap();
            assert_eq!((reported.severity.as_str(), reported.code.as_str()), ("FATAL", "28P01"));
            assert_eq!(reported.message, format!("password authentication failed for user \"{user}\""));
            assert_eq!((error.kind(), error.is_transient()), ("auth", false));
            assert!(!format!("{error} {error:?} {wrong:?}").contains("hunter2"));
        }
        let error = connector(&dsn(&server, &user, "")).sql().await.unwrap_err();
        assert!(error.to_string().contains("set PGPASSWORD"), "{error}");
    }
}

#[tokio::test]
async fn the_servers_refusal_keeps_its_code_and_text() {
    let server = server(15).await;
    let error = connector(&dsn(&server, "trust_user", "dbname=nowhere")).sql().await.unwrap_err();
    assert_eq!(error.server_error().map(|error| error.code.as_str()), Some("3D000"));
    assert!(error.to_string().contains("database \"nowhere\" does not exist (SQLSTATE 3D000)"), "{error}");
    assert_eq!((error.kind(), error.is_transient()), ("server", false));
}

#[tokio::test]
async fn options_and_names_reach_the_server() {
    let server = postgres(18).start().unwrap();
    let dsn = format!(
        "{} options='-c my.setting=a\\\\ b -c work_mem=123kB' application_name='my app'",
        server.dsn("postgres")
    );
    assert_eq!(
        ask(&dsn, "SELECT current_setting('my.setting') || current_setting('application_name')").await.unwrap(),
        "a bmy app"
    );
    let mut session = connector(&dsn).replication(Walsender::Database).await.unwrap();
    assert_eq!(session.show("work_mem").await.unwrap(), "123kB");
    assert_eq!(session.parameter("application_name"), Some("my app"));
}
