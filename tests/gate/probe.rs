//! The one thing that walgate may add to a stream that passes it: a question to the server for how far it is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use walgate::lsn::Lsn;
use walgate::source::replication::Walsender;
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{StatusUpdate, WalMessage};

use crate::scene::{Gate, Pair, Way, quiet};
use crate::support::client::connector;
use crate::support::eventually;

/// A relay in front of a server that keeps what its clients say on replication connections.
struct Listening {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Listening {
    fn to(server: u16) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let own = Arc::clone(&heard);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (to_client, from_server) = both(&client, &server);
                thread::spawn(move || pass(from_server, to_client, |_| {}));
                let own = Arc::clone(&own);
                let mut replicates = false;
                thread::spawn(move || {
                    pass(client, server, |bytes| {
                        replicates |= bytes.windows(18).any(|word| word == b"START_REPLICATION ");
                        if replicates {
                            own.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
                        }
                    });
                });
            }
        });
        Listening { port, heard }
    }

    /// The status updates so far, and how many of them ask for a reply.
    fn updates(&self) -> (usize, usize) {
        /// Tag, length, `r`, four positions and times, and whether a reply is requested.
        const LEN: usize = 39;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let updates = heard.windows(LEN).filter(|bytes| bytes.starts_with(b"d\0\0\0\x26r"));
        updates.fold((0, 0), |(all, asking), update| (all + 1, asking + usize::from(update[LEN - 1] == 1)))
    }
}

fn both(client: &TcpStream, server: &TcpStream) -> (TcpStream, TcpStream) {
    let share = |stream: &TcpStream| stream.try_clone().expect("a socket can be shared");
    (share(client), share(server))
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut told: impl FnMut(&[u8])) {
    let _ = to.set_nodelay(true);
    let mut buffer = [0; 65536];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        told(&buffer[..len]);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A consumer that answers nothing unless it must: what comes to it, frame by frame.
struct Client {
    seen: Arc<Mutex<Seen>>,
    end: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Seen {
    /// What the plugin has said, without positions and times around it.
    changes: Vec<Vec<u8>>,
    keepalives: usize,
    /// How far it has been told, in the order in which it was.
    told: Vec<Lsn>,
    /// Keepalives that wanted an answer.
    demands: usize,
}

impl Client {
    fn start(dsn: String, slot: &'static str) -> Client {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let (end, ended) = oneshot::channel();
        let seen = Arc::<Mutex<Seen>>::default();
        let own = Arc::clone(&seen);
        runtime.spawn(async move {
            let session = connector(&dsn).replication(Walsender::Database).await.expect("a replication session");
            let options = [("proto_version", "1"), ("publication_names", "everything")];
            let slot = slot.parse().expect("a slot's name");
            let mut stream = session.start_logical(&slot, Lsn::INVALID, &options).await.expect("it streams");
            let (mut ended, mut position) = (ended, Lsn::INVALID);
            loop {
                tokio::select! {
                    _ = &mut ended => return,
                    data = stream.next() => {
                        let data = data.expect("it goes on").expect("it goes on");
                        let mut seen = own.lock().unwrap_or_else(PoisonError::into_inner);
                        match data.message().expect("it is known") {
                            WalMessage::XLogData(data) => seen.changes.push(data.data.to_vec()),
                            WalMessage::Keepalive(keepalive) => {
                                seen.keepalives += 1;
                                seen.demands += usize::from(keepalive.reply_requested);
                                seen.told.push(keepalive.wal_end);
                                if position < keepalive.wal_end {
                                    position = keepalive.wal_end;
                                    drop(seen);
                                    stream.queue_status(&StatusUpdate::all(position, PgTimestamp::now()));
                                }
                            }
                        }
                    }
                }
            }
        });
        Client { seen, end: Some(end), runtime: Some(runtime) }
    }

    fn seen<T>(&self, of: impl FnOnce(&Seen) -> T) -> T {
        of(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How long ago the server was heard on the stream.
fn silence(gate: &Gate) -> f64 {
    let (_, metrics) = gate.walgate.get("/metrics");
    let metrics = metrics.as_str().unwrap_or_default();
    let line = metrics.lines().find(|line| line.starts_with("walgate_last_frame_age_seconds{"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn an_idle_stream_is_asked_for_proof_while_a_gate_asks_and_never_else() {
    // No keepalive comes by itself.
    let pair = Pair::of(quiet(18).setting("wal_sender_timeout", "0"), quiet(18));
    let (blue, _green) = pair.databases("app");
    blue.run("CREATE TABLE private (id int)");
    blue.run("SELECT pg_create_logical_replication_slot('relayed', 'pgoutput')");
    blue.run("SELECT pg_create_logical_replication_slot('direct', 'pgoutput')");
    let listening = Listening::to(pair.source.port());
    let source = pair.source.dsn_via(listening.port, "app").replace("user=postgres", "user=walgate");
    let gate = Gate::start(&source, Way::Proxy, &["relayed"], "max_staleness = \"1s\"\n[gate.target]\nkind = \"slot\"");
    let relayed = Client::start(pair.source.dsn_via(gate.walgate.port(), "app"), "relayed");
    let direct = Client::start(pair.source.dsn("app"), "direct");
    blue.run("INSERT INTO orders VALUES (2, 'seen'); UPDATE orders SET note = 'changed'");
    let arrived = |client: &Client, commits: usize| {
        eventually("the changes to arrive", || {
            let seen = client.seen(|seen| seen.changes.iter().filter(|change| change.starts_with(b"C")).count());
            if seen >= commits { Ok(()) } else { Err(seen) }
        });
    };
    arrived(&relayed, 1);
    gate.fence();
    gate.until("cutover", "pass", "nothing was written since");
    let (_, asked) = listening.updates();
    assert!(asked > 0, "the gate asked for proof");

    // Past `max_staleness`, with nobody asking.
    blue.run("INSERT INTO private VALUES (1)");
    let quiet = || {
        eventually("the stream to be silent", || {
            let silence = silence(&gate);
            if silence > 2.0 { Ok(()) } else { Err(silence) }
        });
    };
    // Who asked last is remembered for ten seconds.
    quiet();
    let before = (listening.updates(), relayed.seen(|seen| seen.keepalives));
    quiet();
    let still = (listening.updates(), relayed.seen(|seen| seen.keepalives));
    assert_eq!(before, still, "nothing is added while nobody asks");
    // An xid was given since the fence: only what was decoded by now can tell that nothing was published.
    let answer = gate.until("cutover", "pass", "nothing was written since");
    assert!(answer.said("stray-writes").contains("none was published"), "{answer}");
    assert!(listening.updates().1 > before.0.1, "the gate asked for proof");

    // The client has seen what one without walgate sees, and keepalives that want nothing of it.
    let commits = relayed.seen(|seen| seen.changes.iter().filter(|change| change.starts_with(b"C")).count());
    blue.run(
        "INSERT INTO orders SELECT n, 'more' FROM generate_series(10, 2000) n; DELETE FROM orders WHERE id > 1000",
    );
    for client in [&relayed, &direct] {
        arrived(client, commits + 1);
    }
    gate.turns("cutover", "fail", "table public.orders was written to");
    assert!(relayed.seen(|seen| seen.changes.clone()) == direct.seen(|seen| seen.changes.clone()));
    relayed.seen(|seen| {
        assert_eq!(seen.demands, 0);
        assert!(seen.told.is_sorted(), "{:?}", seen.told);
    });
}
