//! The `observer-operator` program.

fn main() -> std::process::ExitCode {
    observer_operator::cli::main()
}
