//! What replication leaves out.

use walgate::gate::Kind;
use walgate::source::evidence::unreplicated::{catalog, unreplicated};

use crate::scene::{Scene, seen};

async fn left_out(scene: &Scene) -> Vec<(String, String)> {
    let session = scene.session("nobody", "postgres").await;
    let catalog = seen(catalog(&session).await);
    let found = unreplicated(&catalog, Kind::Subscription, None).expect("it may be read");
    found.into_iter().map(|item| (item.name, item.what)).collect()
}

fn named(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_target_would_lack_is_named() {
    for major in 14..=18 {
        let scene = Scene::start(major);
        scene.sql.run(
            r#"CREATE TABLE whole (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) STORED); CREATE SEQUENCE s; CREATE VIEW v AS SELECT 1;
               CREATE TABLE appended (id int, note text); CREATE TABLE "Left" (id int PRIMARY KEY);
               CREATE UNLOGGED TABLE fast (id int); CREATE MATERIALIZED VIEW seen AS SELECT 1 AS one;
               CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE afar (id int) SERVER far;
               CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
               CREATE TABLE root_1 PARTITION OF root FOR VALUES FROM (1) TO (2);
               CREATE TABLE root_2 PARTITION OF root FOR VALUES FROM (2) TO (3);
               CREATE TABLE other (id int PRIMARY KEY) PARTITION BY RANGE (id);
               CREATE TABLE other_1 PARTITION OF other FOR VALUES FROM (1) TO (2);
               CREATE TABLE other_2 PARTITION OF other FOR VALUES FROM (2) TO (3);
               SELECT lo_create(0);
               CREATE PUBLICATION p FOR TABLE whole, root_1; CREATE PUBLICATION q FOR TABLE appended WITH (publish = 'insert')"#,
        );
        let nothing = "table that nothing replicates";
        let mut expected = named(&[
            ("public.\"Left\"", nothing),
            ("public.afar", "foreign table"),
            ("public.appended", "table without its updates and deletes"),
            ("public.fast", "unlogged table"),
            ("public.other", nothing),
            ("public.root_2", nothing),
            ("public.seen", "materialized view"),
            ("large objects", "in this database"),
        ]);
        assert_eq!(left_out(&scene).await, expected, "PostgreSQL {major}");
        if major >= 15 {
            scene.sql.run(
                "CREATE TABLE narrow (id int PRIMARY KEY, a int, b int); CREATE TABLE few (id int PRIMARY KEY);
                 ALTER PUBLICATION p ADD TABLE narrow (id, a), few WHERE (id > 5)",
            );
            expected.insert(4, ("public.few".into(), "table of which a WHERE chooses rows".into()));
            expected.insert(5, ("public.narrow".into(), "table without its columns b".into()));
            assert_eq!(left_out(&scene).await, expected, "PostgreSQL {major}");
        }
        scene
            .sql
            .run("CREATE PUBLICATION everything FOR ALL TABLES; SELECT lo_unlink(oid) FROM pg_largeobject_metadata");
        let expected = named(&[
            ("public.afar", "foreign table"),
            ("public.fast", "unlogged table"),
            ("public.seen", "materialized view"),
        ]);
        assert_eq!(left_out(&scene).await, expected, "PostgreSQL {major}");
    }
}
