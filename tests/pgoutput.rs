//! pgoutput as servers 14 to 18 really send it: `proto-fixtures/pgNN/*.bin`, with the messages decoded beside
//! each as `.jsonl`. After a change of the JSON form, or of a recording, `WALGATE_BLESS=1 cargo test --test
//! pgoutput` writes them anew; the diff is then to be read.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use scrutiny::{scrutinize, walk};
use walgate::pgoutput::json::Line;
use walgate::pgoutput::{Decoder, Described, Head};

mod fixtures;
#[path = "fixtures/scrutiny.rs"]
mod scrutiny;

const VERSIONS: Range<u8> = 14..19;

fn recordings(version: u8) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("proto-fixtures/pg{version}"));
    let files =
        fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.expect("a folder that can be read").path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "bin")).collect();
    assert!(!files.is_empty(), "no recording in {}", folder.display());
    files.sort();
    files
}

/// Every recorded message, with the decoder in the state in which it came.
fn for_each_message(mut visit: impl FnMut(&Path, &Decoder, &[u8])) {
    for path in VERSIONS.flat_map(recordings) {
        let mut decoder = Decoder::new();
        for (_, bytes) in fixtures::messages(&path) {
            visit(&path, &decoder, &bytes);
            decoder.decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}: {bytes:?}", path.display()));
        }
    }
}

#[test]
fn recordings_decode_to_the_messages_beside_them() {
    for path in VERSIONS.flat_map(recordings) {
        let mut decoder = Decoder::new();
        let mut decoded = String::new();
        for (lsn, bytes) in fixtures::messages(&path) {
            let message = decoder.decode(&bytes).unwrap();
            let message = Described::new(&message, decoder.relations()).unwrap();
            decoded += &serde_json::to_string(&Line { lsn, message }).unwrap();
            decoded += "\n";
        }
        let beside = path.with_extension("jsonl");
        if std::env::var_os("WALGATE_BLESS").is_some() {
            fs::write(&beside, &decoded).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
        for (number, (decoded, expected)) in decoded.lines().zip(expected.lines()).enumerate() {
            assert_eq!(decoded, expected, "{}:{}", beside.display(), number + 1);
        }
        assert_eq!(decoded.len(), expected.len(), "{} has another number of lines", beside.display());
    }
}

/// A message cut off is an error, and nothing else; but for a Stream Abort, whose last two fields only come
/// with `streaming 'parallel'`.
#[test]
fn a_message_cut_off_at_any_byte_is_an_error() {
    for_each_message(|path, decoder, bytes| {
        for end in 0..bytes.len() {
            let shorter_form = bytes[0] == b'A' && end == 9;
            assert_eq!(
                walk(&bytes[..end], decoder.in_stream()).is_ok(),
                shorter_form,
                "{} at {end}: {bytes:?}",
                path.display()
            );
        }
    });
}

#[test]
fn a_message_with_a_byte_too_many_is_an_error() {
    for_each_message(|path, decoder, bytes| {
        for extra in [0, 1, b'n', b'N', b't', 0xff] {
            let longer = [bytes, &[extra]].concat();
            assert!(walk(&longer, decoder.in_stream()).is_err(), "{}: {longer:?}", path.display());
        }
    });
}

#[test]
fn a_damaged_message_is_an_error_or_another_message_but_never_a_panic() {
    for_each_message(|_, decoder, bytes| {
        let mut damaged = bytes.to_vec();
        for at in 0..bytes.len() {
            // Within a long run of one byte, damage is the same everywhere.
            if at >= 8 && bytes[at - 8..at].iter().all(|&byte| byte == bytes[at]) {
                continue;
            }
            for flip in [0x01, 0x20, 0x80, 0xff] {
                damaged[at] = bytes[at] ^ flip;
                scrutinize(decoder, &damaged);
            }
            damaged[at] = bytes[at];
        }
    });
}

#[test]
fn a_head_tells_the_same_as_the_whole_message_and_needs_only_the_beginning() {
    for_each_message(|path, decoder, bytes| {
        let message = decoder.clone().decode(bytes).unwrap();
        let head = Head::parse(bytes, decoder.in_stream()).unwrap();
        assert_eq!(message.head(), head);
        let first_bytes = &bytes[..bytes.len().min(512)];
        assert_eq!(Head::parse(first_bytes, decoder.in_stream()), Ok(head), "{}: {bytes:?}", path.display());
        if matches!(head, Head::Insert { .. } | Head::Update { .. } | Head::Delete { .. }) {
            let needed = if decoder.in_stream() { 9 } else { 5 };
            assert_eq!(Head::parse(&bytes[..needed], decoder.in_stream()), Ok(head));
            assert!(Head::parse(&bytes[..needed - 1], decoder.in_stream()).is_err());
        }
    });
}

#[test]
fn every_kind_of_message_was_recorded() {
    let mut seen = std::collections::BTreeSet::new();
    for_each_message(|_, decoder, bytes| {
        seen.insert((bytes[0], decoder.in_stream()));
    });
    let everywhere = b"BCORYIUDTMScAbPKrp".map(|tag| (tag, false));
    let in_chunks = b"RYIUDTME".map(|tag| (tag, true));
    for kind in everywhere.into_iter().chain(in_chunks).filter(|&kind| kind != (b'S', true)) {
        assert!(seen.contains(&kind), "no {:?} (in a chunk: {})", char::from(kind.0), kind.1);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        scrutinize(&Decoder::new(), &bytes);
    }

    #[test]
    fn arbitrary_bodies_of_known_messages_are_never_a_panic(
        tag in prop::sample::select(b"BCORYIUDTMSEcAbPKrp".to_vec()),
        body in prop::collection::vec(prop::sample::select(b"\0\0\0\0\x01\x02ntubNKO\xff".to_vec()), 0..80),
    ) {
        scrutinize(&Decoder::new(), &[&[tag][..], &body].concat());
    }

    #[test]
    fn an_error_leaves_the_decoder_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let path = &recordings(18)[0];
        let (mut plain, mut disturbed) = (Decoder::new(), Decoder::new());
        for (_, message) in fixtures::messages(path) {
            if disturbed.clone().decode(&bytes).is_err() {
                prop_assert!(disturbed.decode(&bytes).is_err());
            }
            prop_assert_eq!(
                plain.decode(&message).map(|message| format!("{message:?}")),
                disturbed.decode(&message).map(|message| format!("{message:?}"))
            );
        }
    }
}
