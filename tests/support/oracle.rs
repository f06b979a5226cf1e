//! A consumer whose lag is known exactly: it keeps a ledger of every commit that it was sent and of when it acknowledged
//! it. It decodes by [`Decoder`] and adds up on its own, so that what walgate says can be held against it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use walgate::ident::{Oid, TableName, Xid};
use walgate::lsn::Lsn;
use walgate::pgoutput::{Decoder, Message};
use walgate::source::replication::{WalStream, Walsender};
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{StatusUpdate, WalMessage};

use super::client::connector;

/// How it consumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// The plugin's protocol version.
    pub(crate) protocol: u32,
    /// The plugin's `streaming`, `on` or `parallel`.
    pub(crate) streaming: Option<&'static str>,
    /// The plugin's `two_phase`.
    pub(crate) two_phase: bool,
    /// The plugin's `messages`, as zero-cache asks for them.
    pub(crate) messages: bool,
    /// Acknowledges where a commit ends, as subscriptions do, and not where its record begins, as zero-cache does.
    pub(crate) acks_the_end: bool,
    /// Sends 0/0 before each acknowledgement.
    pub(crate) sends_zeros: bool,
    /// Answers keepalives with an old position even when it has everything.
    pub(crate) ignores_keepalives: bool,
    /// How far its clock is ahead, in hours.
    pub(crate) hours_ahead: i64,
}

impl Habits {
    /// Protocol 1, and nothing else.
    pub(crate) const PLAIN: Habits = Habits {
        protocol: 1,
        streaming: None,
        two_phase: false,
        messages: false,
        acks_the_end: false,
        sends_zeros: false,
        ignores_keepalives: false,
        hours_ahead: 0,
    };
}

/// A running consumer. Its connection ends with this value.
pub(crate) struct Oracle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    ledger: Mutex<Ledger>,
    /// From the receipt of a commit to its acknowledgement, in microseconds.
    delay: AtomicU64,
    /// It acknowledges nothing but what it is told to.
    holds: AtomicBool,
    /// Commits to be acknowledged all the same.
    told: AtomicU64,
    /// It reads nothing.
    stopped: AtomicBool,
    /// It is to send 0/0.
    zero: AtomicBool,
    /// It is to end its connection and to make another.
    reconnect: AtomicBool,
    ended: AtomicBool,
    wake: Notify,
}

/// What it was sent and what it has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    names: HashMap<Oid, String>,
    /// Every commit once, in the order in which they came.
    commits: Vec<Commit>,
    /// How many of them it is done with.
    done: usize,
    /// How many of them its acknowledgements cover, by the server's rule: one at which the server could have said to be
    /// before is not covered by a position equal to its `commit_lsn`, for that may mean what ended there.
    acked: usize,
    /// Streamed transactions that are not finished: by top-level and by (sub-)transaction.
    open: HashMap<Xid, BTreeMap<Xid, Changes>>,
    current: Changes,
    /// The top-level transaction of the chunk that is being streamed.
    chunk: Option<Xid>,
    /// It has everything that committed below this.
    pub(crate) heard: Lsn,
    /// Connections so far.
    pub(crate) connections: u64,
    /// Sub-transactions that were streamed and taken out again, and transactions that were as a whole.
    pub(crate) aborted: (u64, u64),
    /// The most streamed transactions that were open at once.
    pub(crate) most_open: usize,
    /// Why the last connection ended.
    pub(crate) ended: Option<String>,
}

/// One commit, prepare or commit of what was prepared.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) commit_lsn: Lsn,
    pub(crate) end_lsn: Lsn,
    pub(crate) commit_ts: PgTimestamp,
    pub(crate) received: Instant,
    pub(crate) acked: Option<Instant>,
    /// The server had told the position where it begins before.
    adjoins: bool,
    tables: BTreeMap<Oid, Sum>,
}

/// Rows and the bytes of their messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) transactions: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct Changes {
    published: bool,
    tables: BTreeMap<Oid, Sum>,
}

/// The exact lag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exact {
    pub(crate) pending: Sum,
    pub(crate) tables: BTreeMap<String, Sum>,
    pub(crate) oldest: Option<PgTimestamp>,
    pub(crate) open_transactions: u64,
    pub(crate) open_bytes: u64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.transactions += other.transactions;
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

impl Oracle {
    /// Connects and consumes, by these habits. A connection that is lost is made again.
    pub(crate) fn start(dsn: &str, slot: &str, publications: &str, habits: Habits) -> Oracle {
        let shared = Arc::new(Shared {
            ledger: Mutex::default(),
            delay: AtomicU64::new(0),
            holds: AtomicBool::new(false),
            told: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            zero: AtomicBool::new(false),
            reconnect: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            wake: Notify::new(),
        });
        let (dsn, slot, publications) = (dsn.to_owned(), slot.to_owned(), publications.to_owned());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                while !own.ended.load(Ordering::Acquire) {
                    let why = consume(&own, &dsn, &slot, &publications, habits).await;
                    own.ledger().ended = why.err();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        });
        Oracle { shared, thread: Some(thread) }
    }

    /// What it knows.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// How long it takes from here on to acknowledge a commit.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.delay.store(u64::try_from(delay.as_micros()).expect("a short time"), Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Acknowledges nothing from here on.
    pub(crate) fn hold(&self) {
        self.shared.holds.store(true, Ordering::Release);
    }

    /// Acknowledges again.
    pub(crate) fn release(&self) {
        self.shared.holds.store(false, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// While it holds, acknowledges this many more.
    pub(crate) fn acknowledge(&self, commits: usize) {
        self.shared.told.fetch_add(commits as u64, Ordering::AcqRel);
        self.shared.wake.notify_one();
    }

    /// Reads nothing from here on, and says nothing.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Reads again.
    pub(crate) fn go_on(&self) {
        self.shared.stopped.store(false, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Sends 0/0.
    pub(crate) fn send_zero(&self) {
        self.shared.zero.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Ends its connection and makes another.
    pub(crate) fn reconnect(&self) {
        self.shared.reconnect.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, from its start to its end.
async fn consume(shared: &Shared, dsn: &str, slot: &str, publications: &str, habits: Habits) -> Result<(), String> {
    let session = connector(dsn).replication(Walsender::Database).await.map_err(|error| error.to_string())?;
    let protocol = habits.protocol.to_string();
    let mut options = vec![("proto_version", protocol.as_str()), ("publication_names", publications)];
    options.extend(habits.streaming.map(|streaming| ("streaming", streaming)));
    if habits.messages {
        options.push(("messages", "true"));
    }
    if habits.two_phase {
        options.push(("two_phase", "on"));
    }
    let slot = slot.parse().expect("a slot's name");
    let mut stream = session.start_logical(&slot, Lsn::INVALID, &options).await.map_err(|error| error.to_string())?;
    shared.ledger().begin();
    let mut decoder = Decoder::new();
    let mut position = Lsn::INVALID;
    while !shared.ended.load(Ordering::Acquire) && !shared.reconnect.swap(false, Ordering::AcqRel) {
        if shared.zero.swap(false, Ordering::AcqRel) {
            send(&mut stream, Lsn::INVALID, habits).await?;
        }
        let reads = !shared.stopped.load(Ordering::Acquire);
        let due = if reads { acknowledge(shared, &mut stream, &mut position, habits).await? } else { None };
        let until = tokio::time::Instant::from_std(due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)));
        tokio::select! {
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(until) => {}
            data = stream.next(), if reads => {
                let data = data.map_err(|error| error.to_string())?.ok_or("the server has ended the stream")?;
                match data.message().map_err(|error| error.to_string())? {
                    WalMessage::XLogData(data) => {
                        let message = decoder.decode(data.data).map_err(|error| error.to_string())?;
                        shared.ledger().take(&message, data.data.len());
                    }
                    WalMessage::Keepalive(keepalive) => {
                        shared.ledger().hear(keepalive.wal_end);
                        let moves = !habits.ignores_keepalives && shared.ledger().follow();
                        if moves {
                            position = position.max(keepalive.wal_end);
                        }
                        if moves || keepalive.reply_requested {
                            send(&mut stream, position, habits).await?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Acknowledges what is due; returns when the next one is.
async fn acknowledge(
    shared: &Shared,
    stream: &mut WalStream,
    position: &mut Lsn,
    habits: Habits,
) -> Result<Option<Instant>, String> {
    let delay = Duration::from_micros(shared.delay.load(Ordering::Acquire));
    let holds = shared.holds.load(Ordering::Acquire);
    let (ack, next) = {
        let mut ledger = shared.ledger();
        let due = |commit: &Commit| commit.received + delay;
        let now = Instant::now();
        let waiting = ledger.commits.len() - ledger.done;
        let count = if holds {
            let told = usize::try_from(shared.told.load(Ordering::Acquire)).expect("a few").min(waiting);
            shared.told.fetch_sub(told as u64, Ordering::AcqRel);
            told
        } else {
            ledger.commits[ledger.done..].iter().take_while(|commit| due(commit) <= now).count()
        };
        ledger.done += count;
        let ack = ledger.commits[..ledger.done].last().filter(|_| count > 0).cloned();
        if let Some(last) = &ack {
            let covered = ledger.done - usize::from(last.adjoins && !habits.acks_the_end);
            ledger.cover(covered);
        }
        (ack, ledger.commits.get(ledger.done).map(due).filter(|_| !holds))
    };
    if let Some(commit) = ack {
        if habits.sends_zeros {
            send(stream, Lsn::INVALID, habits).await?;
        }
        *position = if habits.acks_the_end { commit.end_lsn } else { commit.commit_lsn };
        send(stream, *position, habits).await?;
    }
    Ok(next)
}

async fn send(stream: &mut WalStream, position: Lsn, habits: Habits) -> Result<(), String> {
    let (write, flush, apply) = (position, position, position);
    let send_time = PgTimestamp(PgTimestamp::now().0 + habits.hours_ahead * 3_600_000_000);
    stream.queue_status(&StatusUpdate { write, flush, apply, send_time, reply_requested: false });
    stream.flush().await.map_err(|error| error.to_string())
}

impl Ledger {
    /// The exact lag at this moment.
    pub(crate) fn exact(&self) -> Exact {
        let mut exact = Exact { open_transactions: self.open.len() as u64, ..Exact::default() };
        for commit in self.pending() {
            exact.pending.transactions += 1;
            exact.oldest = exact.oldest.into_iter().chain([commit.commit_ts]).min();
            for (table, sum) in &commit.tables {
                exact.pending.rows += sum.rows;
                exact.pending.bytes += sum.bytes;
                exact.tables.entry(self.names[table].clone()).or_default().add(*sum);
            }
        }
        let open = self.open.values().flat_map(BTreeMap::values).flat_map(|changes| changes.tables.values());
        exact.open_bytes = open.map(|sum| sum.bytes).sum();
        exact
    }

    /// What it was sent and has not acknowledged.
    pub(crate) fn pending(&self) -> &[Commit] {
        &self.commits[self.acked..]
    }

    /// Every commit that it was sent.
    pub(crate) fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// How many of them it is done with.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Before a keepalive's position is acknowledged: whether it may be, for everything is done.
    fn follow(&mut self) -> bool {
        let caught_up = self.done == self.commits.len() && self.open.is_empty();
        if caught_up {
            self.cover(self.done);
        }
        caught_up
    }

    fn cover(&mut self, count: usize) {
        let (from, now) = (self.acked.min(count), Instant::now());
        self.commits[from..count].iter_mut().for_each(|commit| commit.acked = Some(now));
        self.acked = count;
    }

    fn hear(&mut self, position: Lsn) {
        self.heard = self.heard.max(position);
    }

    fn begin(&mut self) {
        self.heard = Lsn::INVALID;
        self.connections += 1;
        self.open.clear();
        self.current = Changes::default();
        self.chunk = None;
    }

    fn take(&mut self, message: &Message<'_>, len: usize) {
        match message {
            Message::Relation(relation) => {
                let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
                let name = TableName { schema: name(relation.schema), name: name(relation.name) };
                self.names.insert(relation.relation, name.to_string());
            }
            Message::Insert(row) => self.row(row.xid, row.relation, len),
            Message::Update(row) => self.row(row.xid, row.relation, len),
            Message::Delete(row) => self.row(row.xid, row.relation, len),
            Message::Truncate(truncate) => self.changes(truncate.xid).published = true,
            Message::Message(message) if message.transactional => self.changes(message.xid).published = true,
            Message::Begin(_) | Message::BeginPrepare(_) => self.current = Changes::default(),
            Message::Commit(commit) => self.finish(commit.commit_lsn, commit.end_lsn, commit.commit_ts),
            Message::Prepare(prepare) => self.finish(prepare.prepare_lsn, prepare.end_lsn, prepare.prepare_ts),
            Message::CommitPrepared(commit) => {
                self.current = Changes { published: true, ..Changes::default() };
                self.finish(commit.commit_lsn, commit.end_lsn, commit.commit_ts);
            }
            Message::StreamStart(start) => {
                self.chunk = Some(start.xid);
                self.open.entry(start.xid).or_default();
                self.most_open = self.most_open.max(self.open.len());
            }
            Message::StreamStop => self.chunk = None,
            Message::StreamCommit(commit) => {
                self.gather(commit.xid);
                self.finish(commit.commit_lsn, commit.end_lsn, commit.commit_ts);
            }
            Message::StreamPrepare(prepare) => {
                self.gather(prepare.xid);
                self.finish(prepare.prepare_lsn, prepare.end_lsn, prepare.prepare_ts);
            }
            Message::StreamAbort(abort) if abort.xid == abort.subxid => {
                self.open.remove(&abort.xid);
                self.aborted.1 += 1;
            }
            Message::StreamAbort(abort) => {
                let parts = self.open.get_mut(&abort.xid);
                self.aborted.0 += u64::from(parts.and_then(|parts| parts.remove(&abort.subxid)).is_some());
            }
            _ => {}
        }
    }

    fn row(&mut self, xid: Option<Xid>, relation: Oid, len: usize) {
        let changes = self.changes(xid);
        changes.published = true;
        changes.tables.entry(relation).or_default().add(Sum { transactions: 0, rows: 1, bytes: len as u64 });
    }

    fn changes(&mut self, xid: Option<Xid>) -> &mut Changes {
        match self.chunk.zip(xid) {
            Some((top, xid)) => self.open.entry(top).or_default().entry(xid).or_default(),
            None => &mut self.current,
        }
    }

    fn gather(&mut self, xid: Xid) {
        self.current = Changes::default();
        for part in self.open.remove(&xid).into_iter().flat_map(BTreeMap::into_values) {
            self.current.published |= part.published;
            for (table, sum) in part.tables {
                self.current.tables.entry(table).or_default().add(sum);
            }
        }
    }

    fn finish(&mut self, commit_lsn: Lsn, end_lsn: Lsn, commit_ts: PgTimestamp) {
        let changes = std::mem::take(&mut self.current);
        let adjoins = self.heard == commit_lsn;
        self.hear(end_lsn);
        // What comes again on a new connection is known.
        let known = self.commits.last().is_some_and(|last| last.commit_lsn >= commit_lsn);
        if changes.published && !known {
            let mut tables = changes.tables;
            tables.values_mut().for_each(|sum| sum.transactions = 1);
            self.commits.push(Commit {
                commit_lsn,
                end_lsn,
                commit_ts,
                received: Instant::now(),
                acked: None,
                adjoins,
                tables,
            });
        }
    }
}
