//! `completion`: scripts that complete commands in shells.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use super::CliError;

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// Shell, whose own folder for such scripts is the place for it
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the script of a shell to standard output.
pub(super) fn completion(args: &CompletionArgs) -> Result<(), CliError> {
    let mut command = super::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    match std::io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::Closed),
        written => Ok(written?),
    }
}
