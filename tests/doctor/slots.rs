//! Slots that keep WAL, come near their loss, and are lost.

use crate::scene::{problems, rules, statement, until_found, until_gone};
use crate::support::{Sql, eventually, postgres};

/// Fills a WAL file.
const FILL: &str = "SELECT pg_logical_emit_message(false, 'fill', 'x'); SELECT pg_switch_wal()";

#[test]
fn a_slot_that_nobody_reads_is_told_of_until_it_is_lost_and_dropped() {
    for major in [14, 18] {
        let settings = [("max_slot_wal_keep_size", "160MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
        let builder = settings.iter().fold(postgres(major), |builder, (name, value)| builder.setting(name, value));
        let server = builder.start().expect("the server starts");
        let (dsn, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));
        sql.run("CREATE TABLE t (id int PRIMARY KEY, note text); SELECT pg_create_physical_replication_slot('fresh')");
        sql.run("SELECT pg_create_logical_replication_slot('old', 'pgoutput')");
        let unread = |slot: &str| ("slot/unread".to_owned(), slot.to_owned());
        assert_eq!(rules(&problems(&dsn, &[])), [unread("fresh"), unread("old")].into(), "PostgreSQL {major}");
        sql.run("SELECT pg_drop_replication_slot('fresh')");

        let near = eventually("slot/near-loss", || {
            sql.run(FILL);
            let problems = problems(&dsn, &[]);
            problems.iter().find(|problem| problem["rule"] == "slot/near-loss").cloned().ok_or_else(|| rules(&problems))
        });
        let raise = statement(&near, "ALTER SYSTEM SET max_slot_wal_keep_size = ");
        sql.run("ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'");
        sql.run("SELECT pg_reload_conf()");
        assert!(raise.contains("'<more>'"), "{raise}");
        until_gone(&dsn, "slot/near-loss");
        sql.run("ALTER SYSTEM RESET max_slot_wal_keep_size");
        sql.run("SELECT pg_reload_conf()");
        until_found(&dsn, "slot/near-loss");

        sql.until_slot_is_lost();
        let found = problems(&dsn, &[]);
        let lost = ("slot/lost".to_owned(), "old".to_owned());
        let of_slots = |(rule, _): &(String, String)| rule.starts_with("slot/");
        assert_eq!(rules(&found).into_iter().filter(of_slots).collect::<Vec<_>>(), [lost], "PostgreSQL {major}");
        let lost = found.iter().find(|problem| problem["rule"] == "slot/lost").expect("it is there");
        // What the message quotes is what the server says.
        let get = "SELECT pg_logical_slot_get_binary_changes('old', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')";
        let refused = sql.try_rows(get).expect_err("it is lost");
        let said = refused.as_db_error().expect("the server says so").message();
        assert!(lost["message"].as_str().is_some_and(|message| message.contains(said)), "{said}: {lost}");
        sql.run(&statement(lost, "SELECT pg_drop_replication_slot"));
        until_gone(&dsn, "slot/lost");
    }
}
