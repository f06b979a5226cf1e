//! `walgate gate verify-receipt`: whether somebody may rely on a pass of earlier. It asks nobody.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

use super::FAILED;
use crate::cli::USAGE;
use crate::cli::output::print;
use crate::config;
use crate::gate::{Phase, Receipt, ReceiptKey};
use crate::identity::in_comment;
use crate::time::PgTimestamp;

/// More than any receipt, or answer with one, has.
const MAX_LEN: u64 = 16 << 20;

const STATUSES: &str = "\
Exit status:
  0  it is genuine, and counts
  1  it is forged, has expired, or is of something else
  2  the command line, or a file, cannot be used

It asks no daemon: one that was handed out counts until it expires, also where its fence was lifted since.";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    /// The receipt, or the answer of a check that holds it; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// The key by which the gate signs: its receipt_key_file
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// It must be of this gate
    #[arg(long, value_name = "NAME")]
    gate: Option<String>,
    /// It must be of this phase
    #[arg(long, value_name = "preflight|cutover|post|rollback", default_value = "cutover")]
    phase: Phase,
}

/// A receipt, or an answer of `/v1/gates/…/check`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Receipt(Receipt),
    Answer { receipt: Option<Receipt> },
}

pub(super) fn main(args: &Args) -> ExitCode {
    match args.read() {
        Err(error) => {
            eprintln!("walgate: {error}");
            USAGE.into()
        }
        Ok((key, text)) => match args.verified(&key, &text, PgTimestamp::now()) {
            Ok(told) => {
                if let Err(error) = print(&told) {
                    eprintln!("walgate: {error}");
                }
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("walgate: {why}");
                FAILED.into()
            }
        },
    }
}

impl Args {
    fn read(&self) -> io::Result<(ReceiptKey, String)> {
        let named = |error: io::Error| io::Error::other(format!("--key-file: {error}"));
        let key = config::read_secret(&self.key_file).map_err(named)?;
        let key = ReceiptKey::new(key.expose().as_bytes()).map_err(io::Error::other).map_err(named)?;
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", self.file.display()));
        let mut text = String::new();
        let read = if self.file == Path::new("-") {
            io::stdin().lock().take(MAX_LEN).read_to_string(&mut text)
        } else {
            File::open(&self.file).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text))
        };
        read.map_err(named)?;
        Ok((key, text))
    }

    /// What to say of a receipt that counts.
    ///
    /// # Errors
    /// With why it does not.
    fn verified(&self, key: &ReceiptKey, text: &str, now: PgTimestamp) -> Result<String, String> {
        let receipt = match serde_json::from_str(text).map_err(|_| "this is no receipt of walgate's")? {
            Given::Receipt(receipt) | Given::Answer { receipt: Some(receipt) } => receipt,
            Given::Answer { receipt: None } => return Err("this holds no receipt: the gate had not passed".into()),
        };
        // What is forged is not to be quoted.
        receipt.verify(key, now).map_err(|error| format!("this receipt does not count: {error}"))?;
        let Receipt { gate, phase, issued_at, expires_at, target_lsn, .. } = &receipt;
        if let Some(wanted) = self.gate.as_ref().filter(|wanted| *wanted != gate) {
            return Err(format!("this receipt is of gate {}, not {wanted}", in_comment(gate)));
        }
        if self.phase != *phase {
            return Err(format!("this receipt is of the phase {phase}, not {}", self.phase));
        }
        let fence = target_lsn.map(|lsn| format!(" behind the fence at {lsn}")).unwrap_or_default();
        Ok(format!(
            "Valid: the {phase} of {} passed at {issued_at}{fence}. It counts until {expires_at}.\n",
            in_comment(gate)
        ))
    }
}
