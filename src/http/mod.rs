//! The HTTP side: probes, metrics and the lag as JSON.
//!
//! Every answer renders what the models hold at that moment; no request makes walgate ask a database.
//! Errors are problem documents (RFC 9457). A parameter that is not known, or does not parse, is an error.

mod events;
mod problem;
mod routes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::source::Source;
use crate::telemetry::Metrics;

/// What the routes show.
pub struct View {
    sources: Vec<Arc<Source>>,
    metrics: Metrics,
    draining: AtomicBool,
}

impl View {
    /// A view of these sources.
    pub fn new(sources: Vec<Arc<Source>>, metrics: Metrics) -> View {
        View { sources, metrics, draining: AtomicBool::new(false) }
    }

    /// The sources there are.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        self.sources.clone()
    }

    /// From now on `/readyz` says that no new clients are wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// Answers requests until `stop`, then finishes those under way.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(listener: TcpListener, view: Arc<View>, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, routes::router(view)).with_graceful_shutdown(stop.cancelled_owned()).await
}
