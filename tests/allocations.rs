//! Decoding allocates nothing per message: counted by the allocator of this test.

use std::alloc::System;
use std::path::Path;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use walgate::pgoutput::{Decoder, Head, Message};

mod fixtures;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn decoding_and_walking_a_known_table_allocates_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures/bench");
    for name in ["pgbench_text.bin", "wide_binary.bin", "bulk_text.bin"] {
        let messages = fixtures::messages(&folder.join(name));
        let mut decoder = Decoder::new();
        let mut decode_all = || {
            let region = Region::new(ALLOCATOR);
            let mut columns = 0;
            for (_, bytes) in &messages {
                assert!(Head::parse(bytes, decoder.in_stream()).is_ok());
                let message = decoder.decode(bytes).expect("a message");
                columns += match &message {
                    Message::Insert(insert) => insert.new.columns().map(Result::unwrap).count(),
                    Message::Update(update) => update.new.columns().map(Result::unwrap).count(),
                    Message::Delete(delete) => delete.old.tuple().columns().map(Result::unwrap).count(),
                    _ => 0,
                };
            }
            assert!(columns > 1000, "{name} has rows");
            region.change().allocations
        };
        let first = decode_all();
        assert!(first > 0, "{name} describes its tables, which are then kept");
        // The least of several: the test harness's own thread may allocate meanwhile.
        let again = (0..10).map(|_| decode_all()).min();
        assert_eq!(again, Some(0), "{name}");
    }
}
