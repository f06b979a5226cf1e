//! Audits a source every few seconds, and when asked to, through an SQL session of its own: it must not keep the poller
//! waiting.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::catalog::{self, Budget};
use super::error::{ConnectError, Failure};
use super::watched::{AuditReport, Source};

/// Between two audits.
const INTERVAL: Duration = Duration::from_secs(5);

/// The part of the time that audits may take: a large catalog is read less often.
const SHARE: u32 = 10;

/// How long one audit may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long the values of tables without a key may be looked at, each time.
const BUDGET: Budget = Budget { table: Duration::from_millis(500), total: Duration::from_secs(2) };

/// Audits until `stop`.
pub(super) async fn audit(source: &Arc<Source>, stop: &CancellationToken) {
    stop.run_until_cancelled(async {
        loop {
            let error = watch(source).await;
            tracing::debug!(source = source.name(), %error, "the catalog cannot be read; trying again");
            sleep(INTERVAL).await;
        }
    })
    .await;
}

/// Audits through one session until it fails.
async fn watch(source: &Source) -> ConnectError {
    let session = match source.connector().sql().await {
        Ok(session) => session,
        Err(error) => return error,
    };
    loop {
        let scope = source.scope();
        let (begun, observed_at) = (Instant::now(), SystemTime::now());
        match timeout(DEADLINE, catalog::audit(&session, &scope, BUDGET)).await {
            Ok(Ok(audited)) => {
                source.take_audit(AuditReport { audited, scope, begun, observed_at });
            }
            Ok(Err(error)) => return error,
            Err(_) => return Failure::Timeout(DEADLINE).into(),
        }
        tokio::select! {
            () = sleep(INTERVAL.max(begun.elapsed() * SHARE)) => {}
            () = source.audit_wanted() => {}
        }
    }
}
