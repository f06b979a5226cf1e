//! What is usually asked for the lag of a slot, to be shown beside what walgate says: three figures of PostgreSQL's own
//! views, and two of postgres_exporter, as Debian packages it (0.11).

use std::fmt;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use walgate::scratch::{Server, free_port};

use super::zero::GUARD;
use super::{Sql, eventually, last_lines};

const EXPORTER: &str = "prometheus-postgres-exporter";

/// A session and a postgres_exporter at one server. Both end with this value.
pub(crate) struct Usual {
    sql: Sql,
    child: Child,
    directory: tempfile::TempDir,
    metrics: String,
}

/// What they say of one slot, in the same moment; `None` is null, NaN or absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// `pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)`, in bytes.
    pub(crate) behind_confirmed: Option<f64>,
    /// `sent_lsn - flush_lsn` of `pg_stat_replication`, in bytes.
    pub(crate) sent_unflushed: Option<f64>,
    /// `replay_lag` of `pg_stat_replication`, in seconds.
    pub(crate) replay_lag: Option<f64>,
    /// postgres_exporter's `pg_replication_slots_pg_wal_lsn_diff`, in bytes: what is behind `restart_lsn`.
    pub(crate) exporter_slot: Option<f64>,
    /// postgres_exporter's `pg_stat_replication_pg_wal_lsn_diff`, in bytes: what is behind `replay_lsn`.
    pub(crate) exporter_replay: Option<f64>,
}

impl Usual {
    /// Looks at a server, which must be running and may be stopped later.
    #[track_caller]
    pub(crate) fn of(server: &Server) -> Usual {
        let version = Command::new(EXPORTER).arg("--version").output();
        version.unwrap_or_else(|error| panic!("{EXPORTER} does not start ({error}): apt-get install {EXPORTER}"));
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let log = File::create(directory.path().join("log")).expect("the log can be made");
        let address = format!("127.0.0.1:{}", free_port().expect("there is a free port"));
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, EXPORTER, EXPORTER, "--web.listen-address", &address, "--disable-settings-metrics"]);
        command.env("DATA_SOURCE_NAME", format!("{} sslmode=disable", server.dsn("postgres")));
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("the log can be shared")).stderr(log);
        let child = command.spawn().expect("sh starts");
        let sql = Sql::connect(&server.dsn("postgres"));
        let usual = Usual { sql, child, directory, metrics: format!("http://{address}/metrics") };
        eventually("postgres_exporter to reach the server", || match usual.scrape() {
            Ok(text) if text.lines().any(|line| line == "pg_up 1") => Ok(()),
            other => Err((other, usual.log())),
        });
        usual
    }

    /// What all of them say of a slot now; nothing of one that there is not.
    #[track_caller]
    pub(crate) fn figures(&self, slot: &str) -> Figures {
        let rows = self.sql.rows(&format!(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), slot.confirmed_flush_lsn),
                    pg_wal_lsn_diff(sender.sent_lsn, sender.flush_lsn),
                    extract(epoch FROM sender.replay_lag), slot.active_pid
             FROM pg_replication_slots AS slot LEFT JOIN pg_stat_replication AS sender ON sender.pid = slot.active_pid
             WHERE slot.slot_name = '{slot}'"
        ));
        let text = self.scrape().unwrap_or_else(|error| panic!("{}: {error}\n{}", self.metrics, self.log()));
        let Some([behind_confirmed, sent_unflushed, replay_lag, pid]) = rows.first().map(Vec::as_slice) else {
            return Figures::default();
        };
        let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        Figures {
            behind_confirmed: number(behind_confirmed),
            sent_unflushed: number(sent_unflushed),
            replay_lag: number(replay_lag),
            exporter_slot: sample(&text, "pg_replication_slots_pg_wal_lsn_diff", slot),
            // It puts the walsender's process id there.
            exporter_replay: pid.as_ref().and_then(|pid| sample(&text, "pg_stat_replication_pg_wal_lsn_diff", pid)),
        }
    }

    fn scrape(&self) -> Result<String, ureq::Error> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
        let agent: ureq::Agent = agent.build().into();
        agent.get(&self.metrics).call()?.body_mut().read_to_string()
    }

    fn log(&self) -> String {
        last_lines(&fs::read_to_string(self.directory.path().join("log")).unwrap_or_default())
    }
}

impl Drop for Usual {
    fn drop(&mut self) {
        // Waiting closes the pipe, which the guard waits for.
        let _ = self.child.wait();
    }
}

impl Figures {
    /// The head of a Markdown table of such rows.
    pub(crate) const HEAD: &str = "\
        | current − confirmed_flush | sent − flush | replay_lag | exporter, slot | exporter, replication |\n\
        |--:|--:|--:|--:|--:|";
}

/// A row of that table.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |figure: Option<f64>| figure.map_or("–".to_owned(), |bytes| format!("{bytes} B"));
        let replay_lag = self.replay_lag.map_or("–".to_owned(), |seconds| format!("{seconds:.3} s"));
        let [confirmed, sent] = [self.behind_confirmed, self.sent_unflushed].map(bytes);
        let [slot, replay] = [self.exporter_slot, self.exporter_replay].map(bytes);
        write!(f, "| {confirmed} | {sent} | {replay_lag} | {slot} | {replay} |")
    }
}

/// The value of a metric for a `slot_name`; none where it is NaN.
fn sample(text: &str, metric: &str, slot_name: &str) -> Option<f64> {
    let of = |line: &&str| {
        line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'))
            && line.contains(&format!("slot_name=\"{slot_name}\""))
    };
    let value: f64 = text.lines().find(of)?.rsplit(' ').next()?.parse().ok()?;
    Some(value).filter(|value| !value.is_nan())
}
