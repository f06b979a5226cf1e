//! One of a gate's two servers: asks it for the parts of the evidence that are wanted, through a session of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::parts::{Part, SLOW};
use crate::gate::{Piece, Side, Subscription};
use crate::identity::Catalog;
use crate::lsn::Lsn;
use crate::source::catalog::failed;
use crate::source::evidence;
use crate::source::evidence::activity::Reach;
use crate::source::evidence::timeline::{Timeline, timeline_of};
use crate::source::sql::SqlSession;
use crate::source::{ConnectError, Failure, Source, lock};
use crate::time::PgTimestamp;
use crate::verify::sequences;

/// How long the parts of one round may take.
const DEADLINE: Duration = Duration::from_secs(4);

/// A server that is asked.
pub(super) struct Witness {
    source: Arc<Source>,
    /// Whose work counts.
    reach: Reach,
    seen: Mutex<Seen>,
    /// With since when the server runs that it leads to.
    session: tokio::sync::Mutex<Option<(SqlSession, PgTimestamp)>>,
    /// Whether a fence stands on it: then nothing is written there, by walgate neither.
    fenced: AtomicBool,
}

/// A server on which nothing is written.
pub(super) struct Still<'a>(Option<&'a Witness>);

/// What it has said.
#[derive(Default)]
struct Seen {
    side: Side,
    catalog: Piece<Arc<Catalog>>,
    /// When each part was asked for last.
    asked: BTreeMap<Part, Instant>,
    /// What is remembered of each subscription.
    remembered: BTreeMap<String, Remembered>,
}

/// What is remembered of a subscription from one look to the next.
#[derive(Default)]
struct Remembered {
    /// The errors and conflicts when it was first looked at; none once they were set back.
    baseline: u64,
    counted_since: Option<String>,
    received: Option<(Lsn, Instant)>,
}

/// What is to count: nothing older than so, and nothing of before that moment.
pub(super) type Counts = (Duration, Option<Instant>);

impl Witness {
    /// Of this server, on which so much work counts.
    pub(super) fn new(source: Arc<Source>, reach: Reach) -> Witness {
        let fenced = AtomicBool::new(false);
        Witness { source, reach, seen: Mutex::default(), session: tokio::sync::Mutex::default(), fenced }
    }

    /// The server.
    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Nothing is written there once this returns, and as long as what it returns lives; if that is kept, until it is let
    /// go.
    pub(super) async fn hold_still(&self) -> Still<'_> {
        self.fenced.store(true, Ordering::Relaxed);
        let still = Still(Some(self));
        // Whoever was about to write has done so then, and the next one looks.
        drop(self.session.lock().await);
        still
    }

    /// Something may be written there again.
    pub(super) fn let_go(&self) {
        self.fenced.store(false, Ordering::Relaxed);
    }

    /// What it has said so far.
    pub(super) fn side(&self) -> Side {
        self.seen().side.clone()
    }

    /// Its catalog, where that was asked for.
    pub(super) fn catalog(&self) -> Piece<Arc<Catalog>> {
        self.seen().catalog.clone()
    }

    /// Asks for what is wanted and due: read too long ago for what counts, or before the moment `since` which nothing does; says
    /// whether it answers. If it does not, nothing that it has said before counts any more.
    pub(super) async fn ask(&self, wanted: &BTreeSet<Part>, (staleness, since): Counts) -> bool {
        let begun = Instant::now();
        let due = |part: &Part| {
            let seen = self.seen();
            // What was refused may have been granted since.
            let refused = *part == Part::Role && seen.side.replication.value().is_none();
            let lasts = if refused { SLOW } else { part.lasts(staleness) };
            let since = since.filter(|_| part.is_of_switch());
            seen.asked.get(part).is_none_or(|asked| is_over(*asked, begun, lasts, since))
        };
        let due: Vec<Part> = wanted.iter().copied().filter(due).collect();
        let mut session = self.session.lock().await;
        let error = match timeout(DEADLINE, self.ask_for(&due, &mut session, begun)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => Failure::Timeout(DEADLINE).into(),
        };
        *session = None;
        let stopped = Piece::Seen { value: error.is_refused(), at: begun, from: "the server" };
        let why = format!("{} cannot be asked: {error}", self.source.name());
        let mut seen = self.seen();
        seen.asked.clear();
        seen.side = Side { stopped, ..Side::unseen(&why) };
        seen.catalog = Piece::Unseen(why);
        false
    }

    async fn ask_for(
        &self,
        parts: &[Part],
        session: &mut Option<(SqlSession, PgTimestamp)>,
        begun: Instant,
    ) -> Result<(), ConnectError> {
        let chosen = self.source.chosen();
        let is_there = |(known, _): &(SqlSession, PgTimestamp)| {
            !known.is_closed() && chosen.as_ref().is_none_or(|host| host == known.host())
        };
        let (session, since) = match session.take().filter(is_there) {
            Some(known) => session.insert(known),
            None => {
                // The host that is looked at: what another says proves nothing of it.
                let connector = self.source.connector();
                let new = match &chosen {
                    Some(host) => connector.sql_at(host).await?,
                    None => connector.sql().await?,
                };
                let since = evidence::ready(&new).await?;
                session.insert((new, since))
            }
        };
        // One name may lead to several, and two standbys of one primary say the same of their histories.
        let looked_at = self.source.lag().last_look().map(|(look, _)| look.running_since);
        if looked_at.is_some_and(|looked_at| looked_at != *since) {
            let problem = "the connection string leads to another server than a moment ago; name one host".into();
            return Err(Failure::Protocol { during: "gathering evidence", problem }.into());
        }
        for part in parts {
            if *part == Part::Writable && self.fenced.load(Ordering::Relaxed) {
                continue;
            }
            let take: Box<dyn FnOnce(&mut Side) + Send> = match part {
                Part::Reached => {
                    let reached = Piece::Seen { value: false, at: begun, from: "the server" };
                    Box::new(|side| side.stopped = reached)
                }
                Part::Activity => {
                    taken(evidence::activity::activity(session, self.reach).await?, |side| &mut side.activity)
                }
                Part::Subscriptions => {
                    let seen = evidence::subscription::subscriptions(session).await?;
                    let seen = seen.map(|subscriptions| self.seen().with_remembered(subscriptions));
                    taken(seen, |side| &mut side.subscriptions)
                }
                Part::Settings => taken(evidence::settings::settings(session).await?, |side| &mut side.settings),
                Part::Receiver => taken(evidence::receiver::receiver(session).await?, |side| &mut side.receiver),
                Part::Sequences => {
                    let read = match sequences::read(session).await {
                        Ok(value) => Piece::Seen { value, at: begun, from: "pg_sequence" },
                        // Such as one that somebody has locked.
                        Err(error) => match error.as_db_error() {
                            Some(refused) => {
                                Piece::Unseen(format!("the sequences cannot be read: {}", refused.message()))
                            }
                            None => return Err(failed(&error)),
                        },
                    };
                    taken(read, |side| &mut side.sequences)
                }
                Part::Writable => taken(evidence::takeover::writable(session).await?, |side| &mut side.writable),
                Part::Schema => taken(evidence::schema::schema(session).await?.map(Arc::new), |side| &mut side.schema),
                Part::Catalog => {
                    let seen = evidence::unreplicated::catalog(session).await?;
                    self.seen().catalog = seen;
                    Box::new(|_| {})
                }
                Part::Timeline | Part::Role => {
                    let Timeline { history, forks } = timeline_of(&self.source.connector(), session.host()).await;
                    Box::new(|side| (side.replication, side.forks) = (history, forks))
                }
            };
            let mut seen = self.seen();
            take(&mut seen.side);
            seen.asked.insert(*part, begun);
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

/// Puts a piece in its place.
fn taken<T: Send + 'static>(
    piece: Piece<T>,
    place: fn(&mut Side) -> &mut Piece<T>,
) -> Box<dyn FnOnce(&mut Side) + Send> {
    Box::new(move |side| *place(side) = piece)
}

/// Whether what was begun then is to be begun again: it was so long ago, or before the fence.
pub(super) fn is_over(then: Instant, now: Instant, lasts: Duration, fenced: Option<Instant>) -> bool {
    now.saturating_duration_since(then) >= lasts || fenced.is_some_and(|fenced| then < fenced)
}

impl Still<'_> {
    /// Until it is let go.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if let Some(witness) = self.0 {
            witness.let_go();
        }
    }
}

impl Seen {
    /// Adds to what subscriptions show what they have shown before: what had gone wrong before walgate looked, so that what
    /// goes wrong since can be told from it; and how far they had received.
    fn with_remembered(&mut self, mut subscriptions: Vec<Subscription>) -> Vec<Subscription> {
        for subscription in &mut subscriptions {
            let troubles = subscription.troubles();
            let remembered = self.remembered.entry(subscription.name.clone()).or_insert_with(|| Remembered {
                baseline: troubles,
                counted_since: subscription.counted_since.clone(),
                received: None,
            });
            if troubles < remembered.baseline || subscription.counted_since != remembered.counted_since {
                // They were set back, and count anew.
                remembered.baseline = 0;
            }
            remembered.counted_since.clone_from(&subscription.counted_since);
            subscription.baseline = Some(remembered.baseline);
            subscription.received[1] = std::mem::replace(&mut remembered.received, subscription.received[0]);
        }
        subscriptions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(seen: &mut Seen, errors: u64, since: &str, received: (Lsn, Instant)) -> Subscription {
        let subscription = Subscription {
            errors: Some(errors),
            counted_since: Some(since.into()),
            received: [Some(received), None],
            ..Subscription::default()
        };
        seen.with_remembered(vec![subscription]).remove(0)
    }

    #[test]
    fn what_was_counted_before_the_first_look_is_told_from_what_was_counted_after_a_reset() {
        let now = Instant::now();
        for (errors, since, baseline) in
            [(5, "then", 5), (6, "then", 5), (4, "then", 0), (5, "later", 0), (9, "later", 0)]
        {
            let mut seen = Seen::default();
            assert_eq!(look(&mut seen, 5, "then", (Lsn(1), now)).baseline, Some(5));
            assert_eq!(look(&mut seen, errors, since, (Lsn(1), now)).baseline, Some(baseline), "{errors} {since}");
            assert!(look(&mut seen, 9, since, (Lsn(1), now)).baseline <= Some(baseline), "{errors} {since}");
        }
    }

    #[test]
    fn what_was_received_is_remembered_from_one_look_to_the_next() {
        let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut seen = Seen::default();
        assert_eq!(look(&mut seen, 0, "then", (Lsn(1), first)).received, [Some((Lsn(1), first)), None]);
        let both = [Some((Lsn(2), second)), Some((Lsn(1), first))];
        assert_eq!(look(&mut seen, 0, "then", (Lsn(2), second)).received, both);
    }
}
