//! A source and a target, walgate with a gate between them, and what is asked of that gate.

use std::fmt;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use walgate::lsn::Lsn;
use walgate::scratch::{Builder, Server, Signal};

use crate::support::daemon::{Walgate, free_address};
use crate::support::{Sql, eventually, postgres};

/// The name of the gate in every scene.
pub(crate) const GATE: &str = "blue-green";

/// A server of this version on which nothing happens but what a test does.
pub(crate) fn quiet(major: u32) -> Builder {
    // Nor does the server write of itself where its slots' consumers could begin again.
    postgres(major).setting("autovacuum", "off").setting("bgwriter_delay", "10s")
}

/// Gives a server walgate's role, with the rights that the manual names.
pub(crate) fn add_role(server: &Server) {
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE ROLE walgate LOGIN REPLICATION; GRANT pg_monitor TO walgate");
}

/// Gives it what it must read in one database.
pub(crate) fn grant(sql: &Sql) {
    sql.run("GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO walgate");
    sql.run("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO walgate");
    sql.run("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON SEQUENCES TO walgate");
}

/// The connection string of walgate's role.
pub(crate) fn dsn(server: &Server, database: &str) -> String {
    server.dsn(database).replace("user=postgres", "user=walgate")
}

/// Two servers that many scenes share one after the other, each with a database of its own.
pub(crate) struct Pair {
    pub(crate) source: Server,
    pub(crate) target: Server,
}

impl Pair {
    /// Starts both.
    #[track_caller]
    pub(crate) fn start(source: u32, target: u32) -> Pair {
        Pair::of(quiet(source), quiet(target))
    }

    /// The same with settings.
    #[track_caller]
    pub(crate) fn of(source: Builder, target: Builder) -> Pair {
        let start = |builder: Builder| {
            let server = builder.start().expect("the server starts");
            add_role(&server);
            server
        };
        Pair { source: start(source), target: start(target) }
    }

    /// A database of this name on both, with the tables and publications of the usual story, and sessions with both.
    #[track_caller]
    pub(crate) fn databases(&self, name: &str) -> (Sql, Sql) {
        let make = |server: &Server| {
            Sql::connect(&server.dsn("postgres")).run(&format!("CREATE DATABASE {name}"));
            let sql = Sql::connect(&server.dsn(name));
            sql.run("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE SEQUENCE numbers");
            grant(&sql);
            sql
        };
        let (blue, green) = (make(&self.source), make(&self.target));
        blue.run("INSERT INTO orders VALUES (1, 'first'); CREATE PUBLICATION everything FOR TABLE orders");
        (blue, green)
    }
}

/// By which way walgate sees the source's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The subscription connects through walgate.
    Proxy,
    /// walgate reads a copy of its slot.
    Slot,
    /// Nobody decodes anything.
    Poll,
}

impl Way {
    pub(crate) const ALL: [Way; 3] = [Way::Proxy, Way::Slot, Way::Poll];

    /// As the configuration spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Way::Proxy => "proxy",
            Way::Slot => "slot",
            Way::Poll => "poll",
        }
    }
}

/// A gate that is kept by a walgate of its own, over the source `blue`.
pub(crate) struct Gate {
    pub(crate) walgate: Walgate,
    listen: String,
    text: String,
}

impl Gate {
    /// Starts walgate with a source of this connection string and a gate; `target` and what follows are lines of
    /// `[[gate]]`, of which the short settling time and the consumers may be overridden by none.
    #[track_caller]
    pub(crate) fn start(source: &str, way: Way, consumers: &[&str], target: &str) -> Gate {
        let listen = free_address();
        let proxy = if way == Way::Proxy { format!("listen = \"{listen}\"\n") } else { String::new() };
        let text = format!(
            "[http]\nlisten = \"HTTP\"\n\
             [[source]]\nname = \"blue\"\ndsn = \"{source}\"\n{proxy}observe = \"{}\"\n\
             [[gate]]\nname = \"{GATE}\"\nsource = \"blue\"\nconsumers = {consumers:?}\nsettle = \"100ms\"\n{target}\n",
            way.as_str()
        );
        Gate { walgate: Walgate::configured(&text, &listen), listen, text }
    }

    /// Ends walgate by SIGKILL and starts another in its place.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.walgate.end(Signal::Kill);
        self.walgate = Walgate::configured(&self.text, &self.listen);
    }

    /// Reads its file again, which says something else there.
    #[track_caller]
    pub(crate) fn configure(&mut self, before: &str, now: &str) {
        assert!(self.text.contains(before), "{}", self.text);
        self.text = self.text.replace(before, now);
        self.walgate.configure(&self.text);
    }

    /// Asks what is behind the gate's URL.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, route: &str) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}/v1/gates/{GATE}{route}", self.walgate.http());
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(90)));
        let agent: ureq::Agent = agent.http_status_as_error(false).allow_non_standard_methods(true).build().into();
        let request = ureq::http::Request::builder().method(method).uri(&url).body(()).expect("a request");
        let response = agent.run(request).and_then(|mut response| {
            let text = response.body_mut().read_to_string()?;
            Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
        });
        response.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    /// Asks for a phase, with more parameters.
    #[track_caller]
    pub(crate) fn ask(&self, phase: &str, parameters: &str) -> Answer {
        let (status, body) = self.send("GET", &format!("/check?phase={phase}{parameters}"));
        let expected = match body["state"].as_str() {
            Some("pass") => 200,
            Some("fail") => 409,
            Some("wait" | "unknown") => 503,
            _ => panic!("{status}: {body}"),
        };
        assert_eq!((status, body["ok"] == true), (expected, expected == 200), "{body}");
        assert_eq!(body["receipt"].is_object(), expected == 200, "a pass, and nothing else, has a receipt: {body}");
        Answer(body)
    }

    /// Asks for a cutover.
    #[track_caller]
    pub(crate) fn cutover(&self) -> Answer {
        self.ask("cutover", "")
    }

    /// Asks until the answer is this, for a reason that says so; on the way there it never passes.
    #[track_caller]
    pub(crate) fn until(&self, phase: &str, state: &str, said: &str) -> Answer {
        eventually(&format!("{phase} to be {state}: {said}"), || {
            let answer = self.ask(phase, "");
            if answer.is(state, said) {
                return Ok(answer);
            }
            assert!(state == "pass" || answer.state() != "pass", "it must be {state} ({said}), and is {answer}");
            Err(answer)
        })
    }

    /// The same where it may have passed until now: an answer may rest on what was seen half a second before the question.
    #[track_caller]
    pub(crate) fn turns(&self, phase: &str, state: &str, said: &str) -> Answer {
        eventually(&format!("{phase} to turn {state}: {said}"), || {
            let answer = self.ask(phase, "");
            if answer.is(state, said) { Ok(answer) } else { Err(answer) }
        })
    }

    /// Asks until a check is in this state and says this; with that check in the way, the phase never passes.
    #[track_caller]
    pub(crate) fn check_until(&self, phase: &str, check: &str, state: &str, said: &str) -> Answer {
        eventually(&format!("{check} of {phase} to be {state}: {said}"), || {
            let answer = self.ask(phase, "");
            let is = answer.check(check);
            if is["status"] == state && answer.said(check).contains(said) {
                return Ok(answer);
            }
            assert!(state == "pass" || answer.state() != "pass", "{check} must be {state} ({said}), and is {answer}");
            Err(answer)
        })
    }

    /// Sets the fence; returns T.
    #[track_caller]
    pub(crate) fn fence(&self) -> Lsn {
        let (status, body) = self.send("POST", "/fence");
        assert_eq!(status, 201, "{body}");
        body["target_lsn"].as_str().and_then(|lsn| lsn.parse().ok()).unwrap_or_else(|| panic!("no position: {body}"))
    }

    /// Sets it where that is refused; returns why.
    #[track_caller]
    pub(crate) fn refused_fence(&self) -> String {
        let (status, body) = self.send("POST", "/fence");
        assert_eq!(status, 409, "{body}");
        body["detail"].as_str().unwrap_or_else(|| panic!("no detail: {body}")).to_owned()
    }

    /// Lifts the fence.
    #[track_caller]
    pub(crate) fn release(&self) {
        let (status, body) = self.send("DELETE", "/fence");
        assert_eq!(status, 204, "{body}");
    }

    /// Runs `walgate gate …` against it.
    #[track_caller]
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let url = format!("http://127.0.0.1:{}", self.walgate.http());
        let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
        command.arg("gate").args(arguments).args(["--url", &url]);
        command.output().expect("walgate starts")
    }
}

/// What a gate answers.
#[derive(Clone)]
pub(crate) struct Answer(pub(crate) Value);

impl Answer {
    pub(crate) fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or_default()
    }

    pub(crate) fn reason(&self) -> &str {
        self.0["reason"].as_str().unwrap_or_default()
    }

    /// Whether it is in this state for a reason that says this.
    pub(crate) fn is(&self, state: &str, said: &str) -> bool {
        self.state() == state && self.reason().contains(said)
    }

    /// One of its checks.
    #[track_caller]
    pub(crate) fn check(&self, id: &str) -> &Value {
        let checks = self.0["checks"].as_array().into_iter().flatten();
        checks.into_iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no check {id}: {self}"))
    }

    /// What a check has seen.
    #[track_caller]
    pub(crate) fn said(&self, check: &str) -> &str {
        self.check(check)["observed"].as_str().unwrap_or_default()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.state(), self.reason())?;
        for check in self.0["checks"].as_array().into_iter().flatten() {
            let word = |name: &str| check[name].as_str().unwrap_or_default();
            write!(f, "\n  {:12} {:8} {}", word("id"), word("status"), word("observed"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
