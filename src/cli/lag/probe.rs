//! Looks at a source until all that can be known is known, or time is up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::limits::{Judgement, Limits, Verdict};
use crate::ident::SlotName;
use crate::lag::{ConsumerReport, Observe, SourceLag, State};
use crate::source::{Connector, Health, Source, watch};

/// The source's name in answers: a stand-alone probe has one, as the daemon has that is started by flags.
const SOURCE: &str = "main";

/// The age at which evidence no longer counts: some looks have failed by then.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Between two looks at whether there is an answer.
const PAUSE: Duration = Duration::from_millis(5);

/// A source under observation, until this is dropped.
pub(super) struct Probe {
    source: Arc<Source>,
    wanted: Vec<SlotName>,
    limits: Limits,
    _stop: DropGuard,
}

/// What is known at a moment.
pub(super) struct Answer {
    /// Those that were asked for.
    pub(super) consumers: Vec<ConsumerReport>,
    /// What each is judged to be, in the same order.
    pub(super) judgements: Vec<Judgement>,
    /// The server's version and place, once it has answered.
    pub(super) server: Option<String>,
    /// Why nothing can be told about the source.
    pub(super) trouble: Option<String>,
    /// What was asked for and is not there, in words.
    pub(super) missing: Vec<String>,
    /// What keeps walgate from seeing all there is, and how to mend it.
    pub(super) remarks: Vec<&'static str>,
    /// The worst of it all.
    pub(super) verdict: Verdict,
}

impl Probe {
    /// Begins to look at these slots, or at all of them. Needs to run within a tokio runtime.
    pub(super) fn start(
        connector: Connector,
        wanted: Vec<SlotName>,
        publications: Vec<String>,
        observe: Observe,
        limits: Limits,
    ) -> Probe {
        let source = Arc::new(Source::new(SOURCE, connector, observe, STALE_AFTER));
        if !wanted.is_empty() {
            source.lag().copy_only(wanted.iter().cloned());
        }
        source.lag().assume_publications(publications);
        let stop = CancellationToken::new();
        tokio::spawn(watch(Arc::clone(&source), stop.clone()));
        Probe { source, wanted, limits, _stop: stop.drop_guard() }
    }

    /// Where it looks, without a password.
    pub(super) fn target(&self) -> String {
        self.source.connector().dsn().to_string()
    }

    /// What an answer is judged by.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits for the best answer that can be had until the deadline. Cancel-safe.
    pub(super) async fn settle(&self, deadline: Instant) -> Answer {
        loop {
            let answer = self.look();
            if self.is_settled(&answer) || Instant::now() >= deadline {
                return answer;
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether waiting would tell nothing more. A failure is an answer too: what it will be like once the server is back is
    /// for the next probe to find out.
    fn is_settled(&self, answer: &Answer) -> bool {
        match self.source.health() {
            Health::Untried => false,
            Health::Unreachable { .. } => true,
            Health::Reached => {
                let lag = self.source.lag();
                answer.consumers.iter().all(|report| is_final(&lag, report))
            }
        }
    }

    /// What is known now.
    pub(super) fn look(&self) -> Answer {
        let now = Instant::now();
        let mut consumers = self.source.lag().reports(now);
        let trouble = match self.source.health() {
            Health::Reached => None,
            Health::Untried => Some(format!("{} has not answered yet", self.target())),
            Health::Unreachable { reason, .. } => Some(reason),
        };
        let mut missing = Vec::new();
        if trouble.is_none() {
            let there: Vec<&str> = consumers.iter().map(|report| report.slot.as_str()).collect();
            let is_missing = |slot: &&SlotName| !there.contains(&slot.as_str());
            missing.extend(self.wanted.iter().filter(is_missing).map(|slot| match there.as_slice() {
                [] => format!("there is no slot {slot}, and no other"),
                there => format!("there is no slot {slot}; there are: {}", there.join(", ")),
            }));
            if self.wanted.is_empty() && there.is_empty() {
                missing.push("there are no replication slots".into());
            }
        }
        consumers.retain(|report| self.wanted.is_empty() || self.wanted.contains(&report.slot));
        let judgements: Vec<Judgement> = consumers.iter().map(|report| self.limits.judge(report)).collect();
        let is_partial = trouble.is_some() || !missing.is_empty();
        let verdicts = judgements.iter().map(|judgement| judgement.verdict);
        let verdict = verdicts.chain(is_partial.then_some(Verdict::Unknown)).max().unwrap_or(Verdict::Unknown);
        let source = self.source.report(now);
        let server = source.server_version.zip(source.server);
        let server = server.map(|(version, server)| format!("PostgreSQL {version} at {server}"));
        Answer { consumers, judgements, server, trouble, missing, remarks: source.remarks, verdict }
    }
}

impl Answer {
    /// Why there is no answer for everything that was asked for.
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        self.trouble.iter().chain(&self.missing).map(String::as_str)
    }

    /// The same, and what stands in the way of a better answer.
    pub(super) fn remarks(&self) -> impl Iterator<Item = &str> {
        self.problems().chain(self.remarks.iter().copied())
    }

    /// Each consumer with what it is judged to be.
    pub(super) fn judged(&self) -> impl Iterator<Item = (&ConsumerReport, &Judgement)> {
        self.consumers.iter().zip(&self.judgements)
    }
}

/// Whether a consumer's figures are as good as they will get.
fn is_final(lag: &SourceLag, report: &ConsumerReport) -> bool {
    let row = lag.last_look().and_then(|(look, _)| look.slots.get(&report.slot));
    let is_copied = lag.observe() == Observe::Slot
        && report.plugin.as_deref() == Some("pgoutput")
        && row.is_some_and(|row| !row.is_lost() && !row.temporary)
        && lag.hindrance(&report.slot).is_none();
    match report.state {
        State::Live => true,
        // A copy that has been read to the end and is of publications that may not be the consumer's.
        State::Bounded if report.observe == Observe::Slot => report.lag.undecoded_wal_bytes == Some(0),
        State::Bounded | State::Stale | State::Unknown => !is_copied,
    }
}
