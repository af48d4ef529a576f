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
    clap_complete::generate(args.shell, &mut command, &name, &mut script);
    let mut script = String::from_utf8(script)?;
    if args.shell == Shell::Bash {
        // For a program with a hyphen in its name, clap_complete writes the states that it goes to in one way and
        // those that it handles in another.
        let handled = name.replace('-', "__subcmd__");
        script = script.replace(&handled, &name.replace('-', "__"));
    }
    match std::io::stdout().lock().write_all(script.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::Closed),
        written => Ok(written?),
    }
}
