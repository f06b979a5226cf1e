//! Any bytes as frames that come in pieces, and as each message of the wire protocol.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use walgate::wire::FrameReader;
use walgate::wire::backend::{Authentication, ErrorFields, binds_channel};
use walgate::wire::command::Command;
use walgate::wire::copy_both::{ReceiverMessage, WalMessage};
use walgate::wire::startup::StartupPacket;

/// Kept of each frame: little, so that many are longer.
const KEEP: usize = 40;

type Frames = Vec<(u8, usize, Vec<u8>)>;

/// The frames found, and whether the stream was well formed to its end.
fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Frames, bool) {
    let mut reader = FrameReader::new(KEEP);
    let mut found = Vec::new();
    for mut piece in pieces {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(frame)) => found.push((frame.tag, frame.len, frame.head.to_vec())),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
        assert!(piece.is_empty());
    }
    (found, true)
}

/// Cuts `bytes` into pieces whose lengths are taken from the bytes themselves.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lengths = bytes.iter().rev().map(|&length| usize::from(length % 61));
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, behind) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
        rest = behind;
        Some(piece)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let whole = frames(std::iter::once(bytes));
    assert_eq!(frames(bytes.chunks(1)), whole);
    assert_eq!(frames(pieces(bytes)), whole);
    for (_, len, head) in &whole.0 {
        assert_eq!(head.len(), KEEP.min(*len));
    }

    if let Some((length, body)) = bytes.split_first_chunk::<4>() {
        let _ = StartupPacket::body_len(*length);
        if let Ok(StartupPacket::StartupMessage(startup)) = StartupPacket::parse(body) {
            let _ = startup.session_kind();
        }
    }
    let _ = Authentication::parse(bytes);
    let _ = binds_channel(bytes);
    let _ = ErrorFields::parse(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = Command::parse(text);
    }
    let _ = WalMessage::parse(bytes);
    if let Ok(ReceiverMessage::StatusUpdate(status)) = ReceiverMessage::parse(bytes) {
        let mut encoded = BytesMut::new();
        status.encode(&mut encoded);
        assert_eq!(ReceiverMessage::parse(&encoded), Ok(ReceiverMessage::StatusUpdate(status)));
    }
});
