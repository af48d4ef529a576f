//! The `observer-demo` program: what a first look needs besides the listener itself. It starts a
//! Postgres, a receiver, and a small shop in which things happen.

mod figures;
mod play;
mod receiver;
mod screen;
mod shop;
mod stage;
mod summary;
mod tally;

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use crds::config::Redacted;
use crds::duration::HumanDuration;
use program::logs::{self, LogFormat};
use program::signals::stop_on_signal;

use self::play::{DemoError, MAX_DURATION};
use self::screen::Screen;

/// Exit code for a database or a command line that cannot be used.
const EXIT_CONFIG: u8 = 2;

/// What is logged unless `RUST_LOG` says otherwise: nothing that the display shows anyway.
const LOGGED: &str =
    "warn,observer::action=error,observer::attempt=error,observer::dead_letter=error";

/// Seed of what happens in the shop: the same each time.
const SEED: u64 = 20;

/// Shows observers at work on a small shop, with a Postgres and a receiver of their own.
#[derive(Debug, Parser)]
#[command(name = "observer-demo", version)]
struct Args {
    /// End after this long with a summary; on Ctrl-C otherwise, and after four hours at the latest
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    duration: Option<Duration>,
    /// Use this database instead of one of its own; the schema `shop` is made in it and dropped. With a
    /// password, give it by the environment, as others may see arguments
    #[arg(long, value_name = "URL", env = "OBSERVER_DATABASE_URL", hide_env_values = true, value_parser = redacted)]
    database_url: Option<Redacted>,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Demo(#[from] DemoError),
    #[error("not everything arrived as it should; the summary says what did not")]
    Incomplete,
}

/// Runs the program and says by its exit code how it went.
fn main() -> ExitCode {
    let code = match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Demo(error)) if error.is_config() => {
            logs::say(&format!("{error}\n"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            logs::say(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    };
    logs::flush();
    code
}

/// Plays; fails unless everything that should have arrived arrived once.
fn run(args: Args) -> Result<(), Error> {
    logs::start(LogFormat::Auto, LOGGED)?;
    // Two are compiled in, as the client of Kafka brings its own; libraries are not to choose.
    let _the_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let options = play::Options {
        database_url: args.database_url,
        duration: args.duration,
        seed: SEED,
    };
    let played = runtime.block_on(async {
        let stop = stop_on_signal()?;
        Ok(play::play(options, &mut Screen::stdout(), stop).await?)
    });
    // A task that hangs must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match played {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Incomplete),
        Err(error) => Err(error),
    }
}

/// Reads how long the demo is to last.
fn length(text: &str) -> Result<Duration, String> {
    let length: HumanDuration = text
        .parse()
        .map_err(|error: crds::duration::ParseDurationError| error.to_string())?;
    let length = length.duration();
    if length > MAX_DURATION {
        return Err("is longer than a demo may be; write at most 4h".to_owned());
    }
    Ok(length)
}

/// Keeps a secret argument out of every message.
#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn redacted(text: &str) -> Result<Redacted, Infallible> {
    Ok(Redacted::new(text))
}
