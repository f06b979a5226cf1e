//! HTTPS: a listener whose clients have done their TLS handshake.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::ServerTls;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Clients that have shaken hands and wait to be heard.
const WAITING: usize = 64;

type Client = (TlsStream<TcpStream>, SocketAddr);

/// A listener that keeps nobody waiting for another's handshake.
pub(super) struct Listener {
    address: SocketAddr,
    clients: mpsc::Receiver<Client>,
    _accepting: AbortOnDropHandle<()>,
}

impl Listener {
    pub(super) fn new(mut listener: TcpListener, tls: Arc<ServerTls>) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        let (sender, clients) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(async move {
            loop {
                // Out of file descriptors, axum's own listener waits a second and tries again.
                let (client, peer) = axum::serve::Listener::accept(&mut listener).await;
                let (acceptor, sender) = (TlsAcceptor::from(tls.config()), sender.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(client)) = timeout(HANDSHAKE, acceptor.accept(client)).await {
                        let _ = sender.send((client, peer)).await;
                    }
                });
            }
        });
        Ok(Listener { address, clients, _accepting: AbortOnDropHandle::new(accepting) })
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Client {
        match self.clients.recv().await {
            Some(client) => client,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
