//! How the command ends, and the file that it writes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use walgate::scratch::free_port;

use crate::scene::doctor;
use crate::support::postgres;

#[test]
fn a_bundle_is_a_new_file_that_nobody_else_reads_and_is_whole() {
    let server = postgres(18).start().expect("the server starts");
    let (dsn, directory) = (server.dsn("postgres"), tempfile::tempdir().expect("a directory can be made"));
    let path = directory.path().join("ticket.json");
    let file = path.to_str().expect("its name is text");
    let told = doctor(&[&dsn, "--for", "zero", "--bundle", file]);
    assert_eq!(told.status, Some(0), "{told:?}");
    assert!(told.output.contains("healthy") && told.errors.contains(file), "{told:?}");
    let written = fs::read_to_string(&path).expect("it is there");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    let bundle: Value = serde_json::from_str(&written).expect("it is JSON");
    assert_eq!((&bundle["healthy"], &bundle["walgate"]), (&true.into(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!(bundle["checkup"]["settings"]["wal_level"], "logical");
    assert_eq!(bundle["checkup"]["identity"]["rule_sets"][0], "zero");

    let again = doctor(&[&dsn, "--bundle", file]);
    assert_eq!((again.status, &*again.output), (Some(64), ""), "{again:?}");
    assert!(again.errors.contains("is not written over"), "{again:?}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), written);
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 1, "no draft is left");
}

#[test]
fn who_does_not_answer_is_4_and_a_mistake_64() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("ticket.json");
    let file = path.to_str().expect("its name is text");
    let dsn = format!("host=127.0.0.1 port={} user=u dbname=d password=hunter2", free_port().expect("one is free"));
    let told = doctor(&[&dsn, "--bundle", file]);
    assert_eq!((told.status, &*told.output), (Some(4), ""), "{told:?}");
    assert!(told.errors.contains("connection refused") && !told.errors.contains("hunter2"), "{told:?}");
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0, "nothing is left behind");

    let missing = directory.path().join("nowhere/ticket.json");
    let missing = missing.to_str().expect("its name is text");
    for arguments in
        [&["--for", "mysql"][..], &["host=a nonsense=b"], &["--no-such-flag"], &[&dsn, "--bundle", missing]]
    {
        let told = doctor(arguments);
        assert_eq!((told.status, &*told.output), (Some(64), ""), "{arguments:?}: {told:?}");
        assert!(!told.errors.is_empty());
    }
}
