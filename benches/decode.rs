//! Decoding of recorded streams, tier by tier, with pg_walstream beside us on the same bytes.
//!
//! `cargo bench --bench decode`. The streams (`proto-fixtures/bench`, from a PostgreSQL 18 server): pgbench's own
//! transactions; rows of 20 columns with jsonb; one transaction of 1,500 inserts of 8 columns and 128 bytes.
//!
//! | line | what it does for every message |
//! |---|---|
//! | `frame` | finds its borders on the wire and reads the XLogData header |
//! | `tag and oid` | the same, and its `Head`: what the proxy's tap does |
//! | `columns` | decodes it and walks every column |
//! | `owned values` | decodes it and copies every row into an `OwnedTuple` |
//! | `pg_walstream` | decodes it into pg_walstream's owned message, by its zero-copy entry point |
//!
//! The first two start from the bytes on the wire, the others from messages that are already apart.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_walstream::LogicalReplicationParser;
use walgate::pgoutput::{Decoder, Head, Message, Tuple};
use walgate::wire::FrameReader;
use walgate::wire::copy_both::WalMessage;

#[path = "../tests/fixtures/mod.rs"]
mod fixtures;

const STREAMS: [&str; 6] = ["pgbench_text", "pgbench_binary", "wide_text", "wide_binary", "bulk_text", "bulk_binary"];

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("proto-fixtures/bench/{name}.bin"))
}

fn streams(criterion: &mut Criterion) {
    for name in STREAMS {
        let stream = std::fs::read(recording(name)).expect("a recorded stream");
        let messages: Vec<Vec<u8>> = fixtures::messages(&recording(name)).into_iter().map(|(_, bytes)| bytes).collect();
        let shared: Vec<Bytes> = messages.iter().map(|message| Bytes::copy_from_slice(message)).collect();
        let elements = messages.len() as u64;
        let payload = messages.iter().map(|message| message.len() as u64).sum();

        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::ElementsAndBytes { elements, bytes: stream.len() as u64 });
        group.bench_function("frame", |bencher| {
            bencher.iter(|| {
                on_the_wire(&stream, |data| {
                    black_box(data);
                });
            });
        });
        group.bench_function("tag and oid", |bencher| {
            bencher.iter(|| {
                let (mut in_stream, mut rows, mut last) = (false, 0u64, None);
                on_the_wire(&stream, |data| match Head::parse(data, in_stream).expect("a message") {
                    Head::Insert { relation, .. } | Head::Update { relation, .. } | Head::Delete { relation, .. } => {
                        rows += 1;
                        last = Some(relation);
                    }
                    Head::Commit(commit) => {
                        black_box(commit.commit_lsn);
                    }
                    Head::StreamStart(_) => in_stream = true,
                    Head::StreamStop => in_stream = false,
                    _ => {}
                });
                black_box((rows, last))
            });
        });
        group.throughput(Throughput::ElementsAndBytes { elements, bytes: payload });
        group.bench_function("columns", |bencher| {
            let mut decoder = Decoder::new();
            bencher.iter(|| {
                for message in &messages {
                    let message = decoder.decode(message).expect("a message");
                    for_each_row(&message, walk);
                }
            });
        });
        group.bench_function("owned values", |bencher| {
            let mut decoder = Decoder::new();
            bencher.iter(|| {
                for message in &messages {
                    let message = decoder.decode(message).expect("a message");
                    for_each_row(&message, |row| drop(black_box(row.to_owned().expect("a row"))));
                }
            });
        });
        group.bench_function("pg_walstream", |bencher| {
            let mut parser = LogicalReplicationParser::with_protocol_version(1);
            bencher.iter(|| {
                for message in &shared {
                    black_box(parser.parse_wal_message_bytes(message.clone()).expect("a message"));
                }
            });
        });
        group.finish();
    }
}

fn one_insert(criterion: &mut Criterion) {
    let insert = fixtures::messages(&recording("bulk_text"))
        .into_iter()
        .find_map(|(_, bytes)| bytes.starts_with(b"I").then_some(bytes))
        .expect("an insert");
    assert_eq!(insert.len(), 128);
    let mut group = criterion.benchmark_group("one insert of 8 columns and 128 bytes");
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: 128 });
    group.bench_function("tag and oid", |bencher| {
        bencher.iter(|| match Head::parse(black_box(&insert), false).expect("a message") {
            Head::Insert { relation, .. } => relation,
            other => panic!("{other:?}"),
        });
    });
    group.bench_function("columns", |bencher| {
        bencher.iter(|| {
            let message = Message::parse(black_box(&insert), false).expect("a message");
            for_each_row(&message, walk);
        });
    });
    group.bench_function("pg_walstream", |bencher| {
        let mut parser = LogicalReplicationParser::with_protocol_version(1);
        let insert = Bytes::from(insert.clone());
        bencher.iter(|| black_box(parser.parse_wal_message_bytes(insert.clone()).expect("a message")));
    });
    group.finish();
}

/// Hands out the payload of every XLogData, of long ones the first bytes: what the tap keeps.
fn on_the_wire<'a>(mut stream: &'a [u8], mut each: impl FnMut(&[u8])) {
    let mut frames = FrameReader::new(512);
    let stream: &mut &'a [u8] = &mut stream;
    while let Some(frame) = frames.next(stream).expect("frames") {
        match WalMessage::parse(frame.head).expect("XLogData or a keepalive") {
            WalMessage::XLogData(wal) => each(wal.data),
            WalMessage::Keepalive(keepalive) => {
                black_box(keepalive);
            }
        }
    }
}

fn for_each_row<'a>(message: &Message<'a>, mut each: impl FnMut(&Tuple<'a>)) {
    match message {
        Message::Insert(insert) => each(&insert.new),
        Message::Update(update) => {
            if let Some(old) = &update.old {
                each(old.tuple());
            }
            each(&update.new);
        }
        Message::Delete(delete) => each(delete.old.tuple()),
        Message::Begin(begin) => {
            black_box(begin.xid);
        }
        Message::Commit(commit) => {
            black_box(commit.end_lsn);
        }
        _ => {}
    }
}

fn walk(row: &Tuple<'_>) {
    for column in row.columns() {
        black_box(column.expect("a column"));
    }
}

criterion_group!(benches, streams, one_insert);
criterion_main!(benches);
