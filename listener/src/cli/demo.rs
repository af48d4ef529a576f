//! `demo`: a demo shop on one machine.

use std::time::Duration;

use clap::Args;
use crds::config::Redacted;
use observer_listener::demo::play::{self, MAX_DURATION};
use observer_listener::demo::screen::Screen;

use super::run::stop_on_signal;
use super::{CliError, redacted};

/// Seed of the shop, so that every run is the same.
const SEED: u64 = 20;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Time to run, at most 4h; without it, until Ctrl-C or for four hours
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    duration: Option<Duration>,
    /// Existing database to use instead of a temporary one; the schema `shop` is created in it and dropped
    #[arg(long, value_name = "URL", env = "OBSERVER_DATABASE_URL", hide_env_values = true, value_parser = redacted)]
    database_url: Option<Redacted>,
}

/// Runs the demo; fails unless every delivery arrived exactly once.
pub(super) async fn demo(args: DemoArgs) -> Result<(), CliError> {
    let options = play::Options {
        database_url: args.database_url,
        duration: args.duration,
        seed: SEED,
    };
    match play::play(options, &mut Screen::stdout(), stop_on_signal()?).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::Run(anyhow::anyhow!(
            "some deliveries did not arrive as expected; see the summary"
        ))),
        Err(error) if error.is_config() => Err(CliError::Config(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = super::duration(text).map_err(|error| error.to_string())?;
    if length > MAX_DURATION {
        return Err("is too long; the limit is 4h".to_owned());
    }
    Ok(length)
}
