//! What is healthy is left alone: the check finds nothing, and zero-cache replicates and shows all of it.

use serde_json::{Map, Value, json};

use crate::support::check;
use crate::support::zero::{App, ZeroCache};
use crate::support::{Sql, eventually, last_lines, postgres};

/// One change of each kind to what there is.
const CHANGES: &str = r#"
    UPDATE "User" SET "e-mail" = NULL; UPDATE label SET name = 'defect'; UPDATE issue SET status = 'done', digits = 1e12;
    DELETE FROM issue_label; UPDATE setting SET name = 'style'; UPDATE audit SET entry = 'ended'; UPDATE code SET a = 2;
    UPDATE event SET day = '2026-07-07' WHERE id = 1; DELETE FROM event WHERE id = 2; INSERT INTO setting VALUES ('last', '1')"#;

#[test]
fn nothing_is_found_where_zero_cache_is_content() {
    for major in [15, 18] {
        let server = postgres(major).start().unwrap();
        let (dsn, sql) = (server.dsn("postgres"), Sql::connect(&server.dsn("postgres")));
        sql.run(include_str!("healthy.sql"));
        assert_eq!(found(&dsn), Vec::<Value>::new(), "on {major}, before zero-cache");
        let upstream = format!("postgresql://{}:unused@127.0.0.1:{}/postgres", server.superuser(), server.port());
        let app = App { name: "zero", publications: &[], follows: true };
        let zero = ZeroCache::try_start(&upstream, app).unwrap_or_else(|log| panic!("{}", last_lines(&log)));
        assert_eq!(found(&dsn), Vec::<Value>::new(), "on {major}, with zero-cache");
        assert!(!zero.log().contains("synced to clients"), "{}", zero.log());
        assert_eq!(zero.refuses(&everything(&sql)), None, "on {major}");

        sql.run(CHANGES);
        let ids = [
            (r#"SELECT count(*) FROM "User" WHERE "e-mail" IS NULL"#, 1),
            ("SELECT count(*) FROM label WHERE name = 'defect'", 1),
            ("SELECT count(*) FROM issue WHERE status = 'done'", 1),
            ("SELECT count(*) FROM issue_label", 0),
            ("SELECT count(*) FROM setting WHERE name IN ('style', 'last')", 2),
            ("SELECT count(*) FROM audit WHERE entry = 'ended'", 1),
            ("SELECT count(*) FROM code WHERE a = 2", 1),
            ("SELECT count(*) FROM event", 1),
        ];
        for (query, expected) in ids {
            assert_eq!(sql.value(query), expected.to_string(), "{query}");
            eventually(&format!("zero-cache's replica on {major}: {query}"), || {
                match zero.replica(&query.replace("count(*)", "count(*) AS answer")) {
                    Ok(rows) if rows[0]["answer"] == expected => Ok(()),
                    other => Err((other, last_lines(&zero.log()))),
                }
            });
        }
    }
}

/// What the check finds that is bad. REPLICA IDENTITY FULL is a warning of PostgreSQL's own, whoever the consumer is.
fn found(dsn: &str) -> Vec<Value> {
    let findings = check::findings(dsn, &["--for", "zero"]);
    findings
        .into_iter()
        .filter(|finding| finding["severity"] != "info" && finding["rule"] != "pg/identity-full")
        .collect()
}

/// A client that wants every column of every table, each with its key.
fn everything(sql: &Sql) -> Value {
    let columns = sql.rows(
        "SELECT relname, attname, CASE WHEN typelem <> 0 OR typname IN ('json', 'jsonb') THEN 'json'
                                       WHEN typname = 'bool' THEN 'boolean'
                                       WHEN typname ~ '^(int|float|numeric|date|time)' THEN 'number' ELSE 'string' END,
                coalesce(attnum = ANY (indkey), false)
         FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid JOIN pg_type AS t ON t.oid = atttypid
              LEFT JOIN LATERAL (SELECT indkey FROM pg_index WHERE indrelid = c.oid AND indisunique AND indexprs IS NULL
                                 ORDER BY indisprimary DESC LIMIT 1) AS key ON true
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relpersistence = 'p'
           AND NOT relispartition AND attnum > 0 AND attgenerated = ''",
    );
    let mut tables: Map<String, Value> = Map::new();
    for row in columns {
        let [Some(table), Some(column), Some(kind), Some(in_key)] = &row[..] else { panic!("{row:?}") };
        let table = tables.entry(table).or_insert_with(|| json!({ "columns": {}, "primaryKey": [] }));
        table["columns"][column] = json!({ "type": kind });
        if in_key == "t" {
            table["primaryKey"].as_array_mut().expect("it is one").push(column.as_str().into());
        }
    }
    assert_eq!(tables.len(), 8, "{tables:?}");
    tables.into()
}
