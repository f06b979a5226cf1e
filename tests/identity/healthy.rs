//! Schemas in the shape of well-known applications, in which nothing is wrong: the check must leave them alone.

use crate::support::check;
use crate::support::{Sql, postgres};

/// A name, the first version that takes it, and the schema with its publications.
const SCHEMAS: [(&str, u32, &str); 6] = [
    ("forum", 14, include_str!("healthy/forum.sql")),
    ("network", 14, include_str!("healthy/network.sql")),
    ("forge", 14, include_str!("healthy/forge.sql")),
    ("erp", 14, include_str!("healthy/erp.sql")),
    ("parts", 15, include_str!("healthy/since_15.sql")),
    ("generated", 18, include_str!("healthy/since_18.sql")),
];

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for major in 14..=18 {
        let server = postgres(major).start().unwrap();
        let sql = Sql::connect(&server.dsn("postgres"));
        for (name, _, schema) in SCHEMAS.iter().filter(|(_, first, _)| *first <= major) {
            sql.run(&format!("CREATE DATABASE {name}"));
            let dsn = server.dsn(name);
            check::run(&dsn, schema);
            let findings = check::findings(&dsn, &[]);
            let bad: Vec<_> = findings.iter().filter(|finding| finding["severity"] != "info").collect();
            assert_eq!(bad, Vec::<&serde_json::Value>::new(), "{name} on {major}");
            assert_eq!(refused(&Sql::connect(&dsn)), Vec::<String>::new(), "{name} on {major}");
        }
    }
}

/// The writes that the server refuses, of all that can be made.
fn refused(sql: &Sql) -> Vec<String> {
    let writes = sql.rows(
        "SELECT write FROM pg_class AS c CROSS JOIN LATERAL (
             SELECT format('DELETE FROM %s WHERE false', c.oid::regclass) AS write
             UNION ALL (SELECT format('UPDATE %s SET %I = DEFAULT WHERE false', c.oid::regclass, attname) FROM pg_attribute
                        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped LIMIT 1)) AS writes
         WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relnamespace <> 'information_schema'::regnamespace",
    );
    assert!(writes.len() > 5, "{writes:?}");
    let writes = writes.into_iter().flatten().flatten();
    writes.filter_map(|write| sql.try_rows(&write).err().map(|error| format!("{write}: {error:?}"))).collect()
}
