//! `demo`: everything at work on one machine.

use std::time::Duration;

use clap::Args;
use crds::config::Redacted;

use super::{CliError, redacted};

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after this long with a summary; until Ctrl-C otherwise
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Use this database instead of one of its own; the schema `shop` is made anew in it
    #[arg(long, value_name = "URL", env = "OBSERVER_DATABASE_URL", hide_env_values = true, value_parser = redacted)]
    database_url: Option<Redacted>,
}

pub(super) async fn demo(_args: DemoArgs) -> Result<(), CliError> {
    Ok(())
}
