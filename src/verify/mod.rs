//! Whether two databases hold the same rows: counted and summed up inside each server, table by table, so that no row
//! leaves it but the keys of rows that differ.
//!
//! It only looks. Each side is read by a few sessions, piece by piece, in a snapshot that lasts as long as one table takes;
//! a piece that takes too long, a lock that is held and a reader that stands in somebody's way end the look at that
//! table, which is then `unknown`: what was not looked at is never called equal. Dropping the future ends all of it.
//!
//! What is under way between the two is not equal at the same moment: rows that differ are looked at again until
//! [`Options::settle`] has passed. For proof, stop the writers first.

mod compare;
mod pages;
mod plan;
mod report;
mod scope;
pub mod sequences;
mod session;
mod statement;

pub use report::{
    ColumnDifference, KeyDifference, Kind, Outcome, Ranges, Report, RowDifferences, Sampled, Side, State, TableReport,
};
pub use scope::Scope;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

use compare::Comparison;
use plan::{Leaves, Plan};
use session::Sessions;
use statement::{Encoding, Seeds, Statements};

use crate::gate::{self, Phase, Terms};
use crate::ident::{SlotName, TableName};
use crate::source::{ConnectError, Connector};
use crate::time::PgTimestamp;

/// What is compared, and how gently.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which tables.
    pub scope: Scope,
    /// Only these of them, and these others too if the source has them; as SQL writes them, `public.orders`. All of the
    /// scope where there are none.
    pub tables: Vec<String>,
    /// Tables that are known not to be replicated: they are not looked at.
    pub accepted: Vec<String>,
    /// Whether such a table may be missing on the target. In a rollback it has rows that are to go back.
    pub accept_missing: bool,
    /// How much of each table; all of it where there is none.
    pub sample: Option<Sample>,
    /// What a sample is chosen by.
    pub seed: u64,
    /// Sessions with each server.
    pub jobs: usize,
    /// How long one range may take, and any other statement.
    pub range_timeout: Duration,
    /// The most that is read of each server, in bytes per second.
    pub max_rate: Option<u64>,
    /// For how long rows that differ are looked at again, in case they are only under way.
    pub settle: Duration,
    /// How many keys are named of each table.
    pub keys: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            scope: Scope::All,
            tables: Vec::new(),
            accepted: Vec::new(),
            accept_missing: true,
            sample: None,
            seed: RandomState::new().hash_one(0),
            jobs: 2,
            range_timeout: Duration::from_secs(60),
            max_rate: None,
            settle: Duration::from_secs(5),
            keys: 20,
        }
    }
}

impl Options {
    /// What a gate wants compared in a phase; none where its target is no database.
    pub fn of(terms: &Terms, phase: Phase) -> Option<Options> {
        let scope = match (terms.kind, &terms.reverse) {
            (gate::Kind::Slot | gate::Kind::Zero, _) => return None,
            (gate::Kind::Standby, _) => Scope::All,
            (_, Some(reverse)) if phase.is_back() => Scope::Consumers(reverse.consumers.clone()),
            (_, None) if phase.is_back() => Scope::All,
            _ => Scope::Consumers(terms.consumers.clone()),
        };
        let accepted = terms.accept_unreplicated.iter().cloned().collect();
        Some(Options { scope, accepted, accept_missing: !phase.is_back(), ..Options::default() })
    }
}

/// How much of a table is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// About so many rows.
    Rows(u64),
    /// About so much of all its rows, in percent.
    Percent(f64),
}

impl Sample {
    /// How many rows that are of about so many.
    fn rows(self, all: Option<u64>) -> Option<u64> {
        match self {
            Sample::Rows(rows) => Some(rows),
            Sample::Percent(percent) => all.map(|all| (all as f64 * percent / 100.0).ceil() as u64),
        }
    }
}

impl FromStr for Sample {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Sample, Self::Err> {
        let sample = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|it| *it > 0.0 && *it <= 100.0).map(Sample::Percent),
            None => text.parse().ok().filter(|rows| *rows > 0).map(Sample::Rows),
        };
        sample.ok_or("expected a number of rows like 100000, or a part of them like 5%")
    }
}

/// How far it is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Tables that are done.
    pub tables_done: usize,
    /// Tables to be looked at.
    pub tables: usize,
    /// The one that is being looked at.
    pub table: Option<TableName>,
    /// Bytes read, of both sides.
    pub bytes_done: u64,
    /// Bytes to be read, as the statistics and what was seen since say.
    pub bytes: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session, or one was lost.
    #[error("{0}: {1}")]
    Unreachable(Side, ConnectError),
    /// A server does not answer, and does not say why.
    #[error("{0}: no answer within {seconds} s; check the server and the network", seconds = .1.as_secs())]
    Silent(Side, Duration),
    /// The role may not see what is published.
    #[error("{0}: {1}")]
    Denied(Side, String),
    /// Sessions of one connection string are with different servers.
    #[error("{0}: the connection string leads to different servers; name one host")]
    Servers(Side),
    /// They are the same.
    #[error("source and target are the same database; check the connection strings")]
    Same,
    /// The servers do not agree on a hash.
    #[error(
        "the servers do not hash alike, as machines of different byte order do; rows of these two cannot be compared by digest"
    )]
    Hashes,
    /// A publication is not there.
    #[error("the source has no publication {0}")]
    NoPublication(String),
    /// A table is not there.
    #[error(
        "there is no table {0} on the source; give it with its schema, as SQL writes it: public.orders, public.\"Order\""
    )]
    NoTable(String),
    /// It cannot be told what a slot's consumer reads.
    #[error(
        "what the consumer of slot {0} reads is not known: nobody streams it, and no subscription of the target names it; \
         name publications instead, or start it"
    )]
    NothingKnown(SlotName),
    /// There are no consumers.
    #[error("no consumer is named, so nothing tells which tables are to be compared")]
    NoConsumer,
    /// Publications and replication sets.
    #[error("the consumers read both publications and replication sets of pglogical; verify them one by one")]
    Mixed,
}

impl Error {
    /// Whether a server could not be reached, or was lost.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable(..) | Error::Silent(..))
    }

    /// Whether something else was asked for than can be.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Same | Error::NoPublication(_) | Error::NoTable(_) | Error::NoConsumer)
    }
}

/// Between two looks at rows that differ.
const AGAIN: Duration = Duration::from_millis(500);

/// Compares the databases, and tells how far it is each time that changes. Needs to run within a tokio runtime.
///
/// # Errors
/// Where there is nothing to compare by, or a server is lost. What cannot be seen of single tables is in the report.
pub async fn run(
    source: &Connector,
    target: &Connector,
    options: &Options,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Report, Error> {
    let began_at = PgTimestamp::now();
    let ((source, source_catalog), (target, target_catalog)) =
        tokio::try_join!(Sessions::open(Side::Source, source, options), Sessions::open(Side::Target, target, options))?;
    if source.identity == target.identity {
        return Err(Error::Same);
    }
    let encoding = if source.encoding == target.encoding { Encoding::Same } else { Encoding::Different };
    let seeds = Seeds([1, 2, 3].map(|place| RandomState::new().hash_one((options.seed, place)) as u32));
    agree(&source, &target, seeds).await?;

    let mut subjects = scope::subjects(&options.scope, &source, &source_catalog, &target, &target_catalog).await?;
    if !options.tables.is_empty() {
        let all = scope::subjects(&Scope::All, &source, &source_catalog, &target, &target_catalog).await?;
        let name = |subject: &scope::Subject| {
            source_catalog.relations.get(&subject.table).map(|table| table.table_name().to_string())
        };
        let mut wanted = Vec::new();
        for table in &options.tables {
            let of = subjects.iter().chain(&all).find(|subject| name(subject).as_ref() == Some(table));
            wanted.push(of.cloned().ok_or_else(|| Error::NoTable(table.clone()))?);
        }
        subjects = wanted;
    }
    let everything = options.scope == Scope::All && options.tables.is_empty();
    // What is asked for by name is looked at.
    let accepted = if options.tables.is_empty() { options.accepted.as_slice() } else { &[] };
    let plans =
        plan::plans(&subjects, &source_catalog, &target_catalog, everything, (accepted, options.accept_missing));

    let planned = || plans.iter().filter_map(|(_, planned)| planned.as_ref().ok());
    let (of_source, of_target) = tokio::try_join!(
        estimates(&source, planned().map(|plan| &plan.source)),
        estimates(&target, planned().map(|plan| &plan.target))
    )?;
    let estimate = |plan: &Plan| of_source.of(&plan.source).bytes + of_target.of(&plan.target).bytes;
    let sampled = options.sample.is_some();
    let meter = Meter::new(progress, plans.len(), if sampled { 0 } else { planned().map(estimate).sum() });
    let comparison = |plan| {
        let statements = Statements { plan, seeds, encoding };
        Comparison { source: &source, target: &target, statements, options, meter: &meter }
    };
    let mut seen = Vec::new();
    for (name, planned) in &plans {
        seen.push(match planned {
            Ok(plan) => {
                meter.table(name, if sampled { 0 } else { estimate(plan) });
                (Some(comparison(plan)), comparison(plan).look(of_source.of(&plan.source).rows).await?)
            }
            Err(report) => (None, TableReport::clone(report).into()),
        });
        meter.table_done();
    }
    let until = Instant::now() + options.settle;
    while seen.iter().any(|(_, seen)| seen.is_open) && Instant::now() < until {
        sleep(AGAIN.min(options.settle)).await;
        for (comparison, seen) in &mut seen {
            if let Some(comparison) = comparison.filter(|_| seen.is_open) {
                comparison.look_again(seen).await?;
            }
        }
    }
    let tables: Vec<TableReport> = seen
        .into_iter()
        .map(|(comparison, seen)| match comparison {
            Some(comparison) => comparison.conclude(seen),
            None => seen.report,
        })
        .collect();
    let seed = options.sample.map(|_| options.seed);
    Ok(Report { outcome: Outcome::of(&tables), began_at, ended_at: PgTimestamp::now(), seed, tables })
}

/// Makes sure that both servers hash a text to the same.
async fn agree(source: &Sessions, target: &Sessions, Seeds([seed, ..]): Seeds) -> Result<(), Error> {
    let probe = format!("SELECT hashtextextended('walgate compares rows by their text' COLLATE \"C\", {seed})");
    let hash = async |sessions: &Sessions| {
        let rows = sessions.query(&probe, &[]).await.map_err(|trouble| sessions.refused(trouble))?;
        let hash = rows.first().map(|row| row.try_get::<_, i64>(0)).transpose();
        hash.map_err(|error| sessions.refused(sessions.trouble(&error)))
    };
    let (source, target) = tokio::try_join!(hash(source), hash(target))?;
    if source.is_some() && source == target { Ok(()) } else { Err(Error::Hashes) }
}

/// What statistics say of tables, by OID.
struct Estimates(HashMap<u32, Estimate>);

/// About how much there is.
#[derive(Clone, Copy)]
struct Estimate {
    bytes: u64,
    /// None where the table was never looked at.
    rows: Option<u64>,
}

impl Estimates {
    /// Of all that holds a table's rows.
    fn of(&self, leaves: &Leaves) -> Estimate {
        let none = Estimate { bytes: 0, rows: None };
        let parts = leaves.tables.iter().map(|leaf| self.0.get(&leaf.oid.0).copied().unwrap_or(none));
        parts.fold(Estimate { bytes: 0, rows: Some(0) }, |sum, part| Estimate {
            bytes: sum.bytes + part.bytes,
            rows: sum.rows.zip(part.rows).map(|(sum, rows)| sum + rows),
        })
    }
}

async fn estimates<'a>(sessions: &Sessions, tables: impl Iterator<Item = &'a Leaves>) -> Result<Estimates, Error> {
    const ESTIMATES: &str = "
        SELECT oid, relpages::int8 * current_setting('block_size')::int8,
               CASE WHEN reltuples > 0 THEN reltuples::float8 ELSE pg_stat_get_live_tuples(oid)::float8 END
        FROM pg_class WHERE oid = ANY($1)";
    let oids: Vec<u32> = tables.flat_map(|leaves| &leaves.tables).map(|leaf| leaf.oid.0).collect();
    let read = |row: &Row| {
        let (bytes, rows): (i64, f64) = (row.try_get(1)?, row.try_get(2)?);
        // Of what was never counted, too.
        let rows = Some(rows).filter(|rows| *rows > 0.0).map(|rows| rows as u64);
        Ok((row.try_get(0)?, Estimate { bytes: bytes.unsigned_abs(), rows }))
    };
    let rows = sessions.query(ESTIMATES, &[&oids]).await.map_err(|trouble| sessions.refused(trouble))?;
    let estimates: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
    estimates.map(Estimates).map_err(|error| sessions.refused(sessions.trouble(&error)))
}

/// Keeps the account of what was read.
struct Meter<'a> {
    tell: &'a (dyn Fn(&Progress) + Sync),
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    progress: Progress,
    /// What was estimated of the table that is being read and is not known yet.
    estimated: u64,
}

impl<'a> Meter<'a> {
    fn new(tell: &'a (dyn Fn(&Progress) + Sync), tables: usize, bytes: u64) -> Meter<'a> {
        let progress = Progress { tables, bytes, ..Progress::default() };
        Meter { tell, account: Mutex::new(Account { progress, estimated: 0 }) }
    }

    fn change(&self, change: impl FnOnce(&mut Account)) {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut account);
        (self.tell)(&account.progress);
    }

    /// A table begins, of which so much was estimated.
    fn table(&self, name: &TableName, estimated: u64) {
        self.change(|account| {
            account.progress.table = Some(name.clone());
            account.estimated = estimated;
        });
    }

    /// So much of it is going to be read.
    fn begin(&self, bytes: u64) {
        self.change(|account| {
            let known = account.estimated.min(bytes);
            account.estimated -= known;
            account.progress.bytes += bytes - known;
        });
    }

    /// So much was read.
    fn done(&self, bytes: u64) {
        self.change(|account| account.progress.bytes_done += bytes);
    }

    fn table_done(&self) {
        self.change(|account| {
            account.progress.tables_done += 1;
            account.progress.table = None;
            account.progress.bytes = account.progress.bytes.saturating_sub(std::mem::take(&mut account.estimated));
        });
    }
}
