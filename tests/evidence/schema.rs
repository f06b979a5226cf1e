//! What tables take.

use walgate::gate::{Schema, Table};
use walgate::ident::TableName;
use walgate::source::evidence::schema::schema;

use crate::scene::{Scene, seen, unseen};
use crate::support::Sql;

fn table<'a>(schema: &'a Schema, of: &str, name: &str) -> &'a Table {
    schema.tables.get(&TableName { schema: of.into(), name: name.into() }).expect("the table is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_told_by_its_columns_and_by_what_it_forbids() {
    for major in 14..=18 {
        let scene = Scene::start(major);
        scene.sql.run(
            r#"CREATE SCHEMA "Shop"; CREATE TYPE "Shop".colour AS ENUM ('red');
               CREATE TABLE "Shop".item (
                   id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(20) NOT NULL, price numeric(8, 2) CHECK (price > 0),
                   twice numeric GENERATED ALWAYS AS (price * 2) STORED, tint "Shop".colour DEFAULT 'red', gone int,
                   code text, UNIQUE (code) DEFERRABLE);
               ALTER TABLE "Shop".item DROP COLUMN gone;
               CREATE UNIQUE INDEX ON "Shop".item (lower(name) DESC, price) WHERE price > 1;
               CREATE INDEX ON "Shop".item (price);
               CREATE TABLE part (id int REFERENCES "Shop".item) PARTITION BY LIST (id);
               CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
               CREATE UNLOGGED TABLE fast (a int[]); CREATE VIEW v AS SELECT 1; CREATE TEMP TABLE mine (a int);
               ALTER TABLE fast ADD CHECK (a <> '{1}') NOT VALID"#,
        );
        let session = scene.session("nobody", "postgres").await;
        let all = seen(schema(&session).await);
        let names: Vec<String> = all.tables.keys().map(ToString::to_string).collect();
        assert_eq!(names, [r#""Shop".item"#, "public.fast", "public.part", "public.part_1"], "PostgreSQL {major}");
        let item = table(&all, "Shop", "item");
        let column = |name: &str| {
            let column = &item.columns[name];
            (column.type_name.as_str(), column.not_null, column.generated, column.has_default)
        };
        assert_eq!(item.columns.len(), 6);
        assert_eq!(column("id"), ("integer", true, false, true));
        assert_eq!(column("name"), ("character varying(20)", true, false, false));
        assert_eq!(column("price"), ("numeric(8,2)", false, false, false));
        assert_eq!(column("twice"), ("numeric", false, true, false));
        assert_eq!(column("tint"), (r#""Shop".colour"#, false, false, true));
        let expected = [
            "CHECK ((price > (0)::numeric))",
            "UNIQUE (code) DEFERRABLE",
            "UNIQUE (id)",
            "UNIQUE (lower((name)::text), price) WHERE (price > (1)::numeric)",
        ];
        let mut constraints = item.constraints.clone();
        constraints.sort();
        assert_eq!(constraints, expected, "PostgreSQL {major}");
        assert_eq!(table(&all, "public", "part_1").constraints, [r#"FOREIGN KEY (id) REFERENCES "Shop".item(id)"#]);
        assert_eq!(table(&all, "public", "fast").constraints, ["CHECK ((a <> '{1}'::integer[]))"]);
        if major >= 15 {
            scene.sql.run("CREATE TABLE n (a int, UNIQUE NULLS NOT DISTINCT (a))");
            let all = seen(schema(&session).await);
            assert_eq!(table(&all, "public", "n").constraints, ["UNIQUE (a) NULLS NOT DISTINCT"]);
        }
        if major >= 18 {
            scene.sql.run("CREATE TABLE lax (a int CONSTRAINT few CHECK (a < 9) NOT ENFORCED, b int NOT NULL)");
            let all = seen(schema(&session).await);
            assert_eq!(table(&all, "public", "lax").constraints, [""; 0], "not null is the column's");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_dumped_and_restored_is_the_same_in_another_version() {
    let (old, new) = (Scene::start(14), Scene::start(18));
    let ddl = "CREATE TABLE t (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), v text COLLATE \"C\" UNIQUE,
                               n numeric CHECK (n BETWEEN 1 AND 9 OR n IS NULL), CHECK (v <> ALL (ARRAY['a', 'b'])),
                               EXCLUDE USING gist (box(point(n::float8, 0), point(1, 1)) WITH &&));
               CREATE TABLE l (a int) PARTITION BY RANGE (a);
               CREATE TABLE l_1 PARTITION OF l FOR VALUES FROM (1) TO (2)";
    let mut both = Vec::new();
    for scene in [&old, &new] {
        scene.sql.run(ddl);
        both.push(seen(schema(&scene.session("nobody", "postgres").await).await));
    }
    assert_eq!(both[0], both[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_locked_is_not_waited_for() {
    for major in [14, 18] {
        let scene = Scene::start(major);
        scene.sql.run("CREATE TABLE t (id int CHECK (id > 0))");
        let session = scene.session("walgate", "postgres").await;
        let locks = Sql::connect(&scene.server.dsn("postgres"));
        locks.run("BEGIN; LOCK TABLE t");
        let why = unseen(schema(&session).await);
        assert_eq!(why, "pg_class: somebody has locked a table that has to be looked at");
        locks.run("COMMIT");
        assert_eq!(seen(schema(&session).await).tables.len(), 1, "PostgreSQL {major}");
    }
}
