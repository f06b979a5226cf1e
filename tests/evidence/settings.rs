//! How a server is set up.

use walgate::source::evidence::settings::settings;

use crate::scene::{Scene, seen, unseen, until};

#[tokio::test(flavor = "multi_thread")]
async fn limits_come_with_what_is_in_use() {
    for major in 14..=18 {
        let scene = Scene::start(major);
        let session = scene.session("walgate", "postgres").await;
        let before = seen(settings(&session).await);
        assert_eq!((before.major, before.wal_level.as_str()), (major, "logical"));
        assert_eq!((before.slots, before.senders, before.logical_workers), ((20, 0), (20, 0), (16, 0)));
        // The launcher of logical replication.
        assert_eq!((before.workers, before.origins), ((24, 1), (20, 0)), "PostgreSQL {major}");
        assert_eq!((before.encoding.as_str(), before.collation.as_str()), ("UTF8", "C (libc)"));
        assert_eq!(before.extensions.keys().collect::<Vec<_>>(), ["plpgsql"]);

        scene.sql.run("CREATE DATABASE target");
        scene.sql.run("CREATE PUBLICATION p");
        scene.sql.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        let target = crate::support::Sql::connect(&scene.server.dsn("target"));
        target.run(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false)",
            scene.server.dsn("postgres")
        ));
        let look = async || seen(settings(&session).await);
        let after = until("a consumer", look, |seen| seen.senders.1 == 1 && seen.logical_workers.1 == 1).await;
        assert_eq!(after.slots, (20, 1));
        assert_eq!((after.workers, after.origins), ((24, 2), (20, 1)), "PostgreSQL {major}");
        let why = unseen(settings(&scene.session("nobody", "postgres").await).await);
        assert_eq!(why, "pg_settings: background workers are hidden; GRANT pg_monitor TO walgate's role");
    }
}
