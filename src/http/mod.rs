//! The HTTP side: probes, metrics, the lag, the findings and the gates as JSON.
//!
//! Every answer renders what the models hold at that moment. Only a gate asks databases, once for all who ask it.
//! Errors are problem documents (RFC 9457). A parameter that is not known, or does not parse, is an error.

mod events;
mod gates;
mod identity;
mod openapi;
mod problem;
mod routes;
mod secured;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::keeper::Keeper;
use crate::source::{Secret, Source};
use crate::telemetry::Metrics;
use crate::tls::ServerTls;

/// What the routes show.
pub struct View {
    sources: RwLock<Vec<Arc<Source>>>,
    gates: RwLock<Vec<Arc<Keeper>>>,
    token: RwLock<Option<Secret>>,
    metrics: Metrics,
    draining: AtomicBool,
}

impl View {
    /// A view of no source yet.
    pub fn new(metrics: Metrics) -> View {
        View {
            sources: RwLock::default(),
            gates: RwLock::default(),
            token: RwLock::default(),
            metrics,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on these are shown.
    pub fn set_sources(&self, sources: Vec<Arc<Source>>) {
        *self.sources.write().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    /// The sources there are.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these can be asked.
    pub fn set_gates(&self, gates: Vec<Arc<Keeper>>) {
        *self.gates.write().unwrap_or_else(PoisonError::into_inner) = gates;
    }

    /// The gates there are.
    pub fn gates(&self) -> Vec<Arc<Keeper>> {
        self.gates.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on `/v1` routes want to be shown this.
    pub fn set_token(&self, token: Option<Secret>) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// From now on `/readyz` says that no new clients are wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn token(&self) -> Option<Secret> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers requests until `stop`, then finishes those under way.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    view: Arc<View>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = routes::router(view, listener.local_addr()?);
    match tls {
        None => axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await,
        Some(tls) => {
            let listener = secured::Listener::new(listener, tls)?;
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
        }
    }
}
