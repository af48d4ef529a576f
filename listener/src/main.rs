//! The `observer-listener` program.

fn main() -> std::process::ExitCode {
    observer_listener::cli::main()
}
