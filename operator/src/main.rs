//! The `observer-operator` program.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
