//! What all parts of the story share: who takes part, the orders that go on, walgate's commands, and the checks.

use std::iter;
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::Parser as _;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::answers::{Consumer, Lag};
use super::scene::{SLOT, Scene, Way};
use super::screen::{Screen, say};
use super::shop::{ORDER, SCHEMA, TABLES, counts};
use super::{Error, Pace};
use crate::cli::Cli;
use crate::client;

/// From one order to the next, and from one question to the next: 20 a second.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// How long anything may take that is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Story {
    pub(super) scene: Scene,
    pub(super) screen: Screen,
    /// Written to blue so far, each a transaction.
    pub(super) orders: u64,
    ticks: Interval,
    checks: Vec<Check>,
}

/// One thing that is made sure of.
struct Check {
    holds: bool,
    what: String,
}

impl Story {
    /// Green begins to follow.
    pub(super) async fn begin(scene: Scene) -> Result<Story, Error> {
        scene.subscribe().await?;
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Story { scene, screen: Screen::new(), orders: 0, ticks, checks: Vec::new() })
    }

    /// All of it, from the initial copy until green has taken over.
    pub(super) async fn round(&mut self, pace: &Pace) -> Result<(), Error> {
        let is_copied = self.copied().await?;
        self.check(is_copied, "the initial copy is complete, and nothing is pending behind it");
        self.follow(pace.following).await?;
        self.stall(pace.stalled).await?;
        self.follow(pace.following / 2).await?;
        let is_caught_up = self.caught_up().await?;
        self.check(is_caught_up, "everything was caught up with: 0 pending, 0 seconds behind");
        self.equal_rows("then").await?;
        self.migrate().await?;
        self.follow(pace.following / 2).await?;
        self.cut_over().await
    }

    /// Tells what was made sure of, and returns whether all of it was so.
    pub(super) fn verdict(&mut self, took: Duration) -> Result<bool, Error> {
        self.screen.note("was it so?")?;
        for check in &self.checks {
            check.tell()?;
        }
        say(&format!("{} checks, in {:.0} s", self.checks.len(), took.as_secs_f64()))?;
        Ok(self.checks.iter().all(|check| check.holds))
    }

    /// Gives both databases their parts back, for another round. What should have been so and was not is told.
    pub(super) async fn begin_anew(&mut self) -> Result<(), Error> {
        for failed in std::mem::take(&mut self.checks).iter().filter(|check| !check.holds) {
            failed.tell()?;
        }
        self.screen.note("once more: green is emptied, and follows blue again\n")?;
        let Way { blue, green } = &self.scene.session;
        blue.batch_execute("DROP TABLE alembic_version").await?;
        green.batch_execute(&format!("DROP TABLE alembic_version, {}; {SCHEMA}", TABLES.join(", "))).await?;
        // Its slot stays: of one that is made anew the gate could not tell what was missed in between.
        for action in ["ENABLE", "REFRESH PUBLICATION"] {
            green.batch_execute(&format!("ALTER SUBSCRIPTION {SLOT} {action}")).await?;
        }
        Ok(())
    }

    /// Notes whether something is so.
    pub(super) fn check(&mut self, holds: bool, what: impl Into<String>) {
        self.checks.push(Check { holds, what: what.into() });
    }

    /// Notes whether both databases hold the same rows.
    pub(super) async fn equal_rows(&mut self, when: &str) -> Result<(), Error> {
        let Way { blue, green } = &self.scene.session;
        let (here, there) = (counts(blue).await?, counts(green).await?);
        self.check(here == there, format!("the rows are equal {when}: {here} on blue, {there} on green"));
        Ok(())
    }

    /// One more order on blue, at its time; returns how far behind green then is.
    pub(super) async fn sell(&mut self, phase: &str) -> Result<Consumer, Error> {
        self.ticks.tick().await;
        self.order().await?;
        self.show(phase).await
    }

    /// Waits, without orders, until `holds` holds of green, or until patience runs out; returns what it was last.
    pub(super) async fn until(&mut self, phase: &str, holds: impl Fn(&Consumer) -> bool) -> Result<Consumer, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let consumer = self.show(phase).await?;
            if holds(&consumer) || Instant::now() >= deadline {
                return Ok(consumer);
            }
            sleep(PACE).await;
        }
    }

    /// Shows and returns how far behind green is.
    pub(super) async fn show(&mut self, phase: &str) -> Result<Consumer, Error> {
        let consumer = self.scene.api.lag().await?;
        let behind = match consumer.lag {
            Lag { seconds: Some(seconds), transactions: Some(transactions), rows: Some(rows), .. } => {
                format!("{seconds:>5.1} s {transactions:>6} transactions {rows:>7} rows")
            }
            _ => " not known yet".to_owned(),
        };
        let line = format!("{phase:<12}{:>6} orders   behind:{behind}", self.orders);
        self.screen.line(phase, &line)?;
        Ok(consumer)
    }

    /// Runs a command of walgate's as a person would, in whose words it is shown.
    pub(super) async fn enter(&mut self, line: &str) -> Result<(), Error> {
        self.command(line)?.await
    }

    /// The same, and orders go on meanwhile.
    pub(super) async fn enter_and_sell(&mut self, line: &str) -> Result<(), Error> {
        let mut entered = pin!(self.command(line)?);
        loop {
            tokio::select! {
                biased;
                done = &mut entered => return done,
                _ = self.ticks.tick() => {}
            }
            self.order().await?;
        }
    }

    fn command(&mut self, line: &str) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
        self.screen.stay(&format!("$ walgate {line}"))?;
        let cli = Cli::try_parse_from(iter::once("walgate".to_owned()).chain(self.scene.words(line)))?;
        // On a thread of its own: the daemon that it asks is on this one.
        Ok(async move {
            client::aside(move || cli.command.run()).await?;
            Ok(())
        })
    }

    async fn order(&mut self) -> Result<(), Error> {
        self.scene.session.blue.batch_execute(ORDER).await?;
        self.orders += 1;
        Ok(())
    }
}

impl Check {
    fn tell(&self) -> Result<(), Error> {
        Ok(say(&format!("{:<7}{}", if self.holds { "ok" } else { "FAILED" }, self.what))?)
    }
}
