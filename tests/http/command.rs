//! `walgate gate …` as a client of the daemon, and receipts without one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use walgate::gate::{Asked, Case, Evidence, Kind, Limits, Phase, Receipt, ReceiptKey, ReceiptTerms, Settling, Terms};
use walgate::lsn::Lsn;
use walgate::time::PgTimestamp;

use crate::gates::{GATE, configuration};
use crate::support::certificates::Authority;
use crate::support::command::{answered, walgate};
use crate::support::daemon::{Walgate, free_address};
use crate::support::{Sql, eventually, postgres};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Runs `walgate gate …` with this as standard input: the exit status, and what it wrote.
#[track_caller]
fn gate_with(input: &str, environment: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let mut command = walgate(&["gate"]);
    let told = answered(command.args(arguments).envs(environment.iter().copied()), input);
    (told.status.expect("a status"), told.output + &told.errors)
}

#[track_caller]
fn gate(arguments: &[&str]) -> (i32, String) {
    gate_with("", &[], arguments)
}

#[track_caller]
fn assert_said((status, text): (i32, String), expected: i32, said: &str) {
    assert!(status == expected && text.contains(said), "{status}, not {expected}, or without {said:?}: {text}");
}

#[test]
fn each_outcome_has_its_exit_status() {
    let server = postgres(17).start().unwrap();
    let dsn = server.dsn("postgres");
    Sql::connect(&dsn).run("SELECT pg_create_logical_replication_slot('green_sub', 'pgoutput')");
    let walgate = Walgate::configured(&configuration("listen = \"HTTP\"", &dsn), "");
    walgate.ready();
    let url = format!("http://127.0.0.1:{}", walgate.http());
    let file = walgate.file().display().to_string();
    let environment = [("WALGATE_URL", &*url)];
    assert_said(gate(&["check", "blue-green", "--url", &url]), 1, "FAIL  cutover of blue-green: no fence stands");
    assert_said(gate(&["check", "blue-green", "-c", &file]), 1, "✗ fence ");
    assert_said(gate_with("", &environment, &["fence", "blue-green"]), 0, "A fence stands at ");
    assert_said(gate_with("", &environment, &["fence", "blue-green"]), 1, "a fence stands already, at 0/");
    assert_said(
        gate_with("", &environment, &["fence", "blue-green"]),
        1,
        "lift it first: walgate gate release blue-green",
    );
    // Nobody reads the slot, so it does not pass.
    assert_said(
        gate_with("", &environment, &["wait", "blue-green", "--phase", "preflight", "--timeout", "300ms"]),
        3,
        "",
    );
    let (status, text) =
        gate_with("", &environment, &["check", "blue-green", "--phase", "preflight", "--format", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &answer["phase"]), (3, &"preflight".into()), "{text}");
    let limits = ["--max-lag", "1GB", "--max-age", "1h 30s", "--target-lsn", "0/1"];
    assert_ne!(gate(&[&["check", "blue-green", "--url", &url][..], &limits].concat()).0, 2);
    assert_said(gate(&["release", "blue-green", "-c", &file]), 0, "The fence for the cutover of blue-green is lifted.");
    assert_said(gate(&["release", "blue-green", "-c", &file]), 1, "no fence stands");

    assert_said(gate(&["check", "nowhere", "--url", &url]), 2, "there is no gate \"nowhere\"; there is blue-green");
    assert_said(gate(&["release", "nowhere", "--url", &url]), 2, "there is no gate \"nowhere\"");
    assert_said(gate(&["check", "nowhere", "-c", &file]), 2, "there is no gate \"nowhere\"; there is blue-green");
    assert_said(gate(&["fence", "blue-green", "--url", &url, "--phase", "post"]), 2, "--phase post has no fence");
    for wrong in [
        &["check", "blue-green", "--phase", "cut"][..],
        &["check", "blue-green", "--max-lag", "16"],
        &["check", "blue-green", "--timeout", "0s"],
        &["check", "blue-green", "--url", "localhost"],
        &["check", "blue-green", "--url", &url, "-c", &file],
        &["check", "blue-green", "-c", "no/such"],
        &["check", "blue-green", "--token-file", "no/such"],
        &["check"],
    ] {
        assert_eq!(gate(wrong).0, 2, "{wrong:?}");
    }

    let nobody = format!("http://{}", free_address());
    assert_said(gate(&["check", "blue-green", "--url", &nobody]), 4, "does not answer: Connection refused");
    assert_said(gate(&["wait", "blue-green", "--url", &nobody, "--timeout", "200ms"]), 4, "does not answer");
    assert_said(gate(&["check", "blue-green", "--url", &format!("{url}/metrics")]), 2, "there is no /metrics/v1/gates");
}

#[test]
fn the_daemon_of_a_file_is_asked_by_its_certificate_and_token() {
    let authority = Authority::new("test");
    let identity = authority.sign(&["127.0.0.1"], "walgate");
    let write = |name: &str, text: &str| authority.file(name, text, 0o600).display().to_string();
    let root = authority.root();
    let chain = identity.certificate + &std::fs::read_to_string(&root).unwrap();
    let (certificate, key) = (write("http.crt", &chain), write("http.key", &identity.key));
    let token = write("token", "hunter2\n");
    let listen = free_address();
    let http =
        format!("listen = \"{listen}\"\ntoken_file = \"{token}\"\ntls_cert = \"{certificate}\"\ntls_key = \"{key}\"");
    let text = configuration(&http, "host=127.0.0.1 port=1 user=u");
    let file = write("walgate.toml", &text);
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_walgate"));
    let mut daemon = daemon.args(["run", "-c", &file]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let url = format!("https://{listen}");
    eventually("an answer", || match gate(&["check", "blue-green", "-c", &file]) {
        (1, text) if text.contains("no fence stands") => Ok(()),
        other => Err(other),
    });
    let trusting = [("SSL_CERT_FILE", &*root)];
    assert_said(
        gate_with("", &trusting, &["check", "blue-green", "--url", &url]),
        2,
        "set WALGATE_TOKEN, or give --token-file",
    );
    assert_said(gate_with("", &trusting, &["check", "blue-green", "--url", &url, "--token-file", &token]), 1, "FAIL");
    let shown = [trusting[0], ("WALGATE_TOKEN", "hunter2")];
    assert_said(gate_with("", &shown, &["check", "blue-green", "--url", &url]), 1, "FAIL");
    assert_said(gate(&["check", "blue-green", "--url", &url, "--token-file", &token]), 4, "does not answer");
    let off =
        write("off.toml", &format!("[http]\nlisten = \"off\"\n[[source]]\nname = \"blue\"\ndsn = \"host=h\"\n{GATE}"));
    assert_said(gate(&["check", "blue-green", "-c", &off]), 2, "http.listen is off");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// What answers with this status and body whatever it is asked.
fn parrot(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let lines = BufReader::new(stream.try_clone().expect("it can be shared")).lines();
            let _ = lines.map_while(Result::ok).find(|line| line.is_empty());
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close", body.len());
            let _ = write!(stream, "{head}\r\n\r\n{body}");
        }
    });
    url
}

/// An ingress that is always well, a cache that leaves out the query.
#[test]
fn only_an_answer_to_the_question_counts() {
    const PASS: &str =
        r#"{"gate":"blue-green","phase":"cutover","state":"pass","reason":"","checks":[],"receipt":null}"#;
    const FENCE: &str = r#"{"gate":"blue-green","phase":"cutover","target_lsn":"0/1"}"#;
    let pass = parrot("200 OK", PASS);
    assert_said(gate(&["check", "blue-green", "--url", &pass]), 0, "PASS");
    let other = "it speaks of the cutover of blue-green";
    assert_said(gate(&["check", "blue-green", "--url", &pass, "--phase", "rollback"]), 4, other);
    assert_said(gate(&["check", "green-blue", "--url", &pass]), 4, other);
    assert_said(gate(&["wait", "green-blue", "--url", &pass, "--timeout", "100ms"]), 4, other);
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mute = format!("http://{}", mute.local_addr().expect("an address"));
    assert_said(
        gate(&["check", "blue-green", "--url", &mute, "--timeout", "1ms"]),
        4,
        "does not answer: no answer in time",
    );
    let contradicts = "contradicts itself: 503 Service Unavailable and pass";
    assert_said(gate(&["check", "blue-green", "--url", &parrot("503 Service Unavailable", PASS)]), 4, contradicts);
    let set = parrot("201 Created", FENCE);
    assert_said(gate(&["fence", "blue-green", "--url", &set]), 0, "A fence stands at 0/1");
    for format in ["text", "json"] {
        let asked = ["fence", "blue-green", "--url", &set, "--phase", "rollback", "--format", format];
        assert_said(gate(&asked), 4, other);
        for body in ["", "{}", "<html>ok</html>"] {
            let ingress = parrot("200 OK", body);
            for asked in ["check", "fence", "release"] {
                let told = gate(&[asked, "blue-green", "--url", &ingress, "--format", format]);
                assert_said(told, 4, "what answers there is no walgate: it says 200 OK");
            }
        }
    }
}

fn receipt(ttl: Duration) -> Receipt {
    let terms = Terms {
        name: "blue-green".into(),
        source: "blue".into(),
        consumers: vec!["green_sub".parse().expect("a name")],
        kind: Kind::Slot,
        limits: Limits::default(),
        accept_unreplicated: Default::default(),
        accept_stopped_source: false,
        data: false,
        asks_replica: false,
        reverse: None,
    };
    let (evidence, settling) = (Evidence::default(), Settling::default());
    let asked = Asked { target_lsn: Some(Lsn(0x5A2_E4F8)), ..Asked::of(Phase::Cutover) };
    let case = Case {
        terms: &terms,
        asked,
        asked_at: None,
        named_at: None,
        evidence: &evidence,
        fence: None,
        settling: &settling,
        now: Instant::now(),
    };
    let key = ReceiptKey::new(KEY.as_bytes()).ok();
    Receipt::issue(&case, &ReceiptTerms { ttl, key }, PgTimestamp::now())
}

#[test]
fn a_receipt_is_checked_without_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (key, other, short) = (write("key", KEY), write("other", &KEY.replace('0', "1")), write("short", "0123"));
    let json = |receipt: &Receipt| serde_json::to_string(receipt).unwrap();
    let valid = json(&receipt(Duration::from_secs(600)));
    let file = write("receipt.json", &valid);
    let checked = |input: &str, more: &[&str]| {
        gate_with(input, &[], &[&["verify-receipt", "--key-file", &key][..], more].concat())
    };
    assert_said(checked(&valid, &[]), 0, "Valid: the cutover of blue-green passed at ");
    assert_said(checked(&valid, &["-", "--gate", "blue-green", "--phase", "cutover"]), 0, "0/5A2E4F8");
    assert_said(checked("", &[&file]), 0, "Valid");
    assert_said(checked(&format!("{{\"ok\":true,\"receipt\":{valid}}}"), &[]), 0, "Valid");

    assert_said(checked("{\"ok\":false,\"receipt\":null}", &[]), 1, "this holds no receipt");
    assert_said(checked(&valid.replace("green_sub", "blue_sub"), &[]), 1, "this receipt does not count: it is forged");
    assert_said(checked(&json(&receipt(Duration::from_micros(1))), &[]), 1, "expired");
    assert_said(checked(&json(&Receipt { hmac: None, ..receipt(Duration::from_secs(9)) }), &[]), 1, "not signed");
    assert_said(checked(&valid, &["--gate", "other"]), 1, "this receipt is of gate blue-green, not other");
    assert_said(checked(&valid, &["--phase", "post"]), 1, "this receipt is of the phase cutover, not post");
    for text in ["", "{}", "[]", "\u{1}", &valid.replace("\"nonce\"", "\"once\"")] {
        assert_said(checked(text, &[]), 1, "no receipt");
    }
    assert_said(
        gate_with(&valid, &[], &["verify-receipt", "--key-file", &other]),
        1,
        "forged, or signed with another key",
    );

    assert_said(gate_with(&valid, &[], &["verify-receipt", "--key-file", &short]), 2, "can be guessed");
    assert_said(gate(&["verify-receipt", "--key-file", "no/such"]), 2, "--key-file: no/such");
    assert_said(checked("", &["no/such"]), 2, "no/such");
    assert_said(gate(&["verify-receipt"]), 2, "--key-file");
}
