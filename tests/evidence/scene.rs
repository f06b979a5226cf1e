//! A server with two roles for walgate: one with the rights that the manual names, and one with none.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use walgate::gate::Piece;
use walgate::scratch::Server;
use walgate::source::evidence::ready;
use walgate::source::sql::SqlSession;

use crate::support::client::connector;
use crate::support::{Sql, postgres};

/// A server, and who looks at it.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) sql: Sql,
}

impl Scene {
    pub(crate) fn start(major: u32) -> Scene {
        let server = postgres(major).start().expect("the server starts");
        let sql = Sql::connect(&server.dsn("postgres"));
        sql.run("CREATE ROLE walgate LOGIN REPLICATION; GRANT pg_monitor TO walgate; CREATE ROLE nobody LOGIN");
        Scene { server, sql }
    }

    /// A session of a role with a database.
    pub(crate) async fn session(&self, role: &str, database: &str) -> SqlSession {
        session(&self.server, role, database).await
    }
}

/// A connection string for a role, which comes last and so counts.
pub(crate) fn dsn(server: &Server, role: &str, database: &str) -> String {
    server.dsn(database).replace("user=postgres", &format!("user={role}"))
}

/// A session of a role with a database of a server, ready to look.
pub(crate) async fn session(server: &Server, role: &str, database: &str) -> SqlSession {
    let session = connector(&dsn(server, role, database)).sql().await.expect("a session");
    ready(&session).await.expect("it is ready");
    session
}

/// What was seen.
#[track_caller]
pub(crate) fn seen<T: std::fmt::Debug, E: std::fmt::Debug>(piece: Result<Piece<T>, E>) -> T {
    match piece.expect("the session is there") {
        Piece::Seen { value, .. } => value,
        Piece::Unseen(why) => panic!("not seen: {why}"),
    }
}

/// Why nothing was seen.
#[track_caller]
pub(crate) fn unseen<T: std::fmt::Debug, E: std::fmt::Debug>(piece: Result<Piece<T>, E>) -> String {
    match piece.expect("the session is there") {
        Piece::Seen { value, .. } => panic!("seen: {value:?}"),
        Piece::Unseen(why) => why,
    }
}

/// Looks until what is seen is as awaited.
pub(crate) async fn until<T: std::fmt::Debug>(what: &str, look: impl AsyncFn() -> T, holds: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = look().await;
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}; last seen: {seen:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
