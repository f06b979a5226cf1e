//! The part of a login that cannot pass unread: channel binding, which ties a login to one TLS connection
//! where there are two.

use std::io;
use std::time::Instant;

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::handshake::refuse;
use super::relay::RelayError;
use super::tap::Tap;
use crate::source::Stream;
use crate::wire::HEADER;
use crate::wire::backend::{Authentication, ErrorFields, binds_channel};

/// The longest message that a login is expected to have.
const MAX_MESSAGE: usize = 64 * 1024;

const CHANNEL_BINDING: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Passes the server's messages up to its authentication request.
///
/// Towards a client without TLS, `SCRAM-SHA-256-PLUS` is taken out of the request: libpq refuses an offer that
/// it could not take. A client with TLS that binds to the wrong one of the two connections is refused with the
/// way out, before the server refuses it with a riddle. Returns whether the session goes on.
pub(super) async fn pass_authentication_request(
    client: &mut Stream,
    server: &mut Stream,
    mut tap: Option<&mut Tap>,
) -> Result<bool, RelayError> {
    let mut request = loop {
        let message = read_message(server).await.map_err(RelayError::Upstream)?;
        match message.first() {
            Some(b'R') => break message,
            // A notice, or the negotiation of the protocol's version.
            Some(b'N' | b'v') => to_client(client, &message, tap.as_deref_mut()).await?,
            _ => {
                to_client(client, &message, tap).await?;
                return Ok(true);
            }
        }
    };
    let body = request.get(HEADER..).unwrap_or_default();
    let binding_offered = match Authentication::parse(body) {
        Ok(Authentication::Sasl(mechanisms)) if mechanisms.contains(&CHANNEL_BINDING) => {
            if !client.is_encrypted() {
                let left: Vec<&[u8]> = mechanisms.into_iter().filter(|name| *name != CHANNEL_BINDING).collect();
                let mut offer = BytesMut::new();
                Authentication::encode_sasl(&left, &mut offer);
                request = offer;
            }
            client.is_encrypted()
        }
        _ => false,
    };
    to_client(client, &request, tap.as_deref_mut()).await?;
    if !binding_offered {
        return Ok(true);
    }
    let response = read_message(client).await.map_err(RelayError::Downstream)?;
    if response.first() == Some(&b'p') && binds_channel(response.get(HEADER..).unwrap_or_default()) == Ok(true) {
        let error = ErrorFields::fatal("28000", "walgate cannot relay a login that is bound to its TLS channel");
        refuse(client, error.with_hint("Set channel_binding=disable in the client's connection string.")).await;
        return Ok(false);
    }
    forward(server, &response).await.map_err(RelayError::Upstream)?;
    if let Some(tap) = tap {
        tap.read_upstream(&response, Instant::now());
    }
    Ok(true)
}

async fn read_message(from: &mut Stream) -> io::Result<BytesMut> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let [_, length @ ..] = header;
    let body_len = usize::try_from(u32::from_be_bytes(length)).ok().and_then(|length| length.checked_sub(4));
    let Some(body_len) = body_len.filter(|len| *len <= MAX_MESSAGE) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of a login is too long"));
    };
    let mut message = BytesMut::with_capacity(HEADER + body_len);
    message.put_slice(&header);
    message.resize(HEADER + body_len, 0);
    let (_, body) = message.split_at_mut(HEADER);
    from.read_exact(body).await?;
    Ok(message)
}

async fn to_client(client: &mut Stream, message: &[u8], tap: Option<&mut Tap>) -> Result<(), RelayError> {
    forward(client, message).await.map_err(RelayError::Downstream)?;
    if let Some(tap) = tap {
        tap.read_downstream(message, Instant::now());
    }
    Ok(())
}

async fn forward(to: &mut Stream, message: &[u8]) -> io::Result<()> {
    to.write_all(message).await?;
    to.flush().await
}
