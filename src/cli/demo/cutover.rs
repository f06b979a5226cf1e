//! May green take over? Not while somebody writes, not while something is on its way, and not with sequences that would
//! give numbers out twice. Then yes, with a receipt.

use std::time::Instant;

use tokio::time::sleep;

use super::Error;
use super::scene::{GATE, SLOT, Way};
use super::shop::{OPEN_ORDER, ORDER, session, value};
use super::story::{PACE, PATIENCE, Story};
use crate::cli::gate::Report;

/// Orders that green takes.
const AFTERWARDS: u64 = 20;

impl Story {
    pub(super) async fn cut_over(&mut self) -> Result<(), Error> {
        self.screen.note("green is to take over, while the shop sells and somebody is at the checkout")?;
        let checkout = session(&self.scene.dsn.blue, "checkout").await?;
        checkout.batch_execute(OPEN_ORDER).await?;
        self.enter_and_sell(&of_gate("check")).await?;
        let refuses = |report: &Report| report.state == "fail" && stands(report, "writers") == "wait";
        let report = self.gate_until("checkout", refuses).await?;
        self.check(
            refuses(&report),
            format!("the gate said no while somebody wrote: {}; {}", report.reason, observed(&report, "writers")),
        );

        self.screen.note("the shop closes; but who is at the checkout is not done")?;
        self.enter(&of_gate("fence")).await?;
        let early = self.scene.api.fence().await?;
        self.check(early.is_none(), "no fence was set while a transaction was open");
        checkout.batch_execute("COMMIT").await?;
        self.orders += 1;
        self.screen.note("now they are: nobody writes any more")?;
        self.enter(&of_gate("fence")).await?;

        let lacks_sequences = |report: &Report| {
            let has_rows = ["caught-up", "applied"].iter().all(|id| stands(report, id) == "pass");
            has_rows && report.state == "wait" && stands(report, "sequences") == "wait"
        };
        let report = self.gate_until("fenced", lacks_sequences).await?;
        let behind = observed(&report, "sequences");
        self.screen.note("every row is there; but what is forgotten most often replication does not carry:")?;
        self.screen.stay(&format!("   sequences: {behind}"))?;
        self.check(lacks_sequences(&report), format!("only then sequences stood in the way: {behind}"));
        self.enter(&(of_gate("sequences") + " --apply --yes")).await?;
        self.enter(&of_gate("wait")).await?;
        let report = self.gate_until("fenced", |report| report.state == "pass").await?;
        let is_proven = report.state == "pass";
        let passed = report.receipt.and_then(|receipt| receipt.target_lsn).map(|lsn| lsn.to_string());
        let fence = self.scene.api.fence().await?;
        self.check(
            passed.is_some() && passed == fence,
            format!("it passed, with a receipt for its fence: {}", passed.as_deref().unwrap_or("none")),
        );
        self.equal_rows("when it passed").await?;
        if is_proven {
            self.open_on_green().await?;
        } else {
            self.screen.note("without a proof nobody switches: the shop stays on blue")?;
        }
        self.enter(&of_gate("release")).await
    }

    /// The shop goes on, on green.
    async fn open_on_green(&mut self) -> Result<(), Error> {
        let Way { blue, green } = &self.scene.session;
        let last: u64 = value(blue, "SELECT max(id) FROM orders").await?.parse()?;
        let before: u64 = value(blue, "SELECT count(*) FROM orders").await?.parse()?;
        green.batch_execute(&format!("ALTER SUBSCRIPTION {SLOT} DISABLE")).await?;
        for _ in 0..AFTERWARDS {
            green.batch_execute(ORDER).await?;
        }
        let new =
            format!("SELECT count(*) || ' orders, ' || min(id) || ' to ' || max(id) FROM orders WHERE id > {last}");
        let (new, all) = (value(green, &new).await?, value(green, "SELECT count(*) FROM orders").await?);
        self.screen.note(&format!("the shop opens on green: {new}, after {last} on blue"))?;
        let expected = format!("{AFTERWARDS} orders, {} to {}", last + 1, last + AFTERWARDS);
        self.check(new == expected, format!("numbers go on without a collision: {new}, after {last}"));
        let is_whole = all == (before + AFTERWARDS).to_string();
        self.check(is_whole, format!("no order was lost: {before} on blue and {AFTERWARDS} more are {all} on green"));
        Ok(())
    }

    /// Asks the gate until its answer is so, or until patience runs out; returns the last one.
    async fn gate_until(&mut self, phase: &str, is_so: impl Fn(&Report) -> bool) -> Result<Report, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.scene.api.gate().await?;
            if is_so(&report) || Instant::now() >= deadline {
                return Ok(report);
            }
            self.show(phase).await?;
            sleep(PACE).await;
        }
    }
}

/// A command of `walgate gate`, as somebody would type it.
fn of_gate(action: &str) -> String {
    format!("gate {action} {GATE} -c \"$CONFIG\"")
}

/// How a check of the gate's stands.
fn stands<'a>(report: &'a Report, id: &str) -> &'a str {
    report.checks.iter().find(|check| check.id == id).map_or("missing", |check| &check.status)
}

/// What it has seen.
fn observed<'a>(report: &'a Report, id: &str) -> &'a str {
    report.checks.iter().find(|check| check.id == id).map_or("nothing", |check| &check.observed)
}
