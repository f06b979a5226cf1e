//! A source that runs: its model, its watch and its proxy.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::console::Console;
use crate::proxy::{BindError, Proxy};
use crate::source::{Source, watch};

/// How often an address is tried that the source's predecessor is about to leave, and how long in between.
const TRIES: (u32, Duration) = (40, Duration::from_millis(50));

pub(super) struct Running {
    config: config::Source,
    source: Arc<Source>,
    proxy: Option<Proxy>,
    watch: Option<Watch>,
}

struct Watch {
    stop: CancellationToken,
    task: JoinHandle<()>,
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
        let source = Arc::new(source);
        let proxy = match &config.listen {
            None => None,
            Some(listen) => {
                let (tls, source) = (config.tls.clone(), Arc::clone(&source));
                let proxy =
                    Proxy::start(listen, source, tls, config.limits, config.passive, Arc::clone(console)).await?;
                tracing::info!(address = %proxy.address(), source = config.name, "relaying clients");
                Some(proxy)
            }
        };
        let watch = (!config.passive).then(|| Watch::start(&source));
        Ok(Running { config, source, proxy, watch })
    }

    /// The same where another is about to leave the address.
    ///
    /// # Errors
    /// If its address cannot be listened at for some seconds.
    pub(super) async fn start_again(config: config::Source, console: &Arc<Console>) -> Result<Running, BindError> {
        for _ in 0..TRIES.0 {
            match Running::start(config.clone(), console).await {
                Ok(running) => return Ok(running),
                Err(_) => sleep(TRIES.1).await,
            }
        }
        Running::start(config, console).await
    }

    pub(super) fn source(&self) -> Arc<Source> {
        Arc::clone(&self.source)
    }

    /// Whether it can take this configuration without ending sessions.
    pub(super) fn can_become(&self, new: &config::Source) -> bool {
        let old = &self.config;
        let same_certificate = match (&old.tls, &new.tls) {
            (None, None) => true,
            (Some(old), Some(new)) => old.same_files(new),
            _ => false,
        };
        same_certificate
            && (&old.listen, old.observe, old.passive, old.limits, old.stale_after)
                == (&new.listen, new.observe, new.passive, new.limits, new.stale_after)
    }

    /// Takes this configuration: new connections are opened by it, and its certificates shown.
    pub(super) fn become_like(&mut self, new: config::Source) {
        if let Some(tls) = &self.config.tls
            && let Err(error) = tls.reload()
        {
            tracing::error!(source = new.name, %error, "the certificate stays as it was");
        }
        let moved = new.connector.dsn() != self.config.connector.dsn();
        self.source.set_connector(new.connector.clone());
        if moved && let Some(watch) = self.watch.take() {
            watch.stop.cancel();
            self.watch = Some(Watch::start(&self.source));
        }
        self.config = config::Source { tls: self.config.tls.take(), ..new };
    }

    /// Drains its sessions within this time, then ends its watch.
    pub(super) async fn end(self, deadline: Duration) {
        if let Some(proxy) = self.proxy {
            proxy.drain(deadline).await;
        }
        if let Some(watch) = self.watch {
            watch.stop.cancel();
            // How it ended makes no difference any more.
            let _ = watch.task.await;
        }
    }
}

impl Watch {
    fn start(source: &Arc<Source>) -> Watch {
        let stop = CancellationToken::new();
        let task = tokio::spawn(watch(Arc::clone(source), stop.clone()));
        Watch { stop, task }
    }
}
