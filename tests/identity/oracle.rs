//! Which tables walgate takes for published, against what the server says, for publications of every kind at once.

use std::collections::BTreeSet;

use walgate::identity::Catalog;
use walgate::source::catalog;

use crate::support::client::connector;
use crate::support::{Sql, postgres};

/// Tables of every kind, in three schemas.
const TABLES: &str = r#"
    CREATE SCHEMA s; CREATE SCHEMA "S ü";
    CREATE TABLE a (id int PRIMARY KEY, b int, c int, g int GENERATED ALWAYS AS (b) STORED);
    ALTER TABLE a DROP COLUMN c;
    CREATE TABLE s.a (id int PRIMARY KEY, "B" text); CREATE TABLE "S ü"."t ""x""" (id int PRIMARY KEY);
    CREATE UNLOGGED TABLE u (id int); CREATE UNLOGGED TABLE s.u (id int); CREATE TEMP TABLE gone (id int);
    CREATE MATERIALIZED VIEW m AS SELECT 1 AS x; CREATE VIEW s.v AS SELECT 1 AS x; CREATE SEQUENCE s.q;
    CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE f (id int) SERVER far;
    -- Three levels, leaves in other schemas, columns in another order; leaves that cannot be published.
    CREATE TABLE p (id int, b int, c int) PARTITION BY LIST (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE s.p2 (c int, b int, id int);
    ALTER TABLE p ATTACH PARTITION s.p2 FOR VALUES IN (2);
    CREATE TABLE s.p3 PARTITION OF p FOR VALUES IN (3) PARTITION BY LIST (b);
    CREATE TABLE p31 PARTITION OF s.p3 FOR VALUES IN (1); CREATE TABLE "S ü".p32 PARTITION OF s.p3 FOR VALUES IN (2);
    CREATE UNLOGGED TABLE p4 PARTITION OF p FOR VALUES IN (4);
    CREATE FOREIGN TABLE p5 PARTITION OF p FOR VALUES IN (5) SERVER far;
    CREATE TABLE s.empty (id int) PARTITION BY LIST (id);
    -- Inheritance, of two parents, too.
    CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE s.child (x int) INHERITS (parent);
    CREATE TABLE grandchild () INHERITS (s.child); CREATE TABLE other (y int);
    CREATE TABLE two () INHERITS (parent, other);
    CREATE PUBLICATION late FOR TABLE other; CREATE TABLE later () INHERITS (other);
"#;

const PUBLICATIONS: &str = "
    CREATE PUBLICATION everything FOR ALL TABLES;
    CREATE PUBLICATION everything_as_roots FOR ALL TABLES WITH (publish_via_partition_root);
    CREATE PUBLICATION inserts FOR ALL TABLES WITH (publish = 'insert');
    CREATE PUBLICATION nothing; CREATE PUBLICATION silent FOR ALL TABLES WITH (publish = '');
    CREATE PUBLICATION one FOR TABLE a; CREATE PUBLICATION childless FOR TABLE ONLY parent;
    CREATE PUBLICATION family FOR TABLE parent; CREATE PUBLICATION root FOR TABLE p;
    CREATE PUBLICATION root_as_root FOR TABLE p WITH (publish_via_partition_root);
    CREATE PUBLICATION middle FOR TABLE s.p3; CREATE PUBLICATION middle_as_root FOR TABLE s.p3 WITH (publish_via_partition_root);
    CREATE PUBLICATION leaf FOR TABLE s.p2 WITH (publish_via_partition_root);
    CREATE PUBLICATION leaves FOR TABLE p, p1, p31 WITH (publish_via_partition_root);
    CREATE PUBLICATION leaves_alone FOR TABLE p1, \"S ü\".p32, s.empty;
";

/// What there is from PostgreSQL 15 on.
const SINCE_15: &str = "
    CREATE PUBLICATION in_s FOR TABLES IN SCHEMA s; CREATE PUBLICATION in_both FOR TABLES IN SCHEMA s, \"S ü\", TABLE a;
    CREATE PUBLICATION in_s_as_roots FOR TABLES IN SCHEMA s WITH (publish_via_partition_root);
    CREATE PUBLICATION in_public FOR TABLES IN SCHEMA public WITH (publish_via_partition_root);
    CREATE PUBLICATION list FOR TABLE a (id), s.a (\"B\", id); CREATE PUBLICATION filter FOR TABLE a WHERE (id > 0);
    CREATE PUBLICATION list_of_root FOR TABLE p (b), s.p3, p1 (c) WITH (publish_via_partition_root);
    CREATE PUBLICATION list_of_leaves FOR TABLE s.p3, p31 (c), s.p2 (b, id);
    CREATE PUBLICATION filter_in_s FOR TABLES IN SCHEMA s, TABLE s.a WHERE (id > 0);
";

/// What there is from PostgreSQL 18 on.
const SINCE_18: &str = "
    CREATE TABLE v (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) VIRTUAL);
    CREATE PUBLICATION generated FOR ALL TABLES WITH (publish_generated_columns = stored);
    CREATE PUBLICATION generated_list FOR TABLE a (id, g);
";

/// A publication, the table that subscribers see, and its columns.
type Row = (String, String, Vec<String>);

#[tokio::test(flavor = "multi_thread")]
async fn the_published_tables_are_those_that_the_server_says() {
    for major in 14..=18 {
        let server = postgres(major).start().unwrap();
        let sql = Sql::connect(&server.dsn("postgres"));
        let since = |first, text| if major >= first { text } else { "" };
        for text in [TABLES, PUBLICATIONS, since(15, SINCE_15), since(18, SINCE_18)] {
            sql.run(text);
        }
        let session = connector(&server.dsn("postgres")).sql().await.unwrap();
        let catalog = catalog::read(&session).await.unwrap();
        let (ours, theirs) = (ours(&catalog), theirs(&sql, major));
        let differs: Vec<_> = ours.symmetric_difference(&theirs).collect();
        assert_eq!(differs, Vec::<&Row>::new(), "on {major}");
        assert!(theirs.len() > 60, "{theirs:#?}");
    }
}

/// A column of each type there is, and of types made of them. Composite types are taken for comparable, whatever they hold.
const TYPES: &str = r#"
    CREATE TYPE e AS ENUM ('a'); CREATE TYPE plain AS (a int, b text);
    CREATE DOMAIN words AS text; CREATE DOMAIN j AS json; CREATE DOMAIN jj AS j; CREATE DOMAIN list AS json[];
    CREATE TYPE floats AS RANGE (subtype = float8);
    DO $$
    DECLARE columns text;
    BEGIN
        SELECT string_agg(format('c%s %s', oid, format_type(oid, NULL)), ', ') INTO columns FROM pg_type AS type
        WHERE typtype IN ('b', 'd', 'e', 'r', 'm') AND typnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace)
              AND typname !~ '^_?pg_(node_tree|ndistinct|dependencies|mcv_list|brin)' AND NOT EXISTS
                  (SELECT FROM pg_type AS of WHERE of.oid = type.typelem AND of.typtype IN ('c', 'p') AND of.oid < 16384)
              AND typname <> '_int2vector'
              OR typname IN ('plain', '_plain');
        EXECUTE 'CREATE TABLE types (' || columns || ')';
    END $$;
"#;

/// The types that the server can compare: an array's comparison looks for the elements'.
const COMPARED: &str = r#"
    CREATE FUNCTION is_comparable(oid) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('SELECT array_eq(ARRAY[row(NULL::%1$s)], ARRAY[row(NULL::%1$s)])', format_type($1, NULL));
        RETURN true;
    EXCEPTION WHEN undefined_function THEN RETURN false;
    END $$;
"#;

#[tokio::test(flavor = "multi_thread")]
async fn comparable_types_are_those_that_the_server_compares() {
    for major in 14..=18 {
        let server = postgres(major).start().unwrap();
        let sql = Sql::connect(&server.dsn("postgres"));
        sql.run(TYPES);
        sql.run(COMPARED);
        let session = connector(&server.dsn("postgres")).sql().await.unwrap();
        let catalog = catalog::read(&session).await.unwrap();
        let table = catalog.relations.values().find(|relation| &*relation.name == "types").unwrap();
        assert!(table.columns.len() > 100);
        let server = sql.rows(
            "SELECT is_comparable(atttypid) FROM pg_attribute WHERE attrelid = 'types'::regclass AND attnum > 0
             ORDER BY attnum",
        );
        let server = server.into_iter().map(|row| row[0].as_deref() == Some("t"));
        let wrong = table.columns.iter().zip(server).filter(|(column, server)| column.comparable != *server);
        let wrong: Vec<_> = wrong.map(|(column, server)| (&*column.sql_type, server)).collect();
        assert_eq!(wrong, [], "on {major}");
    }
}

/// What walgate says. Where the root stands for its leaves it is the root that is compared.
fn ours(catalog: &Catalog) -> BTreeSet<Row> {
    let published = catalog.publications.iter().flat_map(|publication| catalog.published(publication));
    let rows = published.map(|published| {
        let shown = published.shown_as;
        let columns = shown.columns.iter().filter(|column| published.publishes(&column.name));
        let mut columns: Vec<String> = columns.map(|column| column.name.to_string()).collect();
        columns.sort();
        (published.publication.name.to_string(), shown.table_name().to_string(), columns)
    });
    rows.collect()
}

/// What the server says, but for relations that it lists and never streams: what is not logged or far away, and roots
/// without leaves.
fn theirs(sql: &Sql, major: u32) -> BTreeSet<Row> {
    // 14 lists no columns; generated ones are published by none before 18, but 15 lists them.
    let columns = match major {
        14 => "true",
        15 => "a.attname = ANY (t.attnames) AND a.attgenerated = ''",
        _ => "a.attname = ANY (t.attnames)",
    };
    let rows = sql.rows(&format!(
        "SELECT t.pubname, quote_ident(t.schemaname) || '.' || quote_ident(t.tablename), string_agg(a.attname, ',' ORDER BY a.attname)
         FROM pg_publication_tables AS t
              JOIN pg_class AS c ON c.oid = (quote_ident(t.schemaname) || '.' || quote_ident(t.tablename))::regclass
              JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND (a.attgenerated = '' OR {major} >= 15) AND {columns}
         WHERE c.relpersistence = 'p' AND c.relkind <> 'f'
           AND (c.relkind = 'r' OR EXISTS (SELECT FROM pg_partition_tree(c.oid) WHERE isleaf))
         GROUP BY 1, 2"
    ));
    let text = |value: Option<String>| value.expect("nothing is null");
    let rows = rows.into_iter().map(|row| {
        let [publication, table, columns] = <[_; 3]>::try_from(row).expect("three columns are asked for").map(text);
        let mut columns: Vec<String> = columns.split(',').map(str::to_owned).collect();
        columns.sort();
        (publication, table, columns)
    });
    rows.collect()
}
