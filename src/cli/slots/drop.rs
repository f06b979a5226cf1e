//! `walgate slots drop`: slots that nobody needs any more.

use super::SlotsError;
use super::list::{matching, nothing};
use super::pattern::Pattern;
use super::plan::{Agreement, Plan};
use crate::source::Connector;
use crate::source::slots::SlotSession;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which slots
    #[arg(value_name = "PATTERN")]
    pattern: Pattern,
    #[command(flatten)]
    agreement: Agreement,
}

/// Returns whether every slot that matched is gone. All of them are dropped or, where one cannot be, none.
pub(super) async fn run(args: &Args, connector: &Connector) -> Result<bool, SlotsError> {
    let mut session = SlotSession::open(connector).await?;
    let look = session.look().await?;
    let slots = matching(&look, Some(&args.pattern));
    if slots.is_empty() {
        eprintln!("walgate: nothing to drop: {}", nothing(&look, Some(&args.pattern)));
        return Ok(true);
    }
    let role = connector.dsn().login_user().unwrap_or_default();
    let plan = Plan { slots, agreement: &args.agreement, role };
    plan.show(&args.pattern, look.server_time)?;
    let objections = plan.objections(&session).await?;
    if !objections.is_empty() {
        objections.iter().for_each(|objection| eprintln!("walgate: {objection}"));
        eprintln!("walgate: nothing was dropped");
        return Ok(false);
    }
    if !plan.is_agreed()? {
        return Ok(false);
    }
    let mut is_done = true;
    for slot in &plan.slots {
        is_done &= plan.drop_slot(&mut session, slot).await?;
    }
    Ok(is_done)
}
