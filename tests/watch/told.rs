//! Who is told when findings come and go: events, the log, metrics and the webhook; and what is not said.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;
use walgate::scratch::{Server, Signal};
use walgate::tls::ServerTls;

use crate::findings::{server, until};
use crate::support::certificates::Authority;
use crate::support::daemon::{Walgate, free_address};
use crate::support::{Sql, eventually};

/// Waits until the log has this many lines with all of these words.
#[track_caller]
fn logged(walgate: &Walgate, words: &[&str], times: usize) {
    eventually(&format!("{words:?} in the log"), || {
        let log = walgate.log();
        let lines = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        if lines.count() == times { Ok(()) } else { Err(log) }
    });
}

/// Waits until a metric with these labels has this value, or is not there.
#[track_caller]
fn metric(walgate: &Walgate, labels: &str, value: Option<&str>) {
    eventually(&format!("{labels} to be {value:?}"), || {
        let Value::String(text) = walgate.get("/metrics").1 else { return Err("no metrics".to_owned()) };
        let line = text.lines().find(|line| line.starts_with("walgate_") && line.contains(labels));
        let found = line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned);
        if found.as_deref() == value { Ok(()) } else { Err(text) }
    });
}

#[test]
fn what_appears_and_goes_is_an_event_a_line_and_a_figure() {
    let (server, sql) = server();
    sql.run("CREATE TABLE before (at timestamptz)");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    until(&walgate, "/v1/identity", "pg/no-identity", "public.before", true);
    logged(&walgate, &["WARN", "pg/no-identity", "public.before", "publication everything"], 1);
    let mut stream = TcpStream::connect(("127.0.0.1", walgate.http())).expect("it listens");
    stream.write_all(b"GET /v1/events?source=main HTTP/1.1\r\nHost: walgate\r\n\r\n").expect("it reads");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("it goes on"));
    assert_eq!(lines.next().as_deref(), Some("HTTP/1.1 200 OK"));
    assert!(lines.by_ref().any(|line| line.is_empty()));
    let mut next = || {
        assert!(lines.by_ref().any(|line| line == "event: finding"));
        let data = lines.next().expect("data follows");
        serde_json::from_str::<Value>(data.strip_prefix("data: ").expect("it is data")).expect("it is JSON")
    };

    metric(&walgate, r#"rule="pg/no-identity",severity="error""#, Some("1"));
    metric(&walgate, r#"rule="pg/identity-full",severity="warning""#, Some("0"));
    sql.run("CREATE TABLE orders (at timestamptz)");
    let event = next();
    assert_eq!(
        (&event["source"], &event["change"], &event["rule"], &event["severity"], &event["table"]),
        (&"main".into(), &"appeared".into(), &"pg/no-identity".into(), &"error".into(), &"public.orders".into())
    );
    assert!(event["fix"].is_string() && event["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{event}");
    logged(&walgate, &["WARN", "pg/no-identity", "public.orders", "fix="], 1);
    metric(&walgate, r#"rule="pg/no-identity",severity="error""#, Some("2"));

    sql.run("DROP TABLE orders");
    let event = next();
    assert_eq!((&event["change"], &event["table"]), (&"gone".into(), &"public.orders".into()));
    logged(&walgate, &["INFO", "pg/no-identity", "public.orders", "gone"], 1);
    // Once each, and nothing of what was there before.
    logged(&walgate, &["pg/no-identity"], 3);

    drop(server);
    metric(&walgate, "walgate_identity_findings{", None);
    let (status, problem) = walgate.get("/v1/identity");
    assert_eq!(status, 503, "{problem}");
    logged(&walgate, &["pg/no-identity"], 3);
}

#[test]
fn what_must_not_be_read_is_a_finding_and_what_is_known_does_not_go_with_it() {
    let (server, sql) = server();
    sql.run("CREATE ROLE watcher LOGIN; CREATE TABLE orders (at timestamptz)");
    let dsn = server.dsn("postgres").replace("user=postgres", "user=watcher");
    let walgate = Walgate::run(&dsn, &[]);
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", true);
    sql.run("REVOKE SELECT ON pg_catalog.pg_publication FROM PUBLIC");
    let answer = eventually("the finding", || match walgate.get("/v1/identity") {
        (200, answer) if answer["findings"][0]["rule"] == "pg/no-rights" => Ok(answer),
        other => Err(other),
    });
    assert_eq!(answer["findings"].as_array().map(Vec::len), Some(1), "{answer}");
    logged(&walgate, &["WARN", "pg/no-rights"], 1);
    metric(&walgate, r#"rule="pg/no-rights""#, Some("1"));
    metric(&walgate, r#"rule="pg/no-identity""#, None);
    sql.run("GRANT SELECT ON pg_catalog.pg_publication TO PUBLIC");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", true);
    logged(&walgate, &["INFO", "pg/no-rights", "gone"], 1);
    logged(&walgate, &["pg/no-identity"], 1);
}

#[test]
fn the_rules_and_the_webhook_change_with_the_file() {
    let (server, sql) = server();
    let (first, second) = (Hook::start(Answer::Status(200)), Hook::start(Answer::Status(200)));
    let address = free_address();
    let text = |hook: &Hook, more: &str| {
        format!(
            "[http]\nlisten = \"HTTP\"\n[webhook]\nurl = \"{}\"\n[[source]]\nname = \"main\"\ndsn = \"{}\"\n\
             listen = \"{address}\"\n{more}\n",
            hook.url,
            server.dsn("postgres")
        )
    };
    let walgate = Walgate::configured(&text(&first, ""), &address);
    until(&walgate, "/v1/identity", "", "", false);
    metric(&walgate, "rule=\"zero/", None);
    sql.run("CREATE TABLE orders (at timestamptz)");
    let post = first.next();
    let posted = post["text"].as_str().expect("Slack wants a text");
    assert!(posted.contains("1 new, 0 gone") && posted.contains("pg/no-identity public.orders"), "{posted}");
    assert_eq!((&post["source"], &post["appeared"][0]["table"]), (&"main".into(), &"public.orders".into()));
    assert!(post["appeared"][0]["fix"].is_string() && post["at"].is_string(), "{post}");

    walgate.configure(&text(&second, "for = [\"zero\"]"));
    eventually("zero-cache's rules", || match walgate.get("/metrics").1 {
        Value::String(text) if text.contains("rule=\"zero/") => Ok(()),
        other => Err(other),
    });
    sql.run("DROP TABLE orders");
    let post = eventually("the news", || {
        let post = second.next();
        if post["gone"].as_array().is_some_and(|gone| !gone.is_empty()) { Ok(post) } else { Err(post) }
    });
    let gone = post["gone"].as_array().expect("a list");
    assert!(gone.iter().any(|finding| finding["rule"] == "pg/no-identity"), "{post}");
    // What is not looked for any more has not gone.
    walgate.configure(&text(&second, ""));
    metric(&walgate, "rule=\"zero/", None);
    assert!(!walgate.log().contains("hunter2"), "{}", walgate.log());
    let console = Sql::connect(&walgate.dsn("ops", "walgate"));
    assert!(!format!("{:?}", console.rows("SHOW CONFIG")).contains("hunter2"));
}

#[test]
fn a_webhook_that_fails_is_tried_again() {
    let (server, sql) = server();
    let walgate = with_hook(&server, &sql, &Hook::start(Answer::Status(500)));
    logged(&walgate, &["WARN", "trying again", "host=\"127.0.0.1\"", "500"], 1);
    metric(&walgate, r#"walgate_errors_total{source="main",kind="webhook"}"#, Some("2"));
    assert!(!walgate.log().contains("hunter2"), "{}", walgate.log());
}

#[test]
fn a_webhook_that_is_not_there_is_not_tried_again() {
    let (server, sql) = server();
    let walgate = with_hook(&server, &sql, &Hook::start(Answer::Status(404)));
    logged(&walgate, &["ERROR", "the webhook was not told", "404"], 1);
    metric(&walgate, r#"walgate_errors_total{source="main",kind="webhook"}"#, Some("1"));
    assert!(!walgate.log().contains("hunter2"), "{}", walgate.log());
}

#[test]
fn a_webhook_that_hangs_holds_up_nothing() {
    let (server, sql) = server();
    let mut walgate = with_hook(&server, &sql, &Hook::start(Answer::Nothing));
    sql.run("DROP TABLE orders");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", false);
    logged(&walgate, &["WARN", "trying again", "no answer in time"], 1);
    // Not even the end.
    walgate.end(Signal::Terminate);
    assert!(!walgate.log().contains("hunter2"), "{}", walgate.log());
}

#[test]
fn a_webhook_over_https_must_show_a_certificate_that_the_system_trusts() {
    let (server, sql) = server();
    let authority = Authority::new("hooks");
    let identity = authority.sign(&["127.0.0.1"], "hook");
    let certificate = authority.file("hook.crt", &identity.certificate, 0o644);
    let key = authority.file("hook.key", &identity.key, 0o600);
    let tls = Arc::new(ServerTls::load(certificate, key, b"http/1.1").expect("a certificate"));
    let hook = Hook::start_with(Answer::Status(200), Some(tls));
    let text = configuration(&server, &hook);
    let trusting = Walgate::configured_trusting(&text, "", &authority.root());
    let distrustful = Walgate::configured(&text, "");
    for walgate in [&trusting, &distrustful] {
        until(walgate, "/v1/identity", "", "", false);
    }
    sql.run("CREATE TABLE orders (at timestamptz)");
    assert_eq!(hook.next()["appeared"][0]["table"], "public.orders");
    logged(&distrustful, &["WARN", "trying again", "UnknownIssuer"], 1);
    metric(&trusting, r#"kind="webhook""#, None);
}

/// Walgate that has told this webhook that a table appeared.
#[track_caller]
fn with_hook(server: &Server, sql: &Sql, hook: &Hook) -> Walgate {
    let walgate = Walgate::configured(&configuration(server, hook), "");
    until(&walgate, "/v1/identity", "", "", false);
    sql.run("CREATE TABLE orders (at timestamptz)");
    until(&walgate, "/v1/identity", "pg/no-identity", "public.orders", true);
    hook.next();
    walgate
}

fn configuration(server: &Server, hook: &Hook) -> String {
    format!(
        "[http]\nlisten = \"HTTP\"\n[webhook]\nurl = \"{}\"\n[[source]]\nname = \"main\"\ndsn = \"{}\"\n",
        hook.url,
        server.dsn("postgres")
    )
}

#[test]
fn a_storm_of_ddl_ends_in_what_is_there() {
    let (server, sql) = server();
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    until(&walgate, "/v1/identity", "", "", false);
    for round in 0..200 {
        sql.run(&format!("CREATE TABLE t{round} (at timestamptz)"));
        sql.run(&format!("ALTER TABLE t{round} REPLICA IDENTITY FULL; ALTER TABLE t{round} ADD COLUMN id int"));
        if round % 2 == 0 {
            sql.run(&format!("DROP TABLE t{round}"));
        }
    }
    sql.run("CREATE TABLE last (at timestamptz)");
    let answer = until(&walgate, "/v1/identity", "pg/no-identity", "public.last", true);
    assert_eq!(answer["tables"], 102, "100 that were left, the last one and the healthy one");
    let findings = answer["findings"].as_array().expect("a list");
    assert_eq!(findings.iter().filter(|finding| finding["rule"] == "pg/no-identity").count(), 1);
}

/// How a webhook's listener answers.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    Nothing,
}

/// A listener for a webhook.
struct Hook {
    url: String,
    posts: Receiver<Value>,
}

impl Hook {
    fn start(answer: Answer) -> Hook {
        Hook::start_with(answer, None)
    }

    /// One that speaks HTTPS.
    fn start_with(answer: Answer, tls: Option<Arc<ServerTls>>) -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/services/hunter2", listener.local_addr().expect("it is bound"));
        let (sender, posts) = channel();
        thread::spawn(move || {
            let mut unanswered = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.expect("a client");
                let mut stream: Box<dyn Stream> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => {
                        let tls = ServerConnection::new(tls.config()).expect("a connection");
                        Box::new(StreamOwned::new(tls, stream))
                    }
                };
                // A client that does not trust the listener sends nothing.
                let Ok(post) = read_post(&mut *stream) else { continue };
                if sender.send(post).is_err() {
                    return;
                }
                match answer {
                    Answer::Status(status) => {
                        let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
                        // It may be gone.
                        let _ = stream.write_all(answer.as_bytes());
                    }
                    Answer::Nothing => unanswered.push(stream),
                }
            }
        });
        Hook { url, posts }
    }

    /// The next post.
    #[track_caller]
    fn next(&self) -> Value {
        self.posts.recv_timeout(Duration::from_secs(60)).expect("it is told")
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

fn read_post(stream: &mut dyn Stream) -> io::Result<Value> {
    let mut reader = BufReader::new(stream);
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
