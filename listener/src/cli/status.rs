//! `status`: who works on which shard, and how far it is.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use crds::duration::Span;
use observer_listener::checkpoint::status::{self, ShardState};
use observer_listener::queue::dead_letter::keeper::{self, Selection};

use super::dlq::Output;
use super::output::{counted, say};
use super::schema::of_known;
use super::{CliError, DatabaseArgs};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Prints the shards of a listener, or of all in the database.
pub(super) async fn status(args: StatusArgs) -> Result<(), CliError> {
    let (pool, listener) = of_known(args.database).await?;
    let shards = status::list(&pool, listener.as_deref()).await?;
    if let Output::Json = args.output {
        return say!("{}", serde_json::to_string_pretty(&shards)?);
    }
    if shards.is_empty() {
        return match listener {
            Some(listener) => say!("listener {listener} has not run in this database yet"),
            None => say!("no listener has run in this database yet"),
        };
    }
    let now = Utc::now();
    let mut shown = "";
    for shard in &shards {
        if shard.listener != shown {
            let what = Selection {
                listener: Some(shard.listener.clone()),
                ..Selection::default()
            };
            let letters = keeper::count(&pool, &what).await?;
            let shards = counted(u64::from(shard.shards.unsigned_abs()), "shard", "shards");
            let letters = counted(letters.unsigned_abs(), "dead letter", "dead letters");
            say!("{}: {shards}, {letters}", shard.listener)?;
            say!("  SHARD  EPOCH  LAG    SINCE                 OWNER")?;
            shown = &shard.listener;
        }
        say!("{}", line(shard, now))?;
    }
    Ok(())
}

fn line(shard: &ShardState, now: DateTime<Utc>) -> String {
    let lag = shard
        .oldest
        .map_or(0, |oldest| (now - oldest).num_seconds());
    let lag = Span::from_secs(u64::try_from(lag).unwrap_or(0)).to_string();
    let since = shard.since.to_rfc3339_opts(SecondsFormat::Secs, true);
    let owner = shard.owner.as_deref().unwrap_or("nobody");
    let (number, epoch) = (shard.shard, shard.epoch);
    format!("  {number:<5}  {epoch:<5}  {lag:<5}  {since:<20}  {owner}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_lag_and_owner() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        let mut shard = ShardState {
            listener: "default/shop".to_owned(),
            shard: 3,
            shards: 8,
            owner: Some("shop-1_a_b".to_owned()),
            epoch: 12,
            since: at(0),
            saved_at: at(50),
            oldest: Some(at(40)),
        };
        assert_eq!(
            line(&shard, at(100)),
            "  3      12     1m     1970-01-01T00:00:00Z  shop-1_a_b"
        );
        shard.owner = None;
        shard.oldest = None;
        assert!(line(&shard, at(100)).ends_with("0s     1970-01-01T00:00:00Z  nobody"));
    }
}
