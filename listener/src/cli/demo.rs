//! `demo`: everything at work on one machine.

use std::time::Duration;

use clap::Args;
use crds::config::Redacted;
use observer_listener::demo::play::{self, MAX_DURATION};
use observer_listener::demo::screen::Screen;

use super::run::stop_on_signal;
use super::{CliError, redacted};

/// The same things happen in the shop each time.
const SEED: u64 = 20;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after this long with a summary; on Ctrl-C otherwise, and after four hours at the latest
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    duration: Option<Duration>,
    /// Use this database instead of one of its own; the schema `shop` is made in it and dropped
    #[arg(long, value_name = "URL", env = "OBSERVER_DATABASE_URL", hide_env_values = true, value_parser = redacted)]
    database_url: Option<Redacted>,
}

/// Plays; fails unless everything that should have arrived arrived once.
pub(super) async fn demo(args: DemoArgs) -> Result<(), CliError> {
    let options = play::Options {
        database_url: args.database_url,
        duration: args.duration,
        seed: SEED,
    };
    match play::play(options, &mut Screen::stdout(), stop_on_signal()?).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::Run(anyhow::anyhow!(
            "not everything arrived as it should; the summary says what did not"
        ))),
        Err(error) if error.is_config() => Err(CliError::Config(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = super::duration(text).map_err(|error| error.to_string())?;
    if length > MAX_DURATION {
        return Err("is longer than a demo may be; write at most 4h".to_owned());
    }
    Ok(length)
}
