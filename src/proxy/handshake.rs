//! The beginning of a client's connection, up to its start-up message: encryption, limits, refusals.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::source::Stream;
use crate::wire::DecodeError;
use crate::wire::backend::ErrorFields;
use crate::wire::startup::{SessionKind, StartupMessage, StartupPacket};

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// ALPN of the PostgreSQL protocol, which a client that begins with TLS has to name.
pub const ALPN: &[u8] = b"postgresql";

/// What a client wants.
pub(super) enum Request {
    /// A session: the start-up packet with its length, as it came.
    Session { client: Stream, packet: Vec<u8>, kind: SessionKind },
    /// To cancel a query of another session: the packet as it came.
    Cancel(Vec<u8>),
    /// Nothing: it only looked whether somebody listens.
    Nothing,
}

/// Why a client got no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("connection lost during start-up: {0}")]
    Io(#[from] io::Error),
    #[error("malformed start-up packet: {0}")]
    Malformed(#[from] DecodeError),
    #[error("protocol version {0}.{1} is not spoken")]
    Version(u16, u16),
    #[error("unencrypted data behind the request for encryption")]
    DataBehindRequest,
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("TLS without negotiation needs the ALPN protocol postgresql")]
    Alpn,
    #[error("TLS was begun, and no certificate is configured")]
    NoTls,
    #[error("encryption was asked for twice")]
    AskedTwice,
}

/// Reads up to and with the start-up message or the cancel request. The caller bounds the time.
pub(super) async fn accept(stream: Stream, tls: Option<Arc<ServerConfig>>) -> Result<Request, HandshakeError> {
    let mut client = stream;
    if begins_with_tls(&client).await? {
        client = handshake(client, tls.as_ref()).await?;
        if client.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeError::Alpn);
        }
    }
    let (mut asked_tls, mut asked_gss) = (client.is_encrypted(), false);
    loop {
        let mut length = [0; 4];
        match client.read_exact(&mut length).await {
            Ok(_) => {}
            // A load balancer's check, or psql before it asks for a password.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Request::Nothing),
            Err(error) => return Err(error.into()),
        }
        let body_len = match StartupPacket::body_len(length) {
            Ok(len) => len,
            Err(error) => {
                refuse(&mut client, ErrorFields::fatal("08P01", "invalid length of startup packet")).await;
                return Err(error.into());
            }
        };
        let mut packet = vec![0; 4 + body_len];
        let (head, body) = packet.split_at_mut(4);
        head.copy_from_slice(&length);
        client.read_exact(body).await?;
        match StartupPacket::parse(body) {
            Ok(StartupPacket::SslRequest) if !asked_tls => {
                asked_tls = true;
                // As with PostgreSQL, there is no TLS over Unix-domain sockets.
                if tls.is_some() && client.tcp().is_some() {
                    answer(&mut client, b'S').await?;
                    client = handshake(client, tls.as_ref()).await?;
                } else {
                    answer(&mut client, b'N').await?;
                }
            }
            Ok(StartupPacket::GssEncRequest) if !asked_gss => {
                asked_gss = true;
                answer(&mut client, b'N').await?;
            }
            Ok(StartupPacket::SslRequest | StartupPacket::GssEncRequest) => return Err(HandshakeError::AskedTwice),
            Ok(StartupPacket::CancelRequest(_)) => return Ok(Request::Cancel(packet)),
            Ok(StartupPacket::StartupMessage(message)) => {
                let StartupMessage { major, minor, .. } = message;
                if major != 3 {
                    let text =
                        format!("unsupported frontend protocol {major}.{minor}: walgate relays 3.0 and later 3.x");
                    refuse(&mut client, ErrorFields::fatal("0A000", text)).await;
                    return Err(HandshakeError::Version(major, minor));
                }
                let kind = message.session_kind();
                return Ok(Request::Session { client, packet, kind });
            }
            Err(error) => {
                refuse(&mut client, ErrorFields::fatal("08P01", "invalid startup packet layout")).await;
                return Err(error.into());
            }
        }
    }
}

/// Tells a client why it is refused. What goes wrong here no longer matters.
pub(super) async fn refuse(client: &mut Stream, error: ErrorFields<'_>) {
    let mut message = BytesMut::new();
    error.encode(&mut message);
    if client.write_all(&message).await.is_ok() {
        let _ = client.shutdown().await;
    }
}

/// Answers a request for encryption, unless bytes came behind it that nobody can have encrypted
/// (CVE-2021-23214).
async fn answer(client: &mut Stream, answer: u8) -> Result<(), HandshakeError> {
    if has_unread(client) {
        refuse(client, ErrorFields::fatal("08P01", "received unencrypted data after SSL request")).await;
        return Err(HandshakeError::DataBehindRequest);
    }
    client.write_all(&[answer]).await?;
    client.flush().await?;
    Ok(())
}

async fn begins_with_tls(client: &Stream) -> io::Result<bool> {
    let mut first = [0];
    match client.tcp() {
        Some(tcp) => Ok(tcp.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE]),
        None => Ok(false),
    }
}

async fn handshake(client: Stream, tls: Option<&Arc<ServerConfig>>) -> Result<Stream, HandshakeError> {
    let (Ok(tcp), Some(config)) = (client.into_tcp(), tls) else { return Err(HandshakeError::NoTls) };
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    let stream = acceptor.accept(tcp).await.map_err(HandshakeError::Tls)?;
    Ok(Stream::from(stream))
}

/// Whether bytes of the client's wait in the socket, read or not.
fn has_unread(client: &Stream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    client.tcp().is_some_and(|tcp| SockRef::from(tcp).peek(&mut byte).is_ok_and(|len| len > 0))
}
