//! A physical standby: as it follows, as it is promoted with everything, and as it is promoted without.

use walgate::gate::{Fork, Piece};
use walgate::lag::SourcePoll;
use walgate::lsn::Lsn;
use walgate::scratch::{Server, Stop};
use walgate::source::evidence::receiver::receiver;
use walgate::source::evidence::takeover::writable;
use walgate::source::evidence::timeline::{self, Timeline, timeline};
use walgate::source::replication::Walsender;
use walgate::source::slots::SlotSession;

use crate::scene::{Scene, dsn, seen, session, unseen, until};
use crate::support::client::connector;
use crate::support::{Sql, postgres};

/// A standby of the scene's server.
fn standby(scene: &mut Scene) -> Server {
    let primary = scene.server.dsn("postgres").replace(" dbname=postgres", "");
    let standby = scene.server.standby(&primary).expect("the standby starts");
    scene.sql = Sql::connect(&scene.server.dsn("postgres"));
    standby
}

async fn ask(server: &Server, walsender: Walsender) -> Timeline {
    let connector = connector(&dsn(server, "walgate", "postgres"));
    let mut session = connector.replication(walsender).await.expect("a replication session");
    let seen = timeline(&mut session).await.expect("it answers");
    session.close().await.expect("it is closed");
    seen
}

/// Sets a fence, and waits until a standby has replayed it.
async fn fence(scene: &Scene) -> Lsn {
    scene.sql.run("SELECT pg_logical_emit_message(true, 'walgate/barrier', 'nonce')");
    scene.sql.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
}

async fn replays(server: &Server, fence: Lsn) {
    let session = session(server, "walgate", "postgres").await;
    let look = async || seen(receiver(&session).await);
    until("the standby to replay", look, |receiver| receiver.replayed >= Some(fence)).await;
}

async fn standing_of(server: &Server) -> SourcePoll {
    let mut session = SlotSession::open(&connector(&dsn(server, "walgate", "postgres"))).await.expect("a session");
    session.look().await.expect("it answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_of_its_primary_and_replays() {
    for major in 14..=18 {
        let mut scene = Scene::start(major);
        let follower = standby(&mut scene);
        let at = fence(&scene).await;
        replays(&follower, at).await;
        let (primary, standby) = (standing_of(&scene.server).await, standing_of(&follower).await);
        assert_eq!((primary.in_recovery, standby.in_recovery), (false, true), "PostgreSQL {major}");
        assert_eq!((primary.history.system, primary.history.timeline), (standby.history.system, Some(1)));
        assert_eq!(standby.history.timeline, None, "SQL does not tell");
        assert!(primary.flushed >= at && standby.flushed >= at);
        for (server, kind) in [
            (&scene.server, Walsender::Cluster),
            (&follower, Walsender::Cluster),
            (&scene.server, Walsender::Database),
            (&follower, Walsender::Database),
        ] {
            let Timeline { history, forks } = ask(server, kind).await;
            assert_eq!(history.value(), Some(&primary.history), "PostgreSQL {major}");
            assert_eq!(forks.value(), Some(&vec![]));
        }

        let following = session(&follower, "walgate", "postgres").await;
        let what = seen(receiver(&following).await);
        assert_eq!((what.status.as_deref(), what.timeline, what.slot), (Some("streaming"), Some(1), None));
        assert_eq!(seen(writable(&following).await), Err("it is in recovery".to_owned()));
        let nobody = session(&follower, "nobody", "postgres").await;
        let why = unseen(receiver(&nobody).await);
        assert_eq!(
            why,
            "pg_stat_wal_receiver: what the WAL receiver does is hidden; GRANT pg_monitor TO walgate's role"
        );
        // What is received is not yet replayed.
        let superuser = Sql::connect(&follower.dsn("postgres"));
        superuser.run("SELECT pg_wal_replay_pause()");
        superuser.until("SELECT pg_get_wal_replay_pause_state()", "paused");
        let paused = fence(&scene).await;
        superuser.until(&format!("SELECT pg_last_wal_receive_lsn() >= '{paused}'"), "t");
        assert!(seen(receiver(&following).await).replayed < Some(paused));
        // The primary goes.
        scene.server.stop(Stop::Immediate).expect("it stops");
        let look = async || seen(receiver(&following).await);
        until("the WAL receiver to end", look, |receiver| receiver.status.as_deref() != Some("streaming")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_forks_at_or_past_what_it_has_and_before_what_it_lost() {
    for major in 14..=18 {
        let mut scene = Scene::start(major);
        let (has, lost) = (standby(&mut scene), standby(&mut scene));
        let before = fence(&scene).await;
        for server in [&has, &lost] {
            replays(server, before).await;
        }
        // One does not hear of it any more.
        lost.reload_with(&[("primary_conninfo", "host=127.0.0.1 port=1")]).expect("it reloads");
        let cut_off = session(&lost, "walgate", "postgres").await;
        let look = async || seen(receiver(&cut_off).await);
        until("the WAL receiver to end", look, |receiver| receiver.status.is_none()).await;
        let at = fence(&scene).await;
        replays(&has, at).await;
        let old = standing_of(&scene.server).await;
        scene.server.stop(Stop::Fast).expect("it stops");
        for server in [&has, &lost] {
            server.promote().expect("it is promoted");
        }

        let forks = async |server: &Server| {
            let standing = standing_of(server).await;
            assert_eq!((standing.in_recovery, standing.history.system), (false, old.history.system));
            assert_eq!(standing.history.timeline, Some(2), "PostgreSQL {major}");
            let cluster = ask(server, Walsender::Cluster).await;
            let host = connector(&dsn(server, "walgate", "postgres"));
            let Timeline { history, forks } = timeline::timeline_of(&host, &host.dsn().hosts()[0]).await;
            assert_eq!(history.value(), Some(&standing.history));
            assert_eq!(cluster.forks.value(), forks.value());
            match forks {
                Piece::Seen { value, .. } => match value[..] {
                    [Fork { timeline: 1, at }] => at,
                    _ => panic!("{value:?}"),
                },
                Piece::Unseen(why) => panic!("{why}"),
            }
        };
        assert!(forks(&has).await >= at, "PostgreSQL {major}");
        let short = forks(&lost).await;
        assert!((before..at).contains(&short), "PostgreSQL {major}: {before} <= {short} < {at}");

        let promoted = session(&has, "nobody", "postgres").await;
        assert_eq!(seen(writable(&promoted).await), Ok(()));
        let elsewhere = format!("{} options='-c default_transaction_read_only=on'", has.dsn("postgres"));
        let read_only = connector(&elsewhere).sql().await.expect("a session");
        let why = "transactions are read-only (default_transaction_read_only)".to_owned();
        assert_eq!(seen(writable(&read_only).await), Err(why));

        let gone = connector(&scene.server.dsn("postgres"));
        assert!(gone.sql().await.is_err_and(|error| error.is_refused()));
        scene.server.start().expect("it starts");
        assert_eq!(standing_of(&scene.server).await.history, old.history, "the old one goes on by itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_replicate_is_told_so() {
    let scene = Scene::start(18);
    let connector = connector(&dsn(&scene.server, "nobody", "postgres"));
    let Timeline { history, forks } = timeline::timeline_of(&connector, &connector.dsn().hosts()[0]).await;
    let (Piece::Unseen(why), Piece::Unseen(also)) = (history, forks) else { panic!("it was let in") };
    assert!(
        why.starts_with("no replication connection: ") && why.contains("permission denied to start WAL sender"),
        "{why}"
    );
    assert_eq!(why, also);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_let_in_has_not_stopped() {
    let server = postgres(18).password("secret").start().expect("the server starts");
    let closed = connector(&server.dsn("postgres").replace("password=secret", "password=wrong"));
    assert!(closed.sql().await.is_err_and(|error| !error.is_refused()));
}
