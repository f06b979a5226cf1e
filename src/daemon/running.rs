//! A source that runs: its model, its watch and its proxy.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config;
use crate::console::Console;
use crate::identity::Scope;
use crate::proxy::{BindError, Proxy, Terms};
use crate::source::{Source, watch};

pub(super) struct Running {
    config: config::Source,
    source: Arc<Source>,
    proxy: Option<Proxy>,
    /// Ends its watch when it is dropped.
    watch: Option<DropGuard>,
}

impl Running {
    /// Starts everything that the configuration asks for.
    ///
    /// # Errors
    /// If its address cannot be listened at.
    pub(super) async fn start(config: config::Source, console: &Arc<Console>) -> Result<Running, BindError> {
        for warning in &config.connector.dsn().warnings {
            tracing::warn!(source = config.name, "{warning}");
        }
        let source = Source::new(&config.name, config.connector.clone(), config.observe, config.stale_after);
        source.set_scope(scope(&config));
        let source = Arc::new(source);
        source.set_passive(config.passive);
        let proxy = listen(&config, &source, console).await?;
        let watch = (!config.passive).then(|| start_watch(&source));
        Ok(Running { config, source, proxy, watch })
    }

    /// Listens where this configuration wants it to, if that is another place than now.
    ///
    /// # Errors
    /// If the address cannot be listened at.
    pub(super) async fn move_to(
        &self,
        new: &config::Source,
        console: &Arc<Console>,
    ) -> Result<Option<Proxy>, BindError> {
        if new.listen == self.config.listen { Ok(None) } else { listen(new, &self.source, console).await }
    }

    /// Takes this configuration, which no session notices that is there; with the proxy at its new address. Returns
    /// the one at the old address, to be drained.
    pub(super) fn become_like(&mut self, new: config::Source, moved: Option<Proxy>) -> Option<Proxy> {
        let old = &self.config;
        let rewatch =
            (new.connector.dsn(), new.observe, new.passive) != (old.connector.dsn(), old.observe, old.passive);
        let left = if new.listen == old.listen { None } else { std::mem::replace(&mut self.proxy, moved) };
        if let Some(proxy) = &self.proxy {
            proxy.set(terms(&new));
        }
        self.source.set_connector(new.connector.clone());
        self.source.lag().set_terms(new.observe, new.stale_after);
        if new.rule_sets != old.rule_sets {
            self.source.set_scope(scope(&new));
        }
        self.source.set_passive(new.passive);
        if rewatch {
            // The old one ends before the new one begins to look.
            self.watch = None;
            self.watch = (!new.passive).then(|| start_watch(&self.source));
        }
        self.config = new;
        left
    }

    pub(super) fn source(&self) -> Arc<Source> {
        Arc::clone(&self.source)
    }

    /// Drains its sessions within this time, then ends its watch.
    pub(super) async fn end(self, deadline: Duration) {
        if let Some(proxy) = self.proxy {
            proxy.drain(deadline).await;
        }
    }
}

async fn listen(
    config: &config::Source,
    source: &Arc<Source>,
    console: &Arc<Console>,
) -> Result<Option<Proxy>, BindError> {
    let Some(address) = &config.listen else { return Ok(None) };
    let proxy = Proxy::start(address, Arc::clone(source), terms(config), Arc::clone(console)).await?;
    tracing::info!(address = %proxy.address(), source = config.name, "relaying clients");
    Ok(Some(proxy))
}

fn terms(config: &config::Source) -> Terms {
    Terms { tls: config.tls.clone(), limits: config.limits, passive: config.passive, guard: config.guard }
}

/// What its tables are judged by.
fn scope(config: &config::Source) -> Scope {
    Scope { rule_sets: config.rule_sets.clone(), ..Scope::default() }
}

fn start_watch(source: &Arc<Source>) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(watch(Arc::clone(source), stop.clone()));
    stop.drop_guard()
}
