//! The fences of a gate: how they are taken and lifted, and what has happened to them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ENDED, FenceError, GateEvent, Keeper, Way};
use crate::gate::{Fence, Phase, Stray};
use crate::source::evidence::activity::Reach;
use crate::source::{Failure, lock, take_fence};

/// How long taking a fence may take.
const FENCING: Duration = Duration::from_secs(10);

impl Keeper {
    /// The fence that stands for a phase.
    pub fn standing(&self, phase: Phase) -> Option<Fence> {
        lock(&self.fences).get(&Way::of(phase)).cloned()
    }

    /// Takes a fence on the side that the phase takes for the source.
    ///
    /// # Errors
    /// If one stands already, somebody writes, or the server cannot be asked.
    pub async fn fence(&self, phase: Phase) -> Result<Fence, FenceError> {
        let (side, _) = self.sides(phase).ok_or(FenceError::NoWayBack)?;
        let _one = self.fencing.lock().await;
        if let Some(standing) = self.standing(phase) {
            return Err(FenceError::Standing(Box::new(standing)));
        }
        let still = side.hold_still().await;
        let source = side.source();
        let unreachable = |error| FenceError::Unreachable { name: source.name().to_owned(), error };
        let connector = source.connector();
        let config = self.config();
        let taking = take_fence(&connector, Reach::of(config.terms.kind), config.barrier);
        let taken =
            tokio::time::timeout(FENCING, taking).await.unwrap_or_else(|_| Err(Failure::Timeout(FENCING).into()));
        let taken = taken.map_err(unreachable)?;
        if let Some(watched) = source.lag().history().filter(|watched| watched.contradicts(taken.history)) {
            let why = format!("{} is {}, and what walgate watches was {watched}", source.name(), taken.history);
            return Err(FenceError::Elsewhere(why));
        }
        if self.ended.load(Ordering::Relaxed) {
            return Err(FenceError::Elsewhere(ENDED.into()));
        }
        let fence = Fence { taken: Some(Instant::now()), ..Fence::take(taken)? };
        lock(&self.fences).insert(Way::of(phase), fence.clone());
        still.keep();
        lock(&self.shared).clear();
        tracing::info!(gate = config.terms.name, target_lsn = %fence.target_lsn, "fence set");
        self.tell(GateEvent::Fenced(phase, fence.target_lsn));
        Ok(fence)
    }

    /// Lifts the fence; returns it, if one stood.
    pub fn release(&self, phase: Phase) -> Option<Fence> {
        let fence = lock(&self.fences).remove(&Way::of(phase))?;
        lock(&self.shared).clear();
        if let Some((side, _)) = self.sides(phase) {
            side.let_go();
        }
        // How it stood was under this fence, and what was proven with it.
        lock(&self.states).remove(&phase);
        self.withdraw(Way::of(phase));
        tracing::info!(gate = self.terms().name, target_lsn = %fence.target_lsn, "fence lifted");
        self.tell(GateEvent::Released(phase, fence.target_lsn));
        Some(fence)
    }

    /// What was proven under a fence that does not stand any more is not handed out again.
    fn withdraw(&self, way: Way) {
        lock(&self.receipt).take_if(|receipt| Way::of(receipt.phase) == way);
    }

    /// What has once happened to a fence stays: another history, or a write behind it.
    pub(super) fn watch_fence(&self, phase: Phase) {
        let Some((side, _)) = self.sides(phase) else { return };
        let mut fences = lock(&self.fences);
        let Some(fence) = fences.get_mut(&Way::of(phase)) else { return };
        let lag = side.source().lag();
        if let Some((was, is)) = fence.history.zip(lag.history()).filter(|(was, is)| was.contradicts(*is)) {
            fence.lost.get_or_insert_with(|| format!("it was set on {was}, and the server became {is}"));
        }
        if fence.stray.is_none() {
            let terms = self.terms();
            let mut strays =
                terms.consumers_of(phase).iter().filter_map(|slot| lag.followed(slot, fence.target_lsn)?.behind);
            fence.stray = strays.next().map(Stray::from);
        }
        let is_broken = fence.lost.is_some() || fence.stray.is_some();
        drop((lag, fences));
        if is_broken {
            self.withdraw(Way::of(phase));
        }
    }
}
