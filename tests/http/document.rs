//! `/openapi.json` against the routes that answer. That what they answer is as it says, `.ci/run` looks at.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::gates::send;
use crate::support::daemon::Walgate;

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
