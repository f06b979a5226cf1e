//! `/v1/gates`: what is asked, how it is answered, and who may.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Request};
use walgate::scratch::Signal;

use crate::support::daemon::{Walgate, free_address};
use crate::support::{Sql, postgres};

/// A gate over a slot, as lines of a configuration.
pub(crate) const GATE: &str =
    "[[gate]]\nname = \"blue-green\"\nsource = \"blue\"\nconsumers = [\"green_sub\"]\ntarget.kind = \"slot\"\n";

/// A file with this under `[http]`, and one source with one gate.
pub(crate) fn configuration(http: &str, dsn: &str) -> String {
    format!("[http]\n{http}\n[[source]]\nname = \"blue\"\ndsn = \"{dsn}\"\n{GATE}")
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Asks a walgate, with or without a token.
#[track_caller]
pub(crate) fn send(walgate: &Walgate, method: &str, route: &str, token: Option<&str>, body: &str) -> Reply {
    let url = format!("http://127.0.0.1:{}{route}", walgate.http());
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60)));
    let agent: ureq::Agent = agent.http_status_as_error(false).allow_non_standard_methods(true).build().into();
    let mut request = Request::builder().method(method).uri(&url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answered = agent.run(request.body(body.to_owned()).expect("a request")).and_then(|mut response| {
        let text = response.body_mut().read_to_string()?;
        Ok(Reply { status: response.status().as_u16(), headers: response.headers().clone(), text })
    });
    answered.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// A source that nobody reaches.
fn unreachable() -> String {
    let address = free_address();
    let port = address.rsplit(':').next().unwrap_or_default();
    format!("host=127.0.0.1 port={port} user=walgate dbname=app")
}

#[test]
fn what_is_not_understood_is_refused() {
    let walgate = Walgate::configured(&configuration("listen = \"HTTP\"", &unreachable()), "");
    for (method, route, status, said) in [
        ("GET", "/v1/gates/nowhere/check", 404, "there is no gate \"nowhere\"; there is blue-green"),
        ("POST", "/v1/gates/nowhere/fence", 404, "there is blue-green"),
        ("GET", "/v1/gates/nowhere/receipt", 404, "there is blue-green"),
        ("GET", "/v1/gates/%FF/check", 400, "UTF-8"),
        ("GET", "/v1/gates/blue-green/check?phase=cut", 400, "phase: expected preflight, cutover, post or rollback"),
        ("GET", "/v1/gates/blue-green/check?phase=", 400, "phase: expected"),
        ("GET", "/v1/gates/blue-green/check?phase=post&phase=post", 400, "duplicate field `phase`"),
        ("GET", "/v1/gates/blue-green/check?maxlag=1MB", 400, "unknown field `maxlag`"),
        ("POST", "/v1/gates/blue-green/check?maxlag=1MB", 400, "unknown field `maxlag`"),
        ("GET", "/v1/gates/blue-green/check?max_lag=16", 400, "max_lag: expected a size like 16MB"),
        ("GET", "/v1/gates/blue-green/check?max_age=5", 400, "max_age: time unit needed"),
        ("GET", "/v1/gates/blue-green/check?wait=0s", 400, "wait: must be more than 0s"),
        ("GET", "/v1/gates/blue-green/check?wait=61min", 400, "wait: at most 1h"),
        (
            "GET",
            "/v1/gates/blue-green/check?phase=preflight&target_lsn=0/16",
            400,
            "target_lsn: only cutover and rollback",
        ),
        ("GET", "/v1/gates/blue-green/check?phase=post&target_lsn=0/16", 400, "target_lsn: only cutover and rollback"),
        ("GET", "/v1/gates/blue-green/check?phase=post&max_lag=1MB", 400, "max_lag: the phase post measures no lag"),
        ("POST", "/v1/gates/blue-green/check?phase=post&max_age=1s", 400, "max_age: the phase post measures no lag"),
        ("GET", "/v1/gates/blue-green/check?target_lsn=16", 400, "target_lsn: not an LSN"),
        ("GET", "/v1/gates/blue-green/check?target_lsn=0/0", 400, "target_lsn: 0/0 is no position"),
        ("GET", "/v1/gates/blue-green/check?status=503", 400, "status: only 200 can be asked for"),
        ("POST", "/v1/gates/blue-green/fence?phase=post", 400, "phase: expected cutover or rollback"),
        ("DELETE", "/v1/gates/blue-green/fence?phases=", 400, "unknown field `phases`"),
        ("GET", "/v1/gates/blue-green/receipt?phase=post", 400, "unknown field `phase`"),
        ("GET", "/v1/gates?gate=x", 400, "unknown field `gate`"),
        ("GET", "/v1/gates/blue-green", 404, "there is no /v1/gates/blue-green"),
        ("PUT", "/v1/gates/blue-green/fence", 405, "PUT does nothing here"),
        // These are understood, and there is nothing.
        ("GET", "/v1/gates/blue-green/receipt", 404, "has not passed since walgate started"),
        ("GET", "/v1/gates/blue-green/fence", 404, "no fence stands"),
        ("DELETE", "/v1/gates/blue-green/fence", 404, "no fence stands"),
        ("POST", "/v1/gates/blue-green/fence?phase=rollback", 409, "no way back"),
        ("POST", "/v1/gates/blue-green/fence", 503, "blue cannot be asked"),
    ] {
        let reply = send(&walgate, method, route, None, "");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{method} {route}: {}", reply.text);
        let problem = reply.json();
        assert_eq!((reply.status, &problem["status"]), (status, &status.into()), "{method} {route}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(said)), "{method} {route}: {problem}");
    }
}

#[test]
fn a_verdict_has_its_status_by_every_method() {
    let walgate = Walgate::configured(&configuration("listen = \"HTTP\"", &unreachable()), "");
    let route = "/v1/gates/blue-green/check?phase=preflight";
    let reply = send(&walgate, "GET", route, None, "");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{}", reply.text);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let members = [
        "{\"ok\":false,\"data\":{\"ok\":false},\"gate\":\"blue-green\",\"phase\":\"preflight\",\"state\":\"unknown\",\"reason\":",
        ",\"target_lsn\":null,\"checks\":[{\"id\":\"",
        "\"status\":\"unknown\",\"observed\":\"",
        "\"expected\":\"",
        "\"fix\":",
        "\"consumers\":[",
        "],\"observed_at\":\"",
        "\"receipt\":null}",
    ];
    let mut rest = &*reply.text;
    for member in members {
        let at = rest.find(member).unwrap_or_else(|| panic!("{member} is not in {rest}"));
        rest = &rest[at + member.len()..];
    }

    let posted = send(&walgate, "POST", route, None, "{\"name\":\"canary\",\"phase\":\"Progressing\"}");
    assert_eq!((posted.status, &posted.json()["state"]), (503, &"unknown".into()), "{}", posted.text);
    let head = send(&walgate, "HEAD", route, None, "");
    assert_eq!((head.status, head.header("retry-after"), &*head.text), (503, Some("1"), ""));
    let always = send(&walgate, "GET", &format!("{route}&status=200&wait=50ms"), None, "");
    assert_eq!((always.status, always.header("retry-after")), (200, None), "{}", always.text);
    assert_eq!(always.json()["data"]["ok"], false, "{}", always.text);
    // Without a fence a cutover fails, whatever else is unknown.
    let cutover = send(&walgate, "GET", "/v1/gates/blue-green/check", None, "");
    assert_eq!((cutover.status, &cutover.json()["phase"]), (409, &"cutover".into()), "{}", cutover.text);
}

#[test]
fn a_fence_is_set_once_writers_are_gone_and_is_told_everywhere() {
    let server = postgres(18).start().unwrap();
    let dsn = server.dsn("postgres");
    let (sql, writer) = (Sql::connect(&dsn), Sql::connect(&dsn));
    let listen = free_address();
    let text =
        configuration("listen = \"HTTP\"", &dsn).replace("[[gate]]", &format!("listen = \"{listen}\"\n[[gate]]"));
    let mut walgate = Walgate::configured(&text, &listen);
    walgate.ready();
    let mut stream = TcpStream::connect(("127.0.0.1", walgate.http())).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: walgate\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line == "content-type: text/event-stream"));
    let mut next = |kind: &str| -> Value {
        lines.by_ref().find(|line| *line == format!("event: {kind}")).expect("the event comes");
        let data = lines.next().unwrap();
        serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()
    };
    let fence = |method: &str| send(&walgate, method, "/v1/gates/blue-green/fence", None, "");

    writer.run("BEGIN; CREATE TABLE t ()");
    let pid: i64 = writer.value("SELECT pg_backend_pid()").parse().unwrap();
    let refused = fence("POST");
    let problem = refused.json();
    assert_eq!((refused.status, &problem["writers"][0]["pid"]), (409, &pid.into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("writes have not stopped"), "{problem}");
    writer.run("ROLLBACK");

    let set = fence("POST");
    assert_eq!((set.status, set.header("location")), (201, Some("/v1/gates/blue-green/fence")), "{}", set.text);
    let lsn = set.json()["target_lsn"].clone();
    assert_eq!(set.json()["phase"], "cutover");
    assert_eq!(sql.value(&format!("SELECT '{}' <= pg_current_wal_flush_lsn()", lsn.as_str().unwrap())), "t");
    assert_eq!(fence("GET").json()["target_lsn"], lsn);
    let again = fence("POST");
    assert_eq!((again.status, &again.json()["target_lsn"]), (409, &lsn), "{}", again.text);
    let event = next("fence");
    assert_eq!((&event["change"], &event["gate"], &event["target_lsn"]), (&"set".into(), &"blue-green".into(), &lsn));

    let asked = send(&walgate, "GET", "/v1/gates/blue-green/check", None, "").json();
    assert_eq!((&asked["target_lsn"], &asked["ok"]), (&lsn, &false.into()), "{asked}");
    let event = next("verdict");
    assert_eq!((&event["phase"], &event["from"]), (&"cutover".into(), &Value::Null), "{event}");
    assert!(event["to"].is_string() && event["reason"].is_string(), "{event}");
    let gates = walgate.get("/v1/gates").1;
    let gate = &gates["gates"][0];
    assert_eq!(
        (&gate["gate"], &gate["source"], &gate["target"]),
        (&"blue-green".into(), &"blue".into(), &"slot".into())
    );
    assert_eq!((&gate["fences"][0]["target_lsn"], gate["states"]["cutover"].is_string()), (&lsn, true), "{gates}");
    let metrics = walgate.get("/metrics").1;
    let metrics: Vec<&str> =
        metrics.as_str().unwrap().lines().filter(|line| line.starts_with("walgate_gate_state{")).collect();
    assert_eq!(metrics.len(), 4, "{metrics:?}");
    assert_eq!(metrics.iter().filter(|line| line.ends_with(" 1")).count(), 1, "{metrics:?}");
    let console = Sql::connect(&walgate.dsn("postgres", "walgate"));
    let rows = console.rows("SHOW GATES");
    assert!(rows.iter().any(|row| row.contains(&lsn.as_str().map(str::to_owned))), "{rows:?}");

    // What is read again and is about the same keeps it; of other slots it is another gate.
    walgate.configure(&text);
    assert_eq!(fence("GET").json()["target_lsn"], lsn);
    assert_eq!((fence("DELETE").status, fence("DELETE").status), (204, 404));
    assert_eq!(next("fence")["change"], "lifted");
    assert_eq!(walgate.get("/v1/gates").1["gates"][0]["fences"], Value::Array(Vec::new()));

    assert_eq!(fence("POST").status, 201);
    walgate.configure(&text.replace("target.kind", "max_lag = \"1MB\"\ntarget.kind"));
    assert_eq!(fence("GET").status, 200, "limits are not what it is about");
    walgate.configure(&text.replace("green_sub", "another"));
    let gone = fence("GET");
    assert!(gone.status == 404 && gone.text.contains("for other servers or slots"), "{}", gone.text);
    assert!(walgate.log().contains("its fence is forgotten gate=\"blue-green\" phase=cutover"), "{}", walgate.log());
    assert_eq!(fence("POST").status, 201);
    assert_eq!(walgate.end(Signal::Terminate).code(), Some(0));
    assert!(walgate.log().contains("so the fence is forgotten gate=\"blue-green\" phase=cutover"), "{}", walgate.log());
}

#[test]
fn without_a_token_nothing_is_changed_from_elsewhere() {
    let check = "/v1/gates/blue-green/check?phase=preflight";
    let fence = "/v1/gates/blue-green/fence";
    let walgate = Walgate::configured(&configuration("listen = \"ANYWHERE\"", &unreachable()), "");
    for (method, route, status) in
        [("POST", fence, 403), ("DELETE", fence, 403), ("GET", fence, 404), ("POST", check, 503), ("GET", check, 503)]
    {
        let reply = send(&walgate, method, route, None, "");
        assert_eq!(reply.status, status, "{method} {route}: {}", reply.text);
        assert!(
            status != 403 || reply.json()["detail"].as_str().unwrap().contains("http.token_file"),
            "{}",
            reply.text
        );
    }

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let http = format!("listen = \"ANYWHERE\"\ntoken_file = \"{}\"", file.display());
    let walgate = Walgate::configured(&configuration(&http, &unreachable()), "");
    for (method, route, status) in
        [("POST", fence, 503), ("DELETE", fence, 404), ("POST", check, 503), ("GET", "/v1/gates", 200)]
    {
        for token in [None, Some("hunter3")] {
            let reply = send(&walgate, method, route, token, "");
            assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer")), "{method} {route}");
            let said = if token.is_some() { "is not the one of http.token_file" } else { "this needs the header" };
            assert!(reply.text.contains(said), "{}", reply.text);
        }
        assert_eq!(send(&walgate, method, route, Some("hunter2"), "").status, status, "{method} {route}");
    }
    let url = format!("http://127.0.0.1:{}/v1/gates", walgate.http());
    let answered = ureq::get(&url).header("authorization", "bEARER hunter2").call();
    assert_eq!(answered.expect("an answer").status(), 200, "the scheme is spelled in any case");
}

#[test]
fn what_was_seen_before_a_fence_says_nothing_behind_it() {
    // It would give transaction ids.
    let server = postgres(18).setting("autovacuum", "off").start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run("SELECT pg_create_logical_replication_slot('green_sub', 'pgoutput')");
    let walgate = Walgate::configured(&configuration("listen = \"HTTP\"", &dsn), "");
    walgate.ready();
    for _ in 0..5 {
        let ask =
            |method: &str, route: &str| send(&walgate, method, &format!("/v1/gates/blue-green/{route}"), None, "");
        // Somebody who asks now and then, so that there is something from before.
        ask("GET", "check");
        assert_eq!(ask("POST", "fence").status, 201);
        let answer = ask("GET", "check?wait=1ms").json();
        let checks = answer["checks"].as_array().unwrap();
        let found = |id: &str| checks.iter().find(|check| check["id"] == id).unwrap();
        assert_ne!(found("fence")["status"], "fail", "{answer}");
        assert_eq!(found("stray-writes")["status"], "pass", "{answer}");
        ask("DELETE", "fence");
    }
}
