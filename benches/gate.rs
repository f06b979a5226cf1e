//! How soon a gate opens: from the moment when the last acknowledgement is sent to the answer of a request that is held for
//! it (`check?wait=`), by each way in which walgate can see that acknowledgement.
//!
//! `cargo bench --bench gate`. A real server, a walgate of its own process, and a consumer here that holds its
//! acknowledgement back until a request waits: each run writes a row, sets the fence, asks, and then acknowledges. When in a
//! round of walgate's that comes is left to chance.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use walgate::lsn::Lsn;
use walgate::scratch::{Server, free_port, obtain};
use walgate::source::dsn::SystemEnvironment;
use walgate::source::replication::Walsender;
use walgate::source::sql::SqlSession;
use walgate::source::{Connector, Dsn};
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{StatusUpdate, WalMessage};

const RUNS: usize = 300;
const WAYS: [&str; 3] = ["proxy", "slot", "poll"];

fn main() -> io::Result<()> {
    let server = Server::builder(obtain(18).map_err(io::Error::other)?).setting("autovacuum", "off");
    let server = server.start().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let sql = runtime.block_on(connector(&server.dsn("postgres")).sql()).map_err(io::Error::other)?;
    run(&runtime, &sql, "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")?;
    println!("\nfrom the last acknowledgement to the answer of a held request, {RUNS} runs each, in ms\n");
    println!("| observed by | median | p90 | p99 | most |\n|---|--:|--:|--:|--:|");
    for way in WAYS {
        run(&runtime, &sql, &format!("SELECT pg_create_logical_replication_slot('{way}', 'pgoutput')"))?;
        let gate = Gate::start(&server, way)?;
        let port = if way == "proxy" { gate.listen } else { server.port() };
        let consumer = Consumer::start(&runtime, server.dsn_via(port, "postgres"), way);
        let mut samples = (0..RUNS).map(|_| once(&runtime, &sql, &gate, &consumer)).collect::<io::Result<Vec<_>>>()?;
        samples.sort_by(f64::total_cmp);
        let part = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize];
        println!("| {way} | {:.1} | {:.1} | {:.1} | {:.1} |", part(0.5), part(0.9), part(0.99), part(1.0));
    }
    Ok(())
}

/// One cutover; milliseconds from the acknowledgement to the answer.
fn once(runtime: &Runtime, sql: &SqlSession, gate: &Gate, consumer: &Consumer) -> io::Result<f64> {
    run(runtime, sql, "INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")?;
    let fence = gate.ask("POST", "fence")?;
    let target = fence.split("\"target_lsn\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let target: Lsn = target.and_then(|lsn| lsn.parse().ok()).ok_or_else(|| io::Error::other(fence.clone()))?;
    consumer.has_heard(target);
    let answered = thread::scope(|scope| {
        let held = scope.spawn(|| {
            let answer = gate.ask("GET", "check?wait=30s")?;
            let answered = Instant::now();
            if answer.contains("\"state\":\"pass\"") { Ok(answered) } else { Err(io::Error::other(answer)) }
        });
        // Long enough for the request to be held, and never in step with walgate's rounds.
        let more = PgTimestamp::now().0.unsigned_abs() % 100_000;
        thread::sleep(Duration::from_micros(150_000 + more));
        let sent = consumer.acknowledge();
        let answered = held.join().expect("the request ends")?;
        Ok::<_, io::Error>(answered.duration_since(sent))
    })?;
    gate.ask("DELETE", "fence")?;
    Ok(answered.as_secs_f64() * 1e3)
}

/// A walgate with a gate over one slot; it ends with this value.
struct Gate {
    child: Child,
    listen: u16,
    http: u16,
    _directory: tempfile::TempDir,
}

impl Gate {
    fn start(server: &Server, way: &str) -> io::Result<Gate> {
        let directory = tempfile::tempdir()?;
        let [listen, http] = [free_port().map_err(io::Error::other)?, free_port().map_err(io::Error::other)?];
        let proxy = if way == "proxy" { format!("listen = \"127.0.0.1:{listen}\"") } else { String::new() };
        let file = directory.path().join("walgate.toml");
        std::fs::write(
            &file,
            format!(
                "[http]\nlisten = \"127.0.0.1:{http}\"\n\
                 [[source]]\nname = \"blue\"\ndsn = \"{}\"\nobserve = \"{way}\"\n{proxy}\n\
                 [[gate]]\nname = \"g\"\nsource = \"blue\"\nconsumers = [\"{way}\"]\ntarget.kind = \"slot\"\n",
                server.dsn("postgres")
            ),
        )?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
        let child = command.args(["run", "-c"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let gate = Gate { child, listen, http, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", http)).is_err() {
            assert!(Instant::now() < deadline, "walgate does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(gate)
    }

    /// One request; the whole answer.
    fn ask(&self, method: &str, what: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http))?;
        write!(stream, "{method} /v1/gates/g/{what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A consumer that acknowledges everything that it has been told when it is asked to, and nothing else.
struct Consumer {
    heard: watch::Receiver<Lsn>,
    acknowledge: mpsc::UnboundedSender<std::sync::mpsc::Sender<Instant>>,
}

impl Consumer {
    fn start(runtime: &Runtime, dsn: String, slot: &'static str) -> Consumer {
        let (tell, heard) = watch::channel(Lsn::INVALID);
        let (acknowledge, mut wanted) = mpsc::unbounded_channel::<std::sync::mpsc::Sender<Instant>>();
        runtime.spawn(async move {
            let session = connector(&dsn).replication(Walsender::Database).await.expect("a replication session");
            let options = [("proto_version", "1"), ("publication_names", "p")];
            let slot = slot.parse().expect("a slot's name");
            let mut stream = session.start_logical(&slot, Lsn::INVALID, &options).await.expect("it streams");
            loop {
                tokio::select! {
                    asked = wanted.recv() => {
                        let Some(asked) = asked else { return };
                        let position = *tell.borrow();
                        stream.queue_status(&StatusUpdate::all(position, PgTimestamp::now()));
                        let sent = Instant::now();
                        stream.flush().await.expect("it goes on");
                        let _ = asked.send(sent);
                    }
                    data = stream.next() => {
                        let data = data.expect("it goes on").expect("it goes on");
                        if let WalMessage::Keepalive(keepalive) = data.message().expect("it is known") {
                            tell.send_if_modified(|heard| {
                                let further = keepalive.wal_end > *heard;
                                *heard = (*heard).max(keepalive.wal_end);
                                further
                            });
                        }
                    }
                }
            }
        });
        Consumer { heard, acknowledge }
    }

    /// Waits until the server has told it that there is nothing left before a position.
    fn has_heard(&self, target: Lsn) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while *self.heard.borrow() < target {
            assert!(Instant::now() < deadline, "the server says nothing of {target}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Acknowledges; returns when.
    fn acknowledge(&self) -> Instant {
        let (tell, told) = std::sync::mpsc::channel();
        self.acknowledge.send(tell).expect("the consumer runs");
        told.recv().expect("the consumer runs")
    }
}

fn connector(dsn: &str) -> Connector {
    let dsn = Dsn::resolve(Some(dsn), &SystemEnvironment).expect("a connection string");
    Connector::new(dsn).expect("no certificates are needed")
}

fn run(runtime: &Runtime, sql: &SqlSession, statements: &str) -> io::Result<()> {
    runtime.block_on(sql.batch_execute(statements)).map_err(|error| io::Error::other(format!("{statements}: {error}")))
}
