//! How far behind is green? It follows, stalls as behind a migration, and recovers.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Error;
use super::answers::{Consumer, Lag};
use super::shop::{session, value};
use super::story::{PACE, PATIENCE, Story};

impl Story {
    /// Waits for the initial copy; returns whether nothing is pending behind it.
    pub(super) async fn copied(&mut self) -> Result<bool, Error> {
        const UNREADY: &str = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        let deadline = Instant::now() + PATIENCE;
        while value(&self.scene.session.green, UNREADY).await? != "0" && Instant::now() < deadline {
            self.show("copying").await?;
            sleep(PACE).await;
        }
        self.caught_up().await
    }

    /// Waits, without orders, until nothing is pending; returns whether that came in time.
    pub(super) async fn caught_up(&mut self) -> Result<bool, Error> {
        Ok(self.until("catching up", Consumer::has_everything).await?.has_everything())
    }

    /// Orders go on for so long, and green follows.
    pub(super) async fn follow(&mut self, length: Duration) -> Result<(), Error> {
        self.go_on("following", length).await?;
        Ok(())
    }

    /// Has green stall for so long, as a migration there would, while orders go on.
    pub(super) async fn stall(&mut self, length: Duration) -> Result<(), Error> {
        self.screen.note("a lock on green's orders: it stalls")?;
        let migration = session(&self.scene.dsn.green, "migration").await?;
        migration.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await?;
        let early = self.go_on("stalled", length / 2).await?.lag;
        self.go_on("stalled", length / 2).await?;
        let has: u64 = value(&migration, "SELECT count(*) FROM orders").await?.parse()?;
        let missing = self.orders.saturating_sub(has);
        // The latest is committed, but may be on its way still.
        let late = self.until("stalled", |consumer| consumer.lag.transactions >= Some(missing)).await?.lag;
        migration.batch_execute("ROLLBACK").await?;
        self.screen.note("the lock is gone: it recovers")?;
        self.has_grown(&early, &late);
        let pending = late.transactions.unwrap_or(0);
        self.check(
            missing > 0 && pending >= missing,
            format!("green lacked {missing} transactions then, and no fewer were pending: {pending}"),
        );
        Ok(())
    }

    /// Notes that every figure has grown from the middle of a stall to its end.
    fn has_grown(&mut self, early: &Lag, late: &Lag) {
        for (figure, before, after) in [
            ("transactions", early.transactions, late.transactions),
            ("rows", early.rows, late.rows),
            ("bytes", early.bytes, late.bytes),
        ] {
            let (before, after) = (before.unwrap_or(0), after.unwrap_or(0));
            self.check(
                before > 0 && after > before,
                format!("{figure} behind grew while stalled: {before}, then {after}"),
            );
        }
        let (before, after) = (early.seconds.unwrap_or(0.0), late.seconds.unwrap_or(0.0));
        self.check(
            before > 0.0 && after > before,
            format!("seconds behind grew while stalled: {before:.1}, then {after:.1}"),
        );
    }

    /// Orders go on for so long; returns how far behind green then is.
    async fn go_on(&mut self, phase: &str, length: Duration) -> Result<Consumer, Error> {
        let end = Instant::now() + length;
        loop {
            let consumer = self.sell(phase).await?;
            if Instant::now() >= end {
                return Ok(consumer);
            }
        }
    }
}
