//! Waits for the slots that a consumer makes anew, until they are read and their reader has caught up.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::list::{matching, reader};
use super::mark::{Mark, Standing, is_lost};
use super::pattern::Pattern;
use crate::cli::interruption::Interruption;
use crate::cli::lag::figures::{age, behind};
use crate::ident::SlotName;
use crate::lag::{ConsumerReport, Observe, SlotReport, SlotRow};
use crate::source::slots::SlotSession;
use crate::source::{Connector, Health, Source, watch};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Between two lines of progress that say the same, where there is no terminal.
const AGAIN: Duration = Duration::from_secs(10);

/// Evidence that is older does not count.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// How far behind a consumer may be that has caught up: one that reads in batches is this far behind now and then.
const CAUGHT_UP: Duration = Duration::from_secs(10);

/// For how long it must be seen to have caught up.
const SETTLED: Duration = Duration::from_secs(2);

/// How zero-cache's sessions are named while it copies tables: its slot is there then, and nobody reads it.
pub(super) const INITIAL_SYNC: &str = "zero-initial-sync";

/// What is waited for.
pub(super) struct Awaited<'a> {
    pub(super) pattern: &'a Pattern,
    pub(super) mark: &'a Mark,
    pub(super) database: &'a str,
    /// Whether the slots are zero-cache's, whose names end in a letter that may change.
    pub(super) zero: bool,
    /// Whether walgate's role sees how far readers are.
    pub(super) sees_readers: bool,
    pub(super) timeout: Duration,
}

/// Where it stands.
enum Progress {
    /// What is to come, in words; and whatever changes from look to look.
    Waiting(String, String),
    CaughtUp(String),
    /// What is waited for will not come.
    Failed(String),
}

impl Awaited<'_> {
    /// Returns whether they have caught up.
    pub(super) async fn wait(
        &self,
        connector: &Connector,
        session: &SlotSession,
        interruption: &mut Interruption,
    ) -> io::Result<bool> {
        let source = Arc::new(Source::new("main", connector.clone(), Observe::Slot, STALE_AFTER));
        source.lag().copy_only([]);
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(watch(Arc::clone(&source), stop));

        let begun = Instant::now();
        let mut told = Told::default();
        let mut settled = None;
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = interruption.recv() => {
                    told.end()?;
                    eprintln!("walgate: stopped; the same command goes on from here");
                    return Ok(false);
                }
            }
            let progress = self.look(&source, session).await;
            if !matches!(progress, Progress::CaughtUp(_)) {
                settled = None;
            }
            match progress {
                Progress::CaughtUp(_) if settled.get_or_insert_with(Instant::now).elapsed() < SETTLED => {}
                Progress::CaughtUp(text) => {
                    told.end()?;
                    eprintln!("{text}");
                    return Ok(true);
                }
                Progress::Failed(text) => {
                    told.end()?;
                    eprintln!("walgate: {text}");
                    return Ok(false);
                }
                Progress::Waiting(what, figures) => {
                    if begun.elapsed() > self.timeout {
                        told.end()?;
                        let limit = humantime::format_duration(self.timeout);
                        eprintln!("walgate: not done within {limit}: {what}; the same command goes on from here");
                        return Ok(false);
                    }
                    let elapsed = age(begun.elapsed().as_secs_f64().floor());
                    told.tell(&what, &format!("[{elapsed}] {what}{figures}"))?;
                }
            }
        }
    }

    async fn look(&self, source: &Source, session: &SlotSession) -> Progress {
        let seen = source.lag().last_look().map(|(look, _)| look.clone());
        let Some(look) = seen else {
            return match source.health() {
                Health::Unreachable { reason, .. } => Progress::Waiting(format!("no answer: {reason}"), String::new()),
                Health::Untried | Health::Reached => Progress::Waiting("looking".into(), String::new()),
            };
        };
        let mut slots = matching(&look, Some(self.pattern));
        slots.retain(|slot| !slot.temporary && slot.database.as_deref() == Some(self.database));
        let is_new = |slot: &SlotReport| self.mark.standing(slot) == Standing::New;
        if let Some(slot) = slots.iter().find(|slot| is_lost(slot)) {
            return Progress::Failed(format!(
                "{} is lost before its consumer has caught up: raise max_slot_wal_keep_size, and run this again",
                slot.slot
            ));
        }
        slots.retain(is_new);
        let missing = self.missing(&slots);
        if !missing.is_empty() {
            return Progress::Waiting(format!("waiting for a new slot {}", missing.join(", ")), String::new());
        }
        let is_streamed = |slot: &&SlotReport| look.slots.get(&slot.slot).is_some_and(|row| self.is_streamed(row));
        if let Some(slot) = slots.iter().find(|slot| !is_streamed(slot)) {
            let copying = match session.sessions_named(INITIAL_SYNC).await {
                Ok(1..) if self.zero => ": zero-cache copies tables",
                _ => "",
            };
            return Progress::Waiting(format!("{} is there, and not read yet{copying}", slot.slot), String::new());
        }
        let names: BTreeSet<SlotName> = slots.iter().map(|slot| slot.slot.clone()).collect();
        let mut lag = source.lag();
        lag.copy_only(names.iter().cloned());
        let reports = lag.reports(Instant::now());
        drop(lag);
        let reports: Vec<&ConsumerReport> = reports.iter().filter(|report| names.contains(&report.slot)).collect();
        match reports.iter().find(|report| !has_caught_up(report)) {
            Some(late) => {
                let figures = format!(", {} behind", behind(late));
                Progress::Waiting(format!("{} catches up", late.slot), figures)
            }
            None => {
                let read =
                    slots.iter().map(|slot| format!("{} is read by {}", slot.slot, reader(slot).unwrap_or_default()));
                let read: Vec<String> = read.collect();
                Progress::CaughtUp(format!("{}, and has caught up", read.join("; ")))
            }
        }
    }

    /// Whether somebody streams from a slot, and does not only hold it, as who makes one does for as long as that takes.
    fn is_streamed(&self, row: &SlotRow) -> bool {
        row.active && row.confirmed_flush.is_some() && (row.reader.sent.is_some() || !self.sees_readers)
    }

    /// Of the slots that were dropped, those that have no successor yet; the pattern where nothing was dropped.
    fn missing(&self, slots: &[SlotReport]) -> Vec<String> {
        let there: BTreeSet<&str> = slots.iter().map(|slot| self.stem(slot.slot.as_str())).collect();
        let wanted: BTreeSet<&str> = self.mark.slots().map(|slot| self.stem(slot)).collect();
        if wanted.is_empty() && there.is_empty() {
            return vec![format!("like {}", self.pattern.as_str())];
        }
        let suffix = if self.zero { "_…" } else { "" };
        wanted.difference(&there).map(|stem| format!("{stem}{suffix}")).collect()
    }

    /// What the names of a consumer's slots have in common: zero-cache takes the first letter that is free.
    fn stem<'s>(&self, slot: &'s str) -> &'s str {
        match slot.rsplit_once('_') {
            Some((stem, letters)) if self.zero && letters.bytes().all(|byte| byte.is_ascii_lowercase()) => stem,
            _ => slot,
        }
    }
}

fn has_caught_up(report: &ConsumerReport) -> bool {
    report.active == Some(true) && report.lag.seconds_max.is_some_and(|most| most <= CAUGHT_UP.as_secs_f64())
}

/// What was told last: on a terminal one line that changes, else a line for whatever is new, and now and then.
#[derive(Default)]
struct Told {
    what: String,
    at: Option<Instant>,
}

impl Told {
    fn tell(&mut self, what: &str, line: &str) -> io::Result<()> {
        let mut output = io::stderr().lock();
        if output.is_terminal() {
            write!(output, "\r\x1b[K{line}")?;
            output.flush()?;
        } else if self.what != what || self.at.is_none_or(|at| at.elapsed() >= AGAIN) {
            writeln!(output, "{line}")?;
        } else {
            return Ok(());
        }
        (self.what, self.at) = (what.to_owned(), Some(Instant::now()));
        Ok(())
    }

    /// Leaves the line.
    fn end(&self) -> io::Result<()> {
        let mut output = io::stderr().lock();
        if output.is_terminal() && self.at.is_some() { writeln!(output) } else { Ok(()) }
    }
}
