//! The proxy beside a direct connection and an HAProxy TCP relay, in one run: throughput, CPU, latency, memory.
//!
//! `cargo bench --bench relay`. A synthetic walsender and its client are threads of this program; walgate and HAProxy are
//! processes of their own, whose CPU time and memory are read from `/proc`. The streams are recorded ones (`proto-fixtures/bench`):
//! pgbench's own transactions, whose frames are about the smallest there are, and rows of 20 columns with jsonb. They are
//! repeated with LSNs that go on, and acknowledged once per repetition. The
//! ways are measured in turn, several rounds of them, and the median of each is shown. HAProxy runs with its defaults; where it
//! is not installed its lines are missing, loudly. The last part does the same with real servers and a subscription.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use walgate::lag::{Observe, SourceLag};
use walgate::scratch::{Server, free_port, obtain};

const ROUNDS: usize = 5;
const STREAM_TIME: Duration = Duration::from_secs(3);
const FRAMES_PER_SECOND: u32 = 5_000;
const IDLE_SESSIONS: usize = 1_000;
const GIBIBYTE: usize = 1 << 30;

fn main() -> io::Result<()> {
    let recording = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("proto-fixtures/bench/{name}.bin"));
        fs::read(file).map(Recording::new)
    };
    let (pgbench, wide) = (recording("pgbench_text")?, recording("wide_text")?);
    tap_alone("pgbench", &pgbench);
    tap_alone("wide rows", &wide);
    let ways = ways();
    throughput("pgbench", &ways, &pgbench)?;
    throughput("wide rows", &ways, &wide)?;
    latency(&ways)?;
    memory(&ways, &pgbench)?;
    subscription()
}

/// A way from the client to the walsender.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Haproxy,
    Untapped,
    Tapped,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Haproxy => "HAProxy, TCP mode",
            Way::Untapped => "walgate, tap off",
            Way::Tapped => "walgate, tap on",
        }
    }
}

fn ways() -> Vec<Way> {
    let mut ways = vec![Way::Direct, Way::Haproxy, Way::Untapped, Way::Tapped];
    match Command::new("haproxy").arg("-v").output() {
        Ok(version) => println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default()),
        Err(error) => {
            eprintln!(
                "!!! HAProxy cannot be run ({error}): ITS LINES ARE MISSING, and so is every ratio to it. Install haproxy."
            );
            ways.retain(|way| *way != Way::Haproxy);
        }
    }
    ways
}

/// A process in the middle, ended with this value.
struct Relay {
    child: Option<Child>,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Relay {
    fn start(way: Way, walsender: u16) -> io::Result<Relay> {
        let directory = tempfile::tempdir()?;
        let port = if way == Way::Direct { walsender } else { free_port().map_err(io::Error::other)? };
        let mut command = match way {
            Way::Direct => return Ok(Relay { child: None, port, _directory: directory }),
            Way::Haproxy => {
                let file = directory.path().join("haproxy.cfg");
                let config = format!(
                    "defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n\
                     listen walsender\n bind 127.0.0.1:{port}\n server one 127.0.0.1:{walsender}\n"
                );
                fs::write(&file, config)?;
                let mut command = Command::new("haproxy");
                command.arg("-f").arg(file);
                command
            }
            Way::Untapped | Way::Tapped => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
                let upstream = format!("host=127.0.0.1 port={walsender} sslmode=disable");
                command.args(["run", "--passive", "--http", "off", "--upstream", &upstream]);
                command.args(["--listen", &format!("127.0.0.1:{port}")]);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let relay = Relay { child: Some(child), port, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{} does not listen", way.name());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(relay)
    }

    /// User and system time so far.
    fn cpu(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(f64::NAN);
        // Linux counts in hundredths of a second here on every architecture (USER_HZ).
        (ticks(11) + ticks(12)) / 100.0
    }

    /// A line of `/proc/…/status`, in KiB.
    fn memory(&self, line: &str) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_default();
        found.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(f64::NAN)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A recorded stream that can be sent again and again.
#[derive(Clone)]
struct Recording {
    bytes: Vec<u8>,
    /// Where the LSNs of Begin and Commit messages are, and what each was.
    lsns: Vec<(usize, u64)>,
    /// Beyond the last of them.
    end: u64,
    frames: usize,
}

impl Recording {
    fn new(bytes: Vec<u8>) -> Recording {
        let (mut lsns, mut at, mut frames) = (Vec::new(), 0, 0);
        while at + 31 <= bytes.len() {
            let len = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().expect("four bytes")) as usize + 1;
            if bytes[at + 5] == b'w' {
                let fields: &[usize] = match bytes[at + 30] {
                    b'B' => &[31],
                    b'C' => &[32, 40],
                    _ => &[],
                };
                lsns.extend(fields.iter().map(|field| at + field));
            }
            at += len;
            frames += 1;
        }
        let read = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let lsns: Vec<_> = lsns.into_iter().map(|at| (at, read(at))).collect();
        let end = lsns.iter().map(|(_, lsn)| lsn + 1).max().expect("a transaction");
        Recording { bytes, lsns, end, frames }
    }

    /// The mean length of a frame.
    fn frame(&self) -> usize {
        self.bytes.len() / self.frames
    }

    /// Moves all LSNs behind those of the repetitions before.
    fn repetition(&mut self, number: u64) {
        for (at, lsn) in &self.lsns {
            self.bytes[*at..at + 8].copy_from_slice(&(lsn + number * self.end).to_be_bytes());
        }
    }

    /// The acknowledgement of a repetition.
    fn ack(&self, number: u64) -> Vec<u8> {
        let position = ((number + 1) * self.end).to_be_bytes();
        message(b'd', &[&b"r"[..], &position, &position, &position, &[0; 8], &[0]].concat())
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn insert(payload: &[u8]) -> Vec<u8> {
    message(
        b'd',
        &[&[b'w'][..], &[0; 24], b"I\0\0\0\x07N\0\x01t", &(payload.len() as u32).to_be_bytes(), payload].concat(),
    )
}

/// Opens a session through a relay: the client's end and the walsender's, in the middle of a stream where it is tapped.
fn session(way: Way, walsender: &TcpListener, port: u16) -> io::Result<(TcpStream, TcpStream)> {
    let replication = if way == Way::Untapped { "" } else { "replication\0database\0" };
    let parameters = format!("\0\x03\0\0user\0u\0{replication}\0");
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_nodelay(true)?;
    client.write_all(&[&(parameters.len() as u32 + 4).to_be_bytes(), parameters.as_bytes()].concat())?;
    let query = message(b'Q', b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')\0");
    client.write_all(&query)?;
    let mut asked = vec![0; parameters.len() + 4 + query.len()];
    // What only looked whether the relay listens has reached the walsender too, through HAProxy.
    let mut server = loop {
        let (mut server, _) = walsender.accept()?;
        if server.read_exact(&mut asked).is_ok() {
            break server;
        }
    };
    server.set_nodelay(true)?;
    server.write_all(&[b'W', 0, 0, 0, 7, 0, 0, 0])?;
    client.read_exact(&mut [0; 8])?;
    Ok((client, server))
}

fn discard(mut stream: TcpStream) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
    })
}

/// How fast the tap itself is: frames, heads, counters and the timeline, without sockets.
fn tap_alone(name: &str, recording: &Recording) {
    use walgate::proxy::Tap;
    use walgate::source::{Connector, Dsn, Source, dsn::SystemEnvironment};

    let dsn = Dsn::resolve(Some("host=127.0.0.1 sslmode=disable"), &SystemEnvironment).expect("a connection string");
    let connector = Connector::new(dsn).expect("no certificates are needed");
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let source = Arc::new(Source::new("main", connector.clone(), Observe::Proxy, Duration::from_secs(15)));
            let mut tap = Tap::new(Arc::clone(&source), &connector.dsn().hosts()[0]);
            let query = b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')\0";
            tap.read_upstream(&message(b'Q', query), Instant::now());
            tap.read_downstream(&[b'W', 0, 0, 0, 7, 0, 0, 0], Instant::now());
            let mut recording = recording.clone();
            let (mut spent, mut bytes) = (Duration::ZERO, 0);
            for number in 0.. {
                recording.repetition(number);
                let start = Instant::now();
                for piece in recording.bytes.chunks(64 * 1024) {
                    tap.read_downstream(piece, Instant::now());
                }
                tap.read_upstream(&recording.ack(number), Instant::now());
                spent += start.elapsed();
                bytes += recording.bytes.len();
                if spent > Duration::from_secs(1) {
                    break;
                }
            }
            assert_pending(&source.lag());
            bytes as f64 / spent.as_secs_f64() / 1e9
        })
        .collect();
    println!(
        "\ntap alone, {name}, {} bytes a frame: {:.2} GB/s (median of {ROUNDS})",
        recording.frame(),
        median(&mut rates)
    );
}

fn assert_pending(lag: &SourceLag) {
    let report = lag.reports(Instant::now()).pop().expect("the consumer was followed");
    assert_eq!(report.lag.transactions, Some(0), "all was acknowledged");
}

fn throughput(name: &str, ways: &[Way], recording: &Recording) -> io::Result<()> {
    let mut results: Vec<(Way, Vec<f64>, Vec<f64>)> = ways.iter().map(|way| (*way, Vec::new(), Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (way, rates, costs) in &mut results {
            let walsender = TcpListener::bind("127.0.0.1:0")?;
            let relay = Relay::start(*way, walsender.local_addr()?.port())?;
            let (client, server) = session(*way, &walsender, relay.port)?;
            let (bytes, seconds, cpu) = stream(&relay, client, server, recording.clone())?;
            rates.push(bytes as f64 / seconds / 1e6);
            costs.push(cpu / (bytes as f64 / 1e9));
        }
    }
    let frame = recording.frame();
    println!("\none stream, {name}, {frame} bytes a frame, {} s, median of {ROUNDS} rounds\n", STREAM_TIME.as_secs());
    println!("| | MB/s | CPU s per GB | MB/s, to HAProxy | CPU, to HAProxy |\n|---|--:|--:|--:|--:|");
    let medians: Vec<(Way, f64, f64)> =
        results.into_iter().map(|(way, mut rates, mut costs)| (way, median(&mut rates), median(&mut costs))).collect();
    let peer = medians.iter().find(|(way, ..)| *way == Way::Haproxy).copied();
    for (way, rate, cost) in medians {
        let [rate_ratio, cost_ratio] = match peer {
            Some((_, peer_rate, peer_cost)) if way != Way::Direct => {
                [format!("{:.2}", rate / peer_rate), format!("{:.2}", cost / peer_cost)]
            }
            _ => ["".into(), "".into()],
        };
        println!("| {} | {rate:.0} | {cost:.3} | {rate_ratio} | {cost_ratio} |", way.name());
    }
    Ok(())
}

/// Streams for a while; bytes, seconds and the relay's CPU seconds.
fn stream(
    relay: &Relay,
    mut client: TcpStream,
    server: TcpStream,
    mut recording: Recording,
) -> io::Result<(usize, f64, f64)> {
    let acks = discard(server.try_clone()?);
    let acknowledgements = recording.clone();
    let length = recording.bytes.len();
    let sender = thread::spawn(move || {
        let mut server = server;
        let start = Instant::now();
        for number in 0.. {
            recording.repetition(number);
            if start.elapsed() > STREAM_TIME || server.write_all(&recording.bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
    });
    let (cpu, start) = (relay.cpu(), Instant::now());
    let mut buffer = vec![0; 1 << 18];
    let (mut bytes, mut acked) = (0, 0);
    loop {
        match client.read(&mut buffer)? {
            0 => break,
            len => bytes += len,
        }
        if bytes / length > acked {
            acked = bytes / length;
            client.write_all(&acknowledgements.ack(acked as u64 - 1))?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = relay.cpu() - cpu;
    drop(client);
    sender.join().expect("the walsender ends");
    acks.join().expect("the acknowledgements end");
    Ok((bytes, seconds, cpu))
}

fn latency(ways: &[Way]) -> io::Result<()> {
    let mut results: Vec<(Way, Vec<f64>, Vec<f64>)> = ways.iter().map(|way| (*way, Vec::new(), Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (way, p50, p99) in &mut results {
            let walsender = TcpListener::bind("127.0.0.1:0")?;
            let relay = Relay::start(*way, walsender.local_addr()?.port())?;
            let (client, server) = session(*way, &walsender, relay.port)?;
            let mut samples = frames(client, server)?;
            samples.sort_by(f64::total_cmp);
            p50.push(samples[samples.len() / 2]);
            p99.push(samples[samples.len() * 99 / 100]);
        }
    }
    println!("\nlatency at {FRAMES_PER_SECOND} frames/s, median of {ROUNDS} rounds\n");
    println!("| | p50 µs | p99 µs | added p50 | added p99 |\n|---|--:|--:|--:|--:|");
    let medians: Vec<(Way, f64, f64)> =
        results.into_iter().map(|(way, mut p50, mut p99)| (way, median(&mut p50), median(&mut p99))).collect();
    let (_, direct50, direct99) = medians[0];
    for (way, p50, p99) in medians {
        println!("| {} | {p50:.1} | {p99:.1} | {:.1} | {:.1} |", way.name(), p50 - direct50, p99 - direct99);
    }
    Ok(())
}

/// Sends frames that carry the time of their sending; microseconds until each arrived.
fn frames(mut client: TcpStream, mut server: TcpStream) -> io::Result<Vec<f64>> {
    let (origin, count) = (Instant::now(), FRAMES_PER_SECOND * 2);
    let length = insert(&[0; 120]).len();
    let sender = thread::spawn(move || {
        for number in 0..count {
            let due = Duration::from_secs(1) / FRAMES_PER_SECOND * number;
            if let Some(wait) = due.checked_sub(origin.elapsed()) {
                thread::sleep(wait);
            }
            let mut payload = [0; 120];
            payload[..8].copy_from_slice(&(origin.elapsed().as_nanos() as u64).to_be_bytes());
            if server.write_all(&insert(&payload)).is_err() {
                break;
            }
        }
        server
    });
    let mut frame = vec![0; length];
    let mut samples = Vec::new();
    for _ in 0..count {
        client.read_exact(&mut frame)?;
        let sent = u64::from_be_bytes(frame[length - 120..length - 112].try_into().expect("eight bytes"));
        samples.push((origin.elapsed().as_nanos() as u64 - sent) as f64 / 1e3);
    }
    sender.join().expect("the walsender ends");
    Ok(samples)
}

fn memory(ways: &[Way], recording: &Recording) -> io::Result<()> {
    println!("\nresident memory, MiB (most it ever was); KiB for each of {IDLE_SESSIONS} idle sessions\n");
    println!(
        "| | at start | busy stream | row of 1 GiB | transaction of 1 GiB | idle session |\n|---|--:|--:|--:|--:|--:|"
    );
    for way in ways.iter().filter(|way| **way != Way::Direct) {
        let walsender = TcpListener::bind("127.0.0.1:0")?;
        let start = || Relay::start(*way, walsender.local_addr()?.port());
        let at_start = start()?.memory("VmHWM") / 1024.0;
        let busy = {
            let relay = start()?;
            let (client, server) = session(*way, &walsender, relay.port)?;
            stream(&relay, client, server, recording.clone())?;
            relay.memory("VmHWM") / 1024.0
        };
        let row = one_gibibyte(*way, &start()?, &walsender, |server| {
            let head = insert(&[]);
            server.write_all(&[&b"d\x3f\xff\xff\xff"[..], &head[5..]].concat())?;
            bulk(server, &[0; 1 << 16], (GIBIBYTE - 5) - (head.len() - 5))
        })?;
        let transaction = one_gibibyte(*way, &start()?, &walsender, |server| {
            let begin = [&b"B"[..], &[0, 0, 0, 0, 0, 0, 1, 0], &[0; 8], &[0, 0, 0, 1]].concat();
            server.write_all(&message(b'd', &[&[b'w'][..], &[0; 24], &begin].concat()))?;
            let rows = insert(&[b'x'; 128]).repeat(1000);
            bulk(server, &rows, GIBIBYTE / rows.len() * rows.len())?;
            let commit = [&b"C\0"[..], &[0, 0, 0, 0, 0, 0, 1, 0], &[0, 0, 0, 0, 0, 0, 1, 8], &[0; 8]].concat();
            server.write_all(&message(b'd', &[&[b'w'][..], &[0; 24], &commit].concat()))
        })?;
        let idle = {
            let relay = start()?;
            let before = relay.memory("VmRSS");
            let sessions: Vec<_> =
                (0..IDLE_SESSIONS).map(|_| session(*way, &walsender, relay.port)).collect::<Result<_, _>>()?;
            let each = (relay.memory("VmRSS") - before) / sessions.len() as f64;
            drop(sessions);
            each
        };
        println!("| {} | {at_start:.1} | {busy:.1} | {row:.1} | {transaction:.1} | {idle:.1} |", way.name());
    }
    Ok(())
}

fn one_gibibyte(
    way: Way,
    relay: &Relay,
    walsender: &TcpListener,
    send: impl FnOnce(&mut TcpStream) -> io::Result<()>,
) -> io::Result<f64> {
    let (client, mut server) = session(way, walsender, relay.port)?;
    let client = discard(client);
    send(&mut server)?;
    server.shutdown(Shutdown::Write)?;
    client.join().expect("the client ends");
    Ok(relay.memory("VmHWM") / 1024.0)
}

fn bulk(to: &mut TcpStream, piece: &[u8], mut left: usize) -> io::Result<()> {
    while left > 0 {
        let len = left.min(piece.len());
        to.write_all(&piece[..len])?;
        left -= len;
    }
    Ok(())
}

/// A real walsender and a real subscription that catches up with a million rows, direct and through walgate.
fn subscription() -> io::Result<()> {
    const ROWS: u32 = 1_000_000;
    let installation = obtain(18).map_err(io::Error::other)?;
    let start = || Server::builder(installation.clone()).start().map_err(io::Error::other);
    let (publisher, subscriber) = (start()?, start()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let session = |server: &Server| {
        let config: tokio_postgres::Config = server.dsn("postgres").parse().map_err(io::Error::other)?;
        let port = server.port();
        runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let (client, connection) =
                config.connect_raw(tcp, tokio_postgres::NoTls).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok::<_, io::Error>(client)
        })
    };
    let (source, target) = (session(&publisher)?, session(&subscriber)?);
    let run = |client: &tokio_postgres::Client, sql: &str| {
        runtime.block_on(client.batch_execute(sql)).map_err(|error| io::Error::other(format!("{sql}: {error:?}")))
    };
    let table = "CREATE TABLE t (id int PRIMARY KEY, a int, b text)";
    run(&source, &format!("{table}; CREATE PUBLICATION p FOR TABLE t"))?;
    run(&target, table)?;
    let relay = Relay::start(Way::Tapped, publisher.port())?;
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (port, seconds) in [publisher.port(), relay.port].into_iter().zip(&mut seconds) {
            run(&source, "TRUNCATE t")?;
            run(&target, "TRUNCATE t")?;
            run(
                &target,
                &format!(
                    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable' \
                     PUBLICATION p WITH (copy_data = off, enabled = off, create_slot = off, slot_name = 's')"
                ),
            )?;
            run(&source, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")?;
            run(&source, &format!("INSERT INTO t SELECT g, g, md5(g::text) FROM generate_series(1, {ROWS}) g"))?;
            let start = Instant::now();
            run(&target, "ALTER SUBSCRIPTION s ENABLE")?;
            while runtime
                .block_on(target.query_one("SELECT count(*) FROM t", &[]))
                .map_err(io::Error::other)?
                .get::<_, i64>(0)
                < i64::from(ROWS)
            {
                assert!(start.elapsed() < Duration::from_secs(120), "the subscription does not catch up");
                thread::sleep(Duration::from_millis(20));
            }
            seconds.push(start.elapsed().as_secs_f64());
            run(&target, "DROP SUBSCRIPTION s")?;
        }
    }
    let [mut direct, mut relayed] = seconds;
    let (direct, relayed) = (median(&mut direct), median(&mut relayed));
    println!("\na subscription of PostgreSQL 18 catches up with {ROWS} rows, median of {ROUNDS} rounds");
    println!("direct {direct:.2} s, through walgate {relayed:.2} s, ratio {:.2}", relayed / direct);
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
