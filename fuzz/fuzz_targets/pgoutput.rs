//! Any bytes as one message of pgoutput, and as a stream of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrutiny::{scrutinize, walk};
use walgate::pgoutput::Decoder;
use walgate::wire::FrameReader;
use walgate::wire::copy_both::WalMessage;

#[path = "../../tests/fixtures/scrutiny.rs"]
mod scrutiny;

fuzz_target!(|bytes: &[u8]| {
    scrutinize(&Decoder::new(), bytes);
    let mut decoder = Decoder::new();
    let mut frames = FrameReader::new(usize::MAX);
    let mut rest = bytes;
    while let Ok(Some(frame)) = frames.next(&mut rest) {
        let Ok(WalMessage::XLogData(wal)) = WalMessage::parse(frame.head) else { continue };
        let in_stream = decoder.in_stream();
        scrutinize(&decoder, wal.data);
        let before = format!("{decoder:?}");
        match decoder.decode(wal.data) {
            Ok(_) => drop(walk(wal.data, in_stream)),
            Err(_) => assert_eq!(format!("{decoder:?}"), before),
        }
    }
});
