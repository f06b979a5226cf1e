//! `walgate completions` and `walgate man`: generated from the command line's own definition.

use std::io;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell to complete for
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> ExitCode {
    clap_complete::generate(args.shell, command, "walgate", &mut io::stdout());
    ExitCode::SUCCESS
}

pub(super) fn page(command: Command) -> ExitCode {
    match clap_mangen::Man::new(command).render(&mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walgate: cannot write the manual page: {error}");
            ExitCode::FAILURE
        }
    }
}
