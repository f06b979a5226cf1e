//! The subscriptions of the extension pglogical (its tables `subscription` and `local_sync_status`).

use serde::Deserialize;

use super::{Unseen, rows};
use crate::gate::Subscription;
use crate::ident::{SlotName, TableName};
use crate::source::sql::SqlSession;

/// Tables that were added without being copied have no row in `local_sync_status`, and are replicated all the same; a row
/// without a table is of the whole subscription, which is `initializing` then.
const SUBSCRIPTIONS: &str = r"
    SELECT json_build_object(
        'name', subscription.sub_name, 'slot', subscription.sub_slot_name,
        'publications', subscription.sub_replication_sets, 'enabled', subscription.sub_enabled,
        'status', (SELECT status FROM pglogical.show_subscription_status(subscription.sub_name)),
        'tables', (SELECT coalesce(json_agg(json_build_array(state.sync_nspname, state.sync_relname, state.sync_status)), '[]')
                   FROM pglogical.local_sync_status AS state
                   WHERE state.sync_subid = subscription.sub_id AND state.sync_relname IS NOT NULL))
    FROM pglogical.subscription ORDER BY subscription.sub_name";

const GRANT: &str = "GRANT USAGE ON SCHEMA pglogical TO walgate's role, and GRANT SELECT ON pglogical.subscription, \
                     pglogical.local_sync_status";

#[derive(Deserialize)]
struct Row {
    name: String,
    slot: SlotName,
    /// The replication sets.
    publications: Vec<String>,
    enabled: bool,
    /// `replicating`, `initializing`, `down`, `disabled`, `unknown`.
    status: Option<String>,
    /// Schema, name and `sync_status`.
    tables: Vec<(Box<str>, Box<str>, String)>,
}

/// The subscriptions, but for how far they have applied. The status says little by itself: that of a failing worker is
/// `replicating` for a moment each time it tries again.
pub(super) async fn subscriptions(session: &SqlSession) -> Result<Vec<Subscription>, Unseen> {
    let rows: Vec<Row> = rows(session, SUBSCRIPTIONS).await.map_err(|unseen| unseen.mended_by(GRANT))?;
    let subscriptions = rows.into_iter().map(|row| Subscription {
        name: row.name,
        slot: Some(row.slot),
        publications: row.publications,
        enabled: row.enabled,
        running: row.status.as_deref() == Some("replicating"),
        status: row.status,
        tables: row.tables.into_iter().map(|(schema, name, state)| (TableName { schema, name }, state)).collect(),
        ..Subscription::default()
    });
    Ok(subscriptions.collect())
}
