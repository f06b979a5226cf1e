//! Runs what mends, one statement after the other, and tells how each went. It stops at the first that fails.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::CheckError;
use super::script::LOCK_TIMEOUT;
use crate::cli::output::ask;
use crate::identity::{Run, Step, in_comment};
use crate::source::catalog;
use crate::source::sql::SqlSession;

/// How often a statement is tried that others keep waiting, and the pause between.
const ATTEMPTS: (usize, Duration) = (3, Duration::from_secs(2));

/// Shows what is to be run, and asks.
pub(super) fn is_wanted(steps: &[Step]) -> io::Result<bool> {
    for step in steps {
        eprintln!("-- {}\n{};", in_comment(&step.comment), in_comment(&step.sql));
    }
    let is_wanted = ask("Run this on the database?")?;
    if !is_wanted {
        eprintln!("Not run.");
    }
    Ok(is_wanted)
}

/// Runs the steps; returns whether all of them went well.
///
/// # Errors
/// If the session is lost: what was under way may or may not have happened, and running all again is safe.
pub(super) async fn run(session: &SqlSession, steps: &[Step]) -> Result<bool, CheckError> {
    // An index takes as long as it takes; but nobody is kept waiting for one that nobody waits for.
    let limits = format!("SET statement_timeout = 0; SET lock_timeout = '{LOCK_TIMEOUT}'");
    session.batch_execute(&limits).await.map_err(|error| catalog::failed(&error))?;
    // Some systems cannot tell.
    let _ = session.batch_execute("SET client_connection_check_interval = '1s'").await;
    for step in steps {
        print!("{}; ", in_comment(&step.sql));
        io::stdout().flush()?;
        let begun = Instant::now();
        match attempt(session, step).await {
            Ok(true) => println!("-- done in {:.1} s", begun.elapsed().as_secs_f64()),
            Ok(false) => println!("-- was done before"),
            Err(error) => match error.as_db_error() {
                Some(server) => {
                    println!("-- failed");
                    eprintln!("walgate: {}: {}", server.message(), advice(server));
                    return Ok(false);
                }
                None => {
                    println!("-- lost");
                    return Err(catalog::failed(&error).into());
                }
            },
        }
    }
    Ok(true)
}

/// Returns whether there was anything to do.
async fn attempt(session: &SqlSession, step: &Step) -> Result<bool, tokio_postgres::Error> {
    if let Run::Unless(condition) | Run::Leftover(condition) = &step.run
        && session.query_one(&format!("SELECT {condition}"), &[]).await?.try_get(0)?
    {
        return Ok(false);
    }
    // All names in it say their schema; but event triggers of the application may rely on the role's own setting.
    session.batch_execute("RESET search_path").await?;
    let mut attempts = 1;
    let outcome = loop {
        match session.batch_execute(&step.sql).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && attempts < ATTEMPTS.0 => {
                attempts += 1;
                eprint!("(waiting for others) ");
                sleep(ATTEMPTS.1).await;
            }
            outcome => break outcome,
        }
    };
    session.batch_execute("SELECT pg_catalog.set_config('search_path', '', false)").await?;
    outcome.map(|()| true)
}

/// What to do about an error of the server's.
fn advice(error: &tokio_postgres::error::DbError) -> String {
    match error.code() {
        code if *code == SqlState::LOCK_NOT_AVAILABLE => {
            "somebody holds a lock on it for long (pg_stat_activity); run it again later".to_owned()
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => "run it as the owner of the table".to_owned(),
        _ => error.detail().or(error.hint()).unwrap_or("what was done before it stays").to_owned(),
    }
}
