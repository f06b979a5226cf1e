//! `walgate gate sequences`: whether the target's sequences are at or past the source's, and what brings them up.
//!
//! It only looks, unless `--apply` is given. Then it runs what it shows, after asking, and looks again.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use tokio_postgres::error::SqlState;

use super::verify::{Ends, Format, UNKNOWN, Way, block_on, status};
use crate::cli::columns::{Column, line_up};
use crate::cli::output::{ask, print};
use crate::gate::sequence::{Compared, Standing};
use crate::identity::in_comment;
use crate::verify;
use crate::verify::sequences::Sessions;

const STATUSES: &str = "\
Exit status:
  0  every sequence of the target is at or past the source's, if need be by --apply
  1  some are behind, missing, or count differently
  2  the command line, or a connection string, cannot be used
  3  none is known to be behind, and some could not be read
  4  a server cannot be reached, or does not answer

Sequences are never moved backwards, in the direction in which they count. Only what no longer moves can be copied: stop the
writers of the source first. To run it, the role that logs in at the target needs UPDATE on the sequences.";

const NO_RIGHTS: &str = "this needs UPDATE on the sequences: GRANT UPDATE ON ALL SEQUENCES IN SCHEMA … TO the role that logs in \
                         there, or log in as their owner, by --source and --target";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    #[command(flatten)]
    ends: Ends,
    /// Bring those up that are behind, after asking
    #[arg(long, conflicts_with = "format")]
    apply: bool,
    /// Do not ask
    #[arg(long, requires = "apply")]
    yes: bool,
    /// How to print what was seen
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Verify(#[from] verify::Error),
    #[error("{0}")]
    Output(#[from] io::Error),
}

pub(super) fn main(args: &Args) -> ExitCode {
    let way = match args.ends.way() {
        Ok(way) => way,
        Err(status) => return status,
    };
    match block_on(run(args, &way)) {
        Ok(Ok(compared)) => ExitCode::from(verdict(&compared)),
        Ok(Err(error)) => {
            eprintln!("walgate: {}", in_comment(&error.to_string()));
            match error {
                Failure::Verify(error) => status(&error).into(),
                Failure::Output(_) => UNKNOWN.into(),
            }
        }
        Err(status) => status,
    }
}

fn verdict(compared: &[Compared]) -> u8 {
    let has = |standing| compared.iter().any(|one| one.standing == standing);
    if has(Standing::Behind) || has(Standing::Missing) || has(Standing::Different) {
        1
    } else if has(Standing::Unknown) {
        UNKNOWN
    } else {
        0
    }
}

async fn run(args: &Args, way: &Way) -> Result<Vec<Compared>, Failure> {
    let sessions = Sessions::open(&way.source, &way.target).await?;
    let accepted = way.options.as_ref().map(|options| options.accepted.as_slice()).unwrap_or_default();
    let compare = async || {
        let mut compared = sessions.compare().await?;
        compared.retain(|one| !accepted.contains(&one.sequence.to_string()));
        Ok::<_, verify::Error>(compared)
    };
    let mut compared = compare().await?;
    let mut lacks_rights = false;
    let is_behind = compared.iter().any(|one| one.mend.is_some());
    if args.apply && is_behind && (args.yes || is_wanted(&compared, args.ends.target())?) {
        for one in &compared {
            let Some(mend) = &one.mend else { continue };
            let told = match sessions.apply(mend).await {
                Ok(true) => "done".to_owned(),
                Ok(false) => "was past it by then".to_owned(),
                Err(error) => match error.as_db_error() {
                    Some(server) => {
                        lacks_rights |= *server.code() == SqlState::INSUFFICIENT_PRIVILEGE;
                        format!("failed: {}", server.message())
                    }
                    None => "lost".to_owned(),
                },
            };
            print(&format!("{}; -- {}\n", in_comment(&mend.to_string()), in_comment(&told)))?;
        }
        compared = compare().await?;
    }
    if lacks_rights {
        eprintln!("walgate: {NO_RIGHTS}");
    }
    print(&match args.format {
        Format::Table => render(&compared, args.apply, args.ends.target()),
        Format::Json => format!("{}\n", serde_json::json!({ "sequences": &compared })),
    })?;
    Ok(compared)
}

fn is_wanted(compared: &[Compared], target: &str) -> io::Result<bool> {
    for mend in compared.iter().filter_map(|one| one.mend.as_ref()) {
        eprintln!("{};", in_comment(&mend.to_string()));
    }
    let is_wanted = ask(&format!("Run this on {target}?"))?;
    if !is_wanted {
        eprintln!("Not run.");
    }
    Ok(is_wanted)
}

const COLUMNS: [Column; 5] =
    [("SEQUENCE", false), ("STATE", false), ("SOURCE NEXT", true), ("TARGET NEXT", true), ("", false)];

fn render(compared: &[Compared], was_applied: bool, target: &str) -> String {
    let rows: Vec<[String; 5]> = compared
        .iter()
        .map(|one| {
            let next = |next: &Option<String>| next.clone().unwrap_or_else(|| "-".to_owned());
            let differs = one.differs.as_deref().map(in_comment).unwrap_or_default();
            let name = in_comment(&one.sequence.to_string());
            [name, word(one.standing).to_owned(), next(&one.source_next), next(&one.target_next), differs]
        })
        .collect();
    let mut text = String::new();
    if let Some((headings, lines)) = line_up(&COLUMNS, &rows) {
        let _ = writeln!(text, "{headings}\n{}\n", lines.join("\n"));
    }
    let mends: Vec<_> = compared.iter().filter_map(|one| one.mend.as_ref()).collect();
    if !mends.is_empty() && !was_applied {
        let _ = writeln!(text, "-- On {target}, or by --apply. Sequences that are past it by then stay as they are.");
        for mend in &mends {
            let _ = writeln!(text, "{};", in_comment(&mend.to_string()));
        }
        text.push('\n');
    }
    let count = |standing| compared.iter().filter(|one| one.standing == standing).count();
    let standings = [Standing::Level, Standing::Behind, Standing::Missing, Standing::Different, Standing::Unknown];
    let counts = standings.map(|standing| (count(standing), standing)).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, standing)| format!("{count} {}", word(standing))).collect();
    let _ = match counts.is_empty() {
        true => writeln!(text, "The source has no sequences."),
        false => writeln!(text, "{}.", counts.join(", ")),
    };
    text
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Level => "at or past",
        Standing::Behind => "behind",
        Standing::Missing => "missing",
        Standing::Different => "different",
        Standing::Unknown => "unknown",
    }
}
