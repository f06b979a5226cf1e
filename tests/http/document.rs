//! `/openapi.json` against what answers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::gates::{configuration, send};
use crate::support::daemon::Walgate;
use crate::support::{Sql, eventually, postgres};

#[test]
fn the_document_has_every_method_of_every_route() {
    let walgate = Walgate::run("host=127.0.0.1 port=1 user=walgate", &[]);
    let (status, document) = walgate.get("/openapi.json");
    assert_eq!((status, &document["openapi"]), (200, &"3.1.0".into()));
    for (path, described) in document["paths"].as_object().unwrap() {
        let mut described: BTreeSet<String> =
            described.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        // Every GET answers it.
        described.insert("HEAD".into());
        let reply = send(&walgate, "PATCH", &path.replace("{gate}", "blue-green"), None, "");
        assert_eq!(reply.status, 405, "{path}: {}", reply.text);
        let allowed: BTreeSet<String> =
            reply.header("allow").unwrap_or_default().split(',').map(|method| method.trim().to_owned()).collect();
        assert_eq!(allowed, described, "{path}");
    }
    let license: &Value = &document["info"]["license"]["identifier"];
    assert_eq!(license, env!("CARGO_PKG_LICENSE"));
}

/// Thousands of questions, right and wrong, by Schemathesis: no answer is outside the document, none is a failure.
#[test]
#[ignore = "needs Schemathesis' st: .ci/run gets it"]
fn every_answer_is_as_the_document_says() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let sql = Sql::connect(&dsn);
    sql.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (note text); CREATE PUBLICATION p FOR ALL TABLES",
    );
    sql.run("SELECT pg_create_logical_replication_slot('green_sub', 'pgoutput')");
    let walgate = Walgate::configured(&configuration("listen = \"HTTP\"", &dsn), "");
    eventually("findings", || match walgate.get("/v1/identity") {
        (200, body) if body["findings"].as_array().is_some_and(|findings| !findings.is_empty()) => Ok(()),
        other => Err(other),
    });
    let directory = tempfile::tempdir().unwrap();
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/schemathesis.toml");
    let mut st = Command::new("st");
    st.current_dir(directory.path()).arg("--config-file").arg(settings).args(["run", "--max-examples", "20"]);
    st.arg(format!("http://127.0.0.1:{}/openapi.json", walgate.http()));
    let output = st.output().expect("st of Schemathesis is on the PATH");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
