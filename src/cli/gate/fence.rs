//! `walgate gate fence` and `walgate gate release`.

use std::process::ExitCode;

use axum::http::{Method, StatusCode};
use serde::Deserialize;

use super::check::encoded;
use super::daemon::{self, Answer, Failure, Problem};
use super::{FAILED, Format};
use crate::cli::output::print;
use crate::gate::Phase;
use crate::identity::in_comment;
use crate::lsn::Lsn;

const STATUSES: &str = "\
Exit status:
  0  done
  1  refused: somebody writes, or one stands already; or none stood that could be lifted
  2  the command line cannot be used, there is no such gate, or the token is wrong
  4  the daemon does not answer, or cannot ask the source

A fence stands in the memory of the daemon: a restart forgets it, and no cutover passes until another is set.";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    #[command(flatten)]
    gate: daemon::Which,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `/v1/gates/…/fence` answers.
#[derive(Deserialize)]
struct Fence {
    gate: String,
    phase: String,
    target_lsn: Lsn,
}

#[derive(Deserialize)]
struct Gates {
    gates: Vec<Gate>,
}

#[derive(Deserialize)]
struct Gate {
    gate: String,
}

pub(super) fn set(args: &Args) -> ExitCode {
    args.change((Method::POST, StatusCode::CREATED), |answer| {
        // In JSON too: whoever answers 201 to anything has set no fence.
        let Fence { gate, phase, target_lsn } = answer.read()?;
        args.gate.is_answered_by(&gate, &phase)?;
        Ok(match args.format {
            Format::Json => format!("{}\n", answer.body),
            Format::Text => format!(
                "A fence stands at {target_lsn} for the {phase} of {}: keep writers away until it passes.\n",
                in_comment(&gate)
            ),
        })
    })
}

pub(super) fn lift(args: &Args) -> ExitCode {
    args.change((Method::DELETE, StatusCode::NO_CONTENT), |_| match args.format {
        Format::Json => Ok(String::new()),
        Format::Text => {
            let daemon::Which { name, phase, .. } = &args.gate;
            Ok(format!("The fence for the {phase} of {} is lifted.\n", in_comment(name)))
        }
    })
}

impl Args {
    /// Asks for a change, which was made if the answer has this status.
    fn change(&self, asked: (Method, StatusCode), told: impl FnOnce(&Answer) -> Result<String, Failure>) -> ExitCode {
        match self.try_change(asked, told) {
            Ok(status) => status.into(),
            Err(failure) => failure.exit(),
        }
    }

    fn try_change(
        &self,
        (method, made): (Method, StatusCode),
        told: impl FnOnce(&Answer) -> Result<String, Failure>,
    ) -> Result<u8, Failure> {
        let daemon::Which { name, phase, timeout, .. } = &self.gate;
        if !matches!(phase, Phase::Cutover | Phase::Rollback) {
            return Err(Failure::Usage(format!("--phase {phase} has no fence; expected cutover or rollback")));
        }
        let daemon = self.gate.daemon()?;
        let answer = daemon.ask(method, &format!("gates/{}/fence?phase={phase}", encoded(name)), *timeout)?;
        if answer.status == made {
            let text = told(&answer)?;
            if let Err(error) = print(&text) {
                eprintln!("walgate: {error}");
            }
            return Ok(0);
        }
        let refused = match answer.status {
            StatusCode::CONFLICT => true,
            // That no fence stands is an answer; that there is no such gate is a mistake.
            StatusCode::NOT_FOUND => {
                let Gates { gates } = daemon.ask(Method::GET, "gates", *timeout)?.read()?;
                gates.iter().any(|gate| gate.gate == *name)
            }
            _ => false,
        };
        if !refused {
            return Err(answer.problem());
        }
        let Problem { detail, target_lsn } = answer.read()?;
        match self.format {
            Format::Text => {
                let back = if phase.is_back() { " --phase rollback" } else { "" };
                let lift = target_lsn.map(|_| format!(": walgate gate release {}{back}", in_comment(name)));
                eprintln!("walgate: {}{}", in_comment(&detail), lift.unwrap_or_default());
            }
            Format::Json => {
                if let Err(error) = print(&format!("{}\n", answer.body)) {
                    eprintln!("walgate: {error}");
                }
            }
        }
        Ok(FAILED)
    }
}
