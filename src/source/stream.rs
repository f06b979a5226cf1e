//! The bytes to and from a server or a client, whatever carries them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsStream, client, server};

use super::tls::tls_server_end_point;

/// A connection to a server, or a client's to the proxy: TCP, a Unix-domain socket, or TLS over TCP.
///
/// There is no TLS over Unix-domain sockets, as in libpq: servers do not offer it.
#[derive(Debug)]
pub struct Stream(Transport);

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The TCP socket underneath, for its options; `None` over a Unix-domain socket.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.0 {
            Transport::Tcp(tcp) => Some(tcp),
            Transport::Tls(tls) => Some(tls.get_ref().0),
            Transport::Unix(_) => None,
        }
    }

    /// The bare TCP connection, to begin TLS on.
    ///
    /// # Errors
    ///
    /// Gives this back where it is not one.
    pub fn into_tcp(self) -> Result<TcpStream, Stream> {
        match self.0 {
            Transport::Tcp(tcp) => Ok(tcp),
            other => Err(Stream(other)),
        }
    }

    /// The protocol that the TLS handshake agreed on (ALPN); `None` without TLS.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match &self.0 {
            Transport::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            _ => None,
        }
    }

    /// Whether bytes are encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.0, Transport::Tls(_))
    }

    /// The data that binds a login to this channel, of type `tls-server-end-point`; `None` without TLS, or where the
    /// server's certificate does not define it.
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        match &self.0 {
            Transport::Tls(tls) => tls_server_end_point(tls.get_ref().1.peer_certificates()?.first()?),
            _ => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Stream {
        Stream(Transport::Tcp(tcp))
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Stream {
        Stream(Transport::Unix(unix))
    }
}

impl From<client::TlsStream<TcpStream>> for Stream {
    fn from(tls: client::TlsStream<TcpStream>) -> Stream {
        Stream(Transport::Tls(Box::new(tls.into())))
    }
}

impl From<server::TlsStream<TcpStream>> for Stream {
    fn from(tls: server::TlsStream<TcpStream>) -> Stream {
        Stream(Transport::Tls(Box::new(tls.into())))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Transport::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Transport::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Transport::Tcp(tcp) => tcp.is_write_vectored(),
            Transport::Unix(unix) => unix.is_write_vectored(),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
