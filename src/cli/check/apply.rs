//! Runs what mends, one statement after the other, and tells how each went. It stops at the first that fails.

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use super::CheckError;
use super::script::LOCK_TIMEOUT;
use crate::cli::interruption::Interruption;
use crate::cli::output::{ask, print};
use crate::identity::{Run, Step, in_comment};
use crate::source::catalog;
use crate::source::sql::SqlSession;

/// How often a statement is tried that others keep waiting, and the pause between.
const ATTEMPTS: (usize, Duration) = (3, Duration::from_secs(2));

/// How long a statement takes without a word about why.
const SILENCE: Duration = Duration::from_secs(2);

/// Shows what is to be run, and asks.
pub(super) fn is_wanted(steps: &[Step]) -> io::Result<bool> {
    for step in steps {
        eprintln!("-- {}", in_comment(&step.comment));
        if step.run != Run::Leftover {
            eprintln!("{};", in_comment(&step.sql));
        }
    }
    let is_wanted = ask("Run this on the database?")?;
    if !is_wanted {
        eprintln!("Not run. --yes runs it without asking.");
    }
    Ok(is_wanted)
}

/// Runs the steps; returns whether all of them went well.
///
/// # Errors
/// If the session is lost, or somebody wants this to stop: what was under way may or may not have happened, and running all
/// again is safe.
pub(super) async fn run(session: &SqlSession, steps: &[Step]) -> Result<bool, CheckError> {
    let mut interruption = Interruption::new()?;
    session.batch_execute("SET statement_timeout = 0").await.map_err(|error| catalog::failed(&error))?;
    // The server then soon ends what was under way when this ends; but some systems cannot tell.
    let _ = session.batch_execute("SET client_connection_check_interval = '1s'").await;
    for step in steps {
        match step.run {
            Run::Leftover => tell(&format!("-- {} ", in_comment(&step.comment)))?,
            _ => tell(&format!("{}; ", in_comment(&step.sql)))?,
        }
        let begun = Instant::now();
        let outcome = tokio::select! {
            outcome = attempt(session, step) => outcome,
            () = interruption.recv() => {
                tell("-- stopped\n")?;
                return Err(CheckError::Stopped);
            }
        };
        match outcome {
            Ok(true) => tell(&format!("-- done in {:.1} s\n", begun.elapsed().as_secs_f64()))?,
            Ok(false) => tell("-- was done before\n")?,
            Err(error) => match error.as_db_error() {
                Some(server) => {
                    tell("-- failed\n")?;
                    eprintln!("walgate: {}: {}", server.message(), advice(server));
                    return Ok(false);
                }
                None => {
                    tell("-- lost\n")?;
                    return Err(catalog::failed(&error).into());
                }
            },
        }
    }
    Ok(true)
}

/// What was begun is gone on with, whether or not anybody reads of it.
fn tell(text: &str) -> io::Result<()> {
    print(text).map(drop)
}

/// Returns whether there was anything to do. What others keep waiting is tried again, for they may have done it.
async fn attempt(session: &SqlSession, step: &Step) -> Result<bool, tokio_postgres::Error> {
    // An index takes as long as it takes. Nobody waits for one that is built while others write; behind anything else that
    // waits for a lock others do.
    let limit = if step.run == Run::Alone { "0" } else { LOCK_TIMEOUT };
    session.batch_execute(&format!("SET lock_timeout = '{limit}'")).await?;
    let mut attempts = 1;
    loop {
        if let Run::Unless(condition) = &step.run
            && session.query_one(&format!("SELECT {condition}"), &[]).await?.try_get(0)?
        {
            return Ok(false);
        }
        // All names in it say their schema; but event triggers of the application may rely on the role's own setting.
        session.batch_execute("RESET search_path").await?;
        let mut running = pin!(session.batch_execute(&step.sql));
        let outcome = match timeout(SILENCE, &mut running).await {
            Err(_) if step.run == Run::Alone => {
                eprint!("(this waits for transactions that are open, and reads the whole table) ");
                running.await
            }
            Err(_) => running.await,
            Ok(outcome) => outcome,
        };
        let narrowed = session.batch_execute("SELECT pg_catalog.set_config('search_path', '', false)").await;
        let outcome = outcome.and(narrowed);
        match outcome {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && attempts < ATTEMPTS.0 => {
                attempts += 1;
                eprint!("(waiting for others) ");
                sleep(ATTEMPTS.1).await;
            }
            outcome => return outcome.map(|()| true),
        }
    }
}

/// What to do about an error of the server's.
fn advice(error: &tokio_postgres::error::DbError) -> String {
    match error.code() {
        code if *code == SqlState::LOCK_NOT_AVAILABLE => {
            "somebody holds a lock on it for long (pg_stat_activity); run it again later".to_owned()
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => "run it as the owner of the table".to_owned(),
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            "this is a standby, or its default is to read only; run it on the server that is written to".to_owned()
        }
        _ => error.detail().or(error.hint()).unwrap_or("what was done before it stays").to_owned(),
    }
}
