//! A network between two programs of this machine, which can be cut and led elsewhere.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A network that can be cut: it forwards connections to a port of this machine. What comes while it is cut waits.
pub(crate) struct Network {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: AtomicU16,
    cut: AtomicU8,
    connections: Mutex<Vec<TcpStream>>,
}

/// Which connections a [`Network`] does not forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Nothing,
    Replication,
    Everything,
}

impl Network {
    pub(crate) fn to(target: u16) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            cut: AtomicU8::new(Cut::Nothing as u8),
            connections: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", own.target.load(Ordering::Acquire))) else {
                    continue;
                };
                let own = Arc::clone(&own);
                thread::spawn(move || own.forward(client, server));
            }
        });
        Network { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn cut(&self, what: Cut) {
        self.shared.cut.store(what as u8, Ordering::Release);
    }

    /// Ends every connection, and leads the next ones elsewhere.
    pub(crate) fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::Release);
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn forward(&self, mut client: TcpStream, server: TcpStream) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let mut first = [0; 8192];
        let Ok(len) = client.read(&mut first) else { return };
        // The first packet may be an SSLRequest, which the tests' connection strings forbid.
        let replicates = first[..len].windows(11).any(|word| word == b"replication");
        let both = [&client, &server].map(|stream| stream.try_clone().expect("a socket can be shared"));
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).extend(both);
        let (mut to_server, mut from_server) = (server.try_clone().expect("a socket can be shared"), server);
        if to_server.write_all(&first[..len]).is_err() {
            return;
        }
        let (mut from_client, mut to_client) = (client.try_clone().expect("a socket can be shared"), client);
        thread::scope(|scope| {
            scope.spawn(|| self.pass(&mut from_client, &mut to_server, replicates));
            self.pass(&mut from_server, &mut to_client, replicates);
        });
    }

    fn pass(&self, from: &mut TcpStream, to: &mut TcpStream, replicates: bool) {
        let mut buffer = [0; 65536];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let is_cut = || match self.cut.load(Ordering::Acquire) {
                cut if cut == Cut::Everything as u8 => true,
                cut => cut == Cut::Replication as u8 && replicates,
            };
            while is_cut() {
                thread::sleep(Duration::from_millis(10));
            }
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
