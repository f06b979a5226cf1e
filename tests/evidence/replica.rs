//! The replica of a real zero-cache.

use walgate::gate::Piece;
use walgate::lsn::Lsn;
use walgate::source::Secret;
use walgate::source::evidence::replica::Replica;
use walgate::webhook::Url;

use crate::scene::{Scene, until};
use crate::support::Sql;
use crate::support::zero::ZeroCache;

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_is_where_the_last_commit_is_a_barrier_too() {
    let scene = Scene::start(17);
    scene.sql.run("CREATE DATABASE app");
    let app = Sql::connect(&scene.server.dsn("app"));
    app.run("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)");
    let url = |database: &str| format!("postgresql://postgres@127.0.0.1:{}/{database}", scene.server.port());
    let zero = ZeroCache::start(&url("app"), &url("postgres"));
    let statz: Url = zero.statz().parse().expect("a URL");
    let password = Secret::new("x");
    let look = async || Replica::new(statz.clone(), Some(password.clone())).position().await;

    app.run("SELECT pg_create_logical_replication_slot('peek', 'pgoutput')");
    let last = || -> Lsn {
        // In a Commit message the commit's position is behind the tag and the flags.
        let sql = "SELECT encode(substring(data FROM 3 FOR 8), 'hex') FROM pg_logical_slot_peek_binary_changes('peek', NULL, NULL,
                       'proto_version', '1', 'publication_names', '_zero_public_0', 'messages', 'true')
                   WHERE get_byte(data, 0) = ascii('C') ORDER BY lsn DESC LIMIT 1";
        Lsn(u64::from_str_radix(&app.value(sql), 16).expect("a position"))
    };
    for write in ["INSERT INTO item VALUES (2)", "SELECT pg_logical_emit_message(true, 'walgate/barrier', 'nonce')"] {
        app.run(write);
        let fence: Lsn = app.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN");
        let commit = last();
        assert!(commit < fence);
        until(write, &look, |piece| piece.value() == Some(&commit)).await;
    }

    let why = |piece: Piece<Lsn>| match piece {
        Piece::Unseen(why) => why,
        Piece::Seen { value, .. } => panic!("{value}"),
    };
    for password in [None, Some(Secret::new("wrong"))] {
        assert_eq!(
            why(Replica::new(statz.clone(), password.clone()).position().await),
            "zero-cache's /statz at 127.0.0.1: it wants another password: statz_password_file is to hold ZERO_ADMIN_PASSWORD"
        );
    }
    drop(zero);
    assert!(why(look().await).contains("refused"));
}
