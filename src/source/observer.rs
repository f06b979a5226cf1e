//! Follows copies of the consumers' slots, where their own streams do not pass the proxy.
//!
//! A copy (`pg_copy_logical_replication_slot`, temporary) begins where the consumer's acknowledgements end, and is
//! streamed with the options that the consumer's own stream was started with. So it shows just what the consumer still has
//! to take, without touching the consumer's slot; and unlike a new slot it does not wait for the transactions that are
//! open. It acknowledges what it has seen at once, so that it keeps no WAL for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{ConnectError, Failure};
use super::replication::{Progress, Walsender, own_slot_name, publication_names};
use super::watched::Source;
use crate::ident::SlotName;
use crate::lag::{Attachment, Consumer, History, Observe, SlotKind};
use crate::lsn::Lsn;
use crate::wire::backend::ErrorFields;
use crate::wire::command::{Mode, StartReplication};
use crate::wire::copy_both::{StatusUpdate, WalMessage, XLOG_DATA_HEADER};
use crate::wire::{DecodeError, Frame, FrameReader};

/// Copies at the same time: each takes a walsender, a slot and a reading of the WAL.
const COPIES: usize = 8;

/// Slots and walsenders that are left free: a consumer that wants to start comes before walgate's curiosity.
const LEFT_FREE: u32 = 2;

/// How long a copy may take to begin to stream.
const DEADLINE: Duration = Duration::from_secs(10);

/// After a failure, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Bytes kept of a message: the longest heads of pgoutput's, and an error's text.
const KEEP: usize = 4096;

const COPYING: &str = "following a copy";

/// Why a slot is not followed by a copy.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Stream(#[from] Failure),
    #[error("what its stream shows is not understood: {0}")]
    Decode(#[from] DecodeError),
    #[error("copying it took longer than {}", humantime::format_duration(DEADLINE))]
    Timeout,
    #[error("its database has no publication")]
    NoPublication,
    #[error("{COUNTED_ON}")]
    CountedOn,
    #[error("the server has become {0}")]
    Elsewhere(History),
}

impl CopyError {
    /// In words, with the mend where there is one.
    fn reason(&self) -> String {
        let server = match self {
            CopyError::Stream(Failure::Server(error)) => Some(error),
            CopyError::Connect(error) => error.server_error(),
            _ => None,
        };
        let mend = match server.map(|error| error.code.as_str()) {
            Some("42501") => "; ALTER ROLE … REPLICATION lets walgate's role copy slots",
            Some("53400") => "; all slots of the server are taken",
            Some("53300") => "; raise max_wal_senders",
            _ => "",
        };
        format!("its slot cannot be copied: {self}{mend}")
    }
}

/// Follows until `stop`: after each look copies are made of the slots that are not followed, and a copy that failed is
/// tried again with growing pauses.
pub(super) async fn follow(source: &Arc<Source>, stop: &CancellationToken) {
    stop.run_until_cancelled(async {
        let mut looks = source.looks();
        let mut copies: JoinSet<Result<(), CopyError>> = JoinSet::new();
        let mut copied: HashMap<task::Id, (SlotName, AbortHandle)> = HashMap::new();
        let mut pauses: HashMap<SlotName, (Instant, Duration)> = HashMap::new();
        loop {
            tokio::select! {
                Ok(()) = looks.changed() => {
                    let now = Instant::now();
                    let (wanted, spare) = to_copy(source);
                    if spare < LEFT_FREE {
                        // The youngest goes; at the next look another one, if that was not enough.
                        let youngest = copied.iter().max_by_key(|(id, _)| **id);
                        if let Some((slot, task)) = youngest.map(|(_, copy)| copy) {
                            task.abort();
                            source.lag().hinder(slot, no_room());
                            pauses.insert(slot.clone(), (now + BACKOFF.1, BACKOFF.1));
                        }
                    }
                    let there = |slot: &SlotName| source.lag().is_known(slot);
                    pauses.retain(|slot, _| there(slot));
                    let mut room = spare.saturating_sub(LEFT_FREE) as usize;
                    for slot in wanted {
                        let pausing = pauses.get(&slot).is_some_and(|(until, _)| *until > now);
                        if copied.values().any(|(copied, _)| *copied == slot) {
                            // It is being made, and perhaps not counted yet.
                            room = room.saturating_sub(1);
                            continue;
                        }
                        if pausing {
                            continue;
                        }
                        if room == 0 {
                            source.lag().hinder(&slot, no_room());
                            continue;
                        }
                        room -= 1;
                        if copies.len() >= COPIES {
                            let why = format!("walgate follows no more than {COPIES} copies of slots at a time");
                            source.lag().hinder(&slot, why);
                            continue;
                        }
                        let (source, slot_to_copy) = (Arc::clone(source), slot.clone());
                        let task = copies.spawn(async move { copy(&source, &slot_to_copy).await });
                        copied.insert(task.id(), (slot, task));
                    }
                }
                Some(ended) = copies.join_next_with_id() => {
                    let (id, error) = match ended {
                        Ok((id, ended)) => (id, ended.err()),
                        Err(panic) => (panic.id(), None),
                    };
                    let Some((slot, _)) = copied.remove(&id) else { continue };
                    let Some(error) = error else { continue };
                    let reason = error.reason();
                    tracing::debug!(source = source.name(), %slot, reason, "a copy has ended");
                    source.lag().hinder(&slot, reason);
                    source.want_look();
                    let pause = pauses.get(&slot).map_or(BACKOFF.0, |(_, pause)| (*pause * 2).min(BACKOFF.1));
                    pauses.insert(slot, (Instant::now() + pause, pause));
                }
                else => return,
            }
        }
    })
    .await;
}

fn no_room() -> String {
    format!(
        "a copy of its slot would leave fewer than {LEFT_FREE} slots or walsenders free; raise max_replication_slots or \
         max_wal_senders"
    )
}

/// The slots to be copied that are not, and how many more slots and walsenders the server has for it; of others it is
/// noted why they cannot be.
fn to_copy(source: &Source) -> (Vec<SlotName>, u32) {
    let mut lag = source.lag();
    let Some((look, _)) = lag.last_look() else { return (Vec::new(), 0) };
    let spare = look.spare;
    let mut wanted = Vec::new();
    let mut elsewhere = Vec::new();
    for (slot, row) in &look.slots {
        let pgoutput = row.kind == SlotKind::Logical && row.plugin.as_deref() == Some("pgoutput");
        // Where everything is acknowledged there is nothing to count. What should pass the proxy and does not is copied only
        // for a gate, which must know what is published while a consumer is away.
        let is_behind = lag.observe() == Observe::Slot && row.confirmed_flush < Some(look.flushed);
        let behind = is_behind || lag.keeps_copy(slot);
        if !pgoutput || row.temporary || row.is_lost() || !behind || lag.is_followed(slot) || !lag.wants_copy(slot) {
            continue;
        }
        match &row.database {
            Some(database) if *database != look.database => {
                let why = format!("it is of the database {database}, and walgate is connected to {}", look.database);
                elsewhere.push((slot.clone(), why));
            }
            _ if look.counts_us => elsewhere.push((slot.clone(), COUNTED_ON.into())),
            _ => wanted.push(slot.clone()),
        }
    }
    for (slot, why) in elsewhere {
        lag.hinder(&slot, why);
    }
    (wanted, spare)
}

/// Copies a slot and follows it, until the consumer's own stream takes its place or the consumer starts another one.
async fn copy(source: &Source, slot: &SlotName) -> Result<(), CopyError> {
    let (command, named) = {
        let lag = source.lag();
        (lag.command(slot).cloned(), lag.assumed_publications().to_vec())
    };
    let mut too_young = Vec::new();
    loop {
        let error = match follow_copy(source, slot, command.as_ref(), &named, &too_young).await {
            Err(CopyError::Stream(Failure::Server(error))) if error.code == UNDEFINED_OBJECT => error,
            ended => return ended,
        };
        // A publication is looked up as of the change that is decoded: one that was not there yet is no consumer's.
        let unknown = error.message.split('"').nth(1).map(str::to_owned);
        match unknown.filter(|name| command.is_none() && named.is_empty() && !too_young.contains(name)) {
            Some(name) => too_young.push(name),
            None => return Err(Failure::Server(error).into()),
        }
    }
}

async fn follow_copy(
    source: &Source,
    slot: &SlotName,
    command: Option<&StartReplication>,
    named: &[String],
    too_young: &[String],
) -> Result<(), CopyError> {
    let begin = async {
        // The host that is looked at: positions of another say nothing about it.
        let host = source.chosen().ok_or(Failure::SessionAttrs("not known yet"))?;
        let mut session = source.connector().replication_at(&host, Walsender::Database).await?;
        let identity = session.identify_system().await?;
        let history = History { system: identity.system_identifier, timeline: Some(identity.timeline) };
        // Another server may have taken the place of the one that is looked at, under its name.
        if source.lag().history().is_some_and(|watched| watched.contradicts(history)) {
            return Err(CopyError::Elsewhere(history));
        }
        let (options, assumed) = match command {
            Some(command) => (options_of(command), false),
            None if !named.is_empty() => (guess(named)?, false),
            None => {
                let known = session.query(PUBLICATIONS).await?.into_iter().flatten().flatten();
                (guess(&known.filter(|name| !too_young.contains(name)).collect::<Vec<_>>())?, true)
            }
        };
        let own = own_slot_name("copy");
        session.query(&format!("SELECT pg_catalog.pg_copy_logical_replication_slot('{slot}', '{own}', true)")).await?;
        let copied = Instant::now();
        let host = session.host().to_string();
        let options: Vec<(&str, &str)> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let stream = session.start_logical(&own, Lsn::INVALID, &options).await?;
        Ok::<_, CopyError>((stream, host, assumed, copied))
    };
    let (mut stream, host, assumed, copied) = timeout(DEADLINE, begin).await.unwrap_or(Err(CopyError::Timeout))?;
    let Some(attachment) = source.lag().attach_copy(slot, &host, assumed, copied) else { return Ok(()) };
    let _ended = Ended { source, attachment: &attachment };
    source.want_look();

    let mut reader = FrameReader::new(KEEP);
    let mut ticks = interval(Progress::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::default();
    let mut proven = source.proofs_asked(slot);
    loop {
        let proof_wanted = source.proof_wanted();
        let asked = source.proofs_asked(slot);
        if asked != proven {
            proven = asked;
            let decoded = source.lag().stream(&attachment).and_then(|consumer| consumer.decoded());
            stream
                .queue_status(&StatusUpdate { reply_requested: true, ..progress.report(decoded.unwrap_or_default()) });
        }
        tokio::select! {
            biased;
            () = proof_wanted => {}
            // Before the data: a stream without a pause is acknowledged as well.
            _ = ticks.tick() => {
                let decoded = {
                    let mut lag = source.lag();
                    let restarted = lag.command(slot) != command;
                    let look = lag.last_look().map(|(look, _)| look);
                    let moved = look.is_some_and(|look| *look.server != *host);
                    if look.is_some_and(|look| look.counts_us) {
                        return Err(CopyError::CountedOn);
                    }
                    let Some(consumer) = lag.stream(&attachment).filter(|_| !restarted && !moved) else {
                        return Ok(());
                    };
                    consumer.decoded().unwrap_or_default()
                };
                if progress.is_due(decoded) {
                    stream.queue_status(&progress.report(decoded));
                }
            }
            piece = stream.next_piece() => {
                let mut piece = piece?;
                let asked = {
                    let mut lag = source.lag();
                    let Some(consumer) = lag.stream(&attachment) else { return Ok(()) };
                    let asked = read(&mut reader, &mut piece, consumer)?;
                    if consumer.take_schema_shown() {
                        source.want_audit();
                    }
                    asked.then(|| consumer.decoded().unwrap_or_default())
                };
                source.note_progress();
                if let Some(decoded) = asked {
                    stream.queue_status(&progress.report(decoded));
                }
            }
        }
    }
}

const COUNTED_ON: &str = "synchronous_standby_names would count the stream of a copy as a synchronous standby, whose \
    acknowledgements release commits: name the standbys there, and not *";

/// Detaches the copy however it ends.
struct Ended<'a> {
    source: &'a Source,
    attachment: &'a Attachment,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(consumer) = self.source.lag().stream(self.attachment) {
            consumer.detach();
        }
    }
}

/// Reads a piece of the stream; returns whether the server wants an answer.
fn read(reader: &mut FrameReader, piece: &mut &[u8], consumer: &mut Consumer) -> Result<bool, CopyError> {
    let now = Instant::now();
    let (mut asked, mut heard) = (false, None);
    while let Some(frame) = reader.next(piece)? {
        match frame.tag {
            b'd' => match WalMessage::parse(frame.head)? {
                WalMessage::XLogData(data) => {
                    consumer.xlog_data(&data, (frame.len - XLOG_DATA_HEADER) as u64, now)?;
                    heard = Some(data.send_time);
                }
                WalMessage::Keepalive(keepalive) => {
                    consumer.keepalive(&keepalive, now);
                    asked |= keepalive.reply_requested;
                    heard = Some(keepalive.send_time);
                }
            },
            b'N' | b'S' => {}
            b'E' => return Err(error_of(frame).into()),
            _ => return Err(Failure::Closed(COPYING).into()),
        }
    }
    if let Some(send_time) = heard {
        consumer.heard(send_time, now);
    }
    Ok(asked)
}

fn error_of(frame: Frame<'_>) -> Failure {
    match frame.whole().and_then(ErrorFields::parse) {
        Ok(fields) => Failure::Server(fields.into()),
        Err(error) => error.into(),
    }
}

/// The plugin's options as the consumer gave them.
fn options_of(command: &StartReplication) -> Vec<(String, String)> {
    let Mode::Logical { options } = &command.mode else { return Vec::new() };
    // One without a value is a switch that is on.
    options.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_else(|| "true".into()))).collect()
}

const PUBLICATIONS: &str = "SELECT pubname FROM pg_catalog.pg_publication";

/// What a server says of a publication that was not there yet.
const UNDEFINED_OBJECT: &str = "42704";

/// The options for a consumer that was not seen to start: all that it can have asked for.
fn guess(publications: &[String]) -> Result<Vec<(String, String)>, CopyError> {
    if publications.is_empty() {
        return Err(CopyError::NoPublication);
    }
    // Messages too: a consumer that asks for them has to take those.
    let options = [
        ("proto_version", "1".to_owned()),
        ("messages", "true".to_owned()),
        ("publication_names", publication_names(publications)),
    ];
    Ok(options.map(|(name, value)| (name.to_owned(), value)).to_vec())
}
