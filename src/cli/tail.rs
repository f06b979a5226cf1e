//! `walgate tail`: decoded changes as they come, from a slot of its own that goes with it.
//!
//! The slot is temporary and begins now; what was changed before is not shown. Positions are acknowledged once they
//! are written, so that the server keeps no WAL for a tail that keeps up. A lost connection ends the command: a new slot
//! would leave a gap, and a gap must not pass for silence.

use std::fs::File;
use std::future::ready;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::USAGE;
use crate::lsn::Lsn;
use crate::pgoutput::json::Line;
use crate::pgoutput::{Decoder, Described};
use crate::source::dsn::{DsnError, SystemEnvironment};
use crate::source::replication::{
    NewSlot, NewSlotKind, Progress, ReplicationSession, Snapshot, WalStream, Walsender, is_counted_on, own_slot_name,
    publication_names,
};
use crate::source::{ConnectError, Connector, Dsn, Failure};
use crate::wire::DecodeError;
use crate::wire::copy_both::{WalMessage, XLogData};

/// No host gave a session.
const UNREACHABLE: u8 = 4;

/// How long the end of the stream may take, which waits for a transaction under way.
const GOODBYE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source, a connection string; without it DATABASE_URL and the PG… variables count
    #[arg(value_name = "DSN")]
    dsn: Option<String>,
    /// A publication to follow; give it again for more
    #[arg(long, value_name = "NAME", required = true)]
    publication: Vec<String>,
    /// How to print changes
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also record the messages of the stream to a file, as they are on the wire
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Stop at this position; what begins behind it is not shown
    #[arg(long, value_name = "LSN")]
    endpos: Option<Lsn>,
    /// The version of pgoutput's protocol [default: the lowest that has what is asked for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4))]
    proto_version: Option<u32>,
    /// Ask for values in binary form
    #[arg(long)]
    binary: bool,
    /// Ask for large transactions while they are open
    #[arg(long, value_enum, default_value_t = Streaming::Off)]
    streaming: Streaming,
    /// Ask for prepared transactions when they are prepared (PostgreSQL 15 and later)
    #[arg(long)]
    two_phase: bool,
    /// Ask for the messages of pg_logical_emit_message
    #[arg(long)]
    messages: bool,
    /// Ask for changes of any origin, or only for those made here (PostgreSQL 16 and later)
    #[arg(long, value_enum)]
    origin: Option<Origin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line a message, for people
    Text,
    /// One JSON object a line, for jq
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Streaming {
    Off,
    On,
    /// With what a subscriber needs to apply them in parallel (PostgreSQL 16 and later)
    Parallel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Origin {
    Any,
    None,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Dsn(#[from] DsnError),
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{option} needs PostgreSQL {needed} or later, and this server is {major}; leave it out")]
    Version { option: &'static str, needed: u32, major: u32 },
    #[error(
        "publication \"{0}\" does not exist in this database; CREATE PUBLICATION it, or correct the name or dbname"
    )]
    NoPublication(String),
    #[error(
        "synchronous_standby_names = {0:?} would count this stream as a standby, whose acknowledgements release commits: \
         name the standbys there, or give another application_name"
    )]
    CountedOn(String),
    #[error("{0}")]
    Stream(#[from] Failure),
    #[error("the server sent what is not pgoutput: {0}")]
    Decode(#[from] DecodeError),
    #[error("{}: {error}", path.display())]
    Raw { path: PathBuf, error: io::Error },
    #[error("standard output: {0}")]
    Output(io::Error),
    #[error("cannot start: {0}")]
    Start(io::Error),
}

pub(super) fn main(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start);
    let error = match runtime.and_then(|runtime| runtime.block_on(tail(args))) {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads has seen enough, as head(1) does.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    eprintln!("walgate: {error}");
    match error {
        Error::Dsn(_) | Error::Version { .. } => USAGE.into(),
        Error::Connect(_) => UNREACHABLE.into(),
        _ => ExitCode::FAILURE,
    }
}

async fn tail(args: &Args) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Start)?;
    let mut output = Output::open(args)?;

    let dsn = Dsn::resolve(args.dsn.as_deref(), &SystemEnvironment)?;
    for warning in &dsn.warnings {
        tracing::warn!("{warning}");
    }
    let connector = Connector::new(dsn)?;
    let start = async {
        let session = connector.replication(Walsender::Database).await?;
        start(args, &connector.dsn().application_name, session).await
    };
    // Creating a slot waits for others' transactions, so it must be possible to give up on it.
    let mut stream = tokio::select! {
        stream = start => stream?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };

    let mut ticks = interval(Progress::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::default();
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Before the data: a stream without a pause is acknowledged as well.
            _ = ticks.tick() => {
                if progress.is_due(output.position) {
                    output.flush()?;
                    stream.queue_status(&progress.report(output.position));
                }
            }
            data = stream.next() => {
                let Some(data) = data? else { break };
                let message = data.message()?;
                if args.endpos.is_some_and(|end| is_past(&message, end)) {
                    break;
                }
                output.record(data.frame())?;
                match message {
                    WalMessage::XLogData(data) => {
                        output.print(&data)?;
                        if args.endpos.is_some_and(|end| data.wal_start == end) {
                            break;
                        }
                    }
                    WalMessage::Keepalive(keepalive) => {
                        output.position = output.position.max(keepalive.wal_end);
                        if keepalive.reply_requested {
                            output.flush()?;
                            stream.queue_status(&progress.report(output.position));
                        }
                    }
                }
            }
            // Nothing has come at once: what is buffered can be shown.
            () = ready(()), if output.dirty => output.flush()?,
        }
    }
    output.flush()?;
    stream.queue_status(&progress.report(output.position));
    // Past the deadline, or where the server is gone already, the connection is dropped and the slot with it.
    if let Ok(Ok((session, _))) = timeout(GOODBYE, stream.finish()).await {
        let _ = timeout(GOODBYE, session.close()).await;
    }
    Ok(())
}

/// Creates the slot and starts to stream from it.
async fn start(args: &Args, application_name: &str, mut session: ReplicationSession) -> Result<WalStream, Error> {
    let major = session.server_major().unwrap_or(u32::MAX);
    for (option, asked, needed) in [
        ("--two-phase", args.two_phase, 15),
        ("--origin", args.origin.is_some(), 16),
        ("--streaming parallel", args.streaming == Streaming::Parallel, 16),
        ("--proto-version 3", args.proto_version == Some(3), 15),
        ("--proto-version 4", args.proto_version == Some(4), 16),
    ] {
        if asked && major < needed {
            return Err(Error::Version { option, needed, major });
        }
    }
    let standbys = session.show("synchronous_standby_names").await?;
    if is_counted_on(&standbys, application_name) {
        return Err(Error::CountedOn(standbys));
    }
    // The server itself would only say so at the first change.
    let known = session.query("SELECT pubname FROM pg_catalog.pg_publication").await?;
    let missing = args.publication.iter().find(|name| !known.iter().flatten().flatten().any(|known| known == *name));
    if let Some(name) = missing {
        return Err(Error::NoPublication(name.clone()));
    }

    let slot = NewSlot {
        name: own_slot_name("tail"),
        temporary: true,
        kind: NewSlotKind::Logical {
            plugin: "pgoutput".into(),
            snapshot: Snapshot::Nothing,
            two_phase: args.two_phase,
        },
    };
    let created = session.create_slot(&slot).await?;
    tracing::info!(slot = %slot.name, from = %created.consistent_point, "following");

    let lowest = match (args.streaming, args.two_phase) {
        (Streaming::Parallel, _) => 4,
        (_, true) => 3,
        (Streaming::On, false) => 2,
        (Streaming::Off, false) => 1,
    };
    let mut options = vec![
        ("proto_version", args.proto_version.unwrap_or(lowest).to_string()),
        ("publication_names", publication_names(&args.publication)),
    ];
    for (name, asked) in [("binary", args.binary), ("messages", args.messages), ("two_phase", args.two_phase)] {
        if asked {
            options.push((name, "on".into()));
        }
    }
    match args.streaming {
        Streaming::Off => {}
        Streaming::On => options.push(("streaming", "on".into())),
        Streaming::Parallel => options.push(("streaming", "parallel".into())),
    }
    if let Some(origin) = args.origin {
        options.push(("origin", if origin == Origin::Any { "any" } else { "none" }.into()));
    }
    let options: Vec<(&str, &str)> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ok(session.start_logical(&slot.name, Lsn::INVALID, &options).await?)
}

/// Whether a message lies behind the position to stop at, as pg_recvlogical sees it.
fn is_past(message: &WalMessage<'_>, end: Lsn) -> bool {
    match message {
        WalMessage::XLogData(data) => data.wal_start > end,
        WalMessage::Keepalive(keepalive) => keepalive.wal_end >= end,
    }
}

/// Where messages go, and how far they have gone.
struct Output {
    format: Format,
    decoder: Decoder,
    shown: BufWriter<io::Stdout>,
    raw: Option<(PathBuf, BufWriter<File>)>,
    /// The furthest position that was handed over; acknowledged only after a flush.
    position: Lsn,
    dirty: bool,
}

impl Output {
    fn open(args: &Args) -> Result<Output, Error> {
        let raw = match &args.raw {
            None => None,
            Some(path) => {
                let file = File::create(path).map_err(|error| Error::Raw { path: path.clone(), error })?;
                Some((path.clone(), BufWriter::new(file)))
            }
        };
        Ok(Output {
            format: args.format,
            decoder: Decoder::new(),
            shown: BufWriter::new(io::stdout()),
            raw,
            position: Lsn::INVALID,
            dirty: false,
        })
    }

    fn record(&mut self, frame: &[u8]) -> Result<(), Error> {
        let Some((path, file)) = &mut self.raw else { return Ok(()) };
        self.dirty = true;
        file.write_all(frame).map_err(|error| Error::Raw { path: path.clone(), error })
    }

    fn print(&mut self, data: &XLogData<'_>) -> Result<(), Error> {
        let message = self.decoder.decode(data.data)?;
        let message = Described::new(&message, self.decoder.relations())?;
        let lsn = data.wal_start;
        match self.format {
            Format::Text => writeln!(self.shown, "{lsn} {message}"),
            Format::Json => serde_json::to_writer(&mut self.shown, &Line { lsn, message })
                .map_err(io::Error::from)
                .and_then(|()| self.shown.write_all(b"\n")),
        }
        .map_err(Error::Output)?;
        self.position = self.position.max(lsn);
        self.dirty = true;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.dirty = false;
        self.shown.flush().map_err(Error::Output)?;
        match &mut self.raw {
            Some((path, file)) => file.flush().map_err(|error| Error::Raw { path: path.clone(), error }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::PgTimestamp;

    #[test]
    fn the_end_is_reached_by_a_change_behind_it_or_a_keepalive_at_it() {
        let change = |at| {
            let data = XLogData { wal_start: Lsn(at), wal_end: Lsn(at), send_time: PgTimestamp(0), data: b"" };
            is_past(&WalMessage::XLogData(data), Lsn(10))
        };
        let keepalive = |at| {
            let keepalive = crate::wire::copy_both::Keepalive {
                wal_end: Lsn(at),
                send_time: PgTimestamp(0),
                reply_requested: false,
            };
            is_past(&WalMessage::Keepalive(keepalive), Lsn(10))
        };
        assert_eq!([change(9), change(10), change(11)], [false, false, true]);
        assert_eq!([keepalive(9), keepalive(10), keepalive(11)], [false, true, true]);
    }
}
