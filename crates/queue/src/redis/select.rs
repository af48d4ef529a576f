//! What is told of jobs, and commands that mean a selection of them.

use std::collections::BTreeSet;

use super::{RedisQueue, read, scripts};
use crate::{ActionLanes, Figures, First, Lane, MAX_ASKED, QueueError, Selection, Shown, State};

pub(super) const RETRY: &str = "retry";
pub(super) const CANCEL: &str = "cancel";

/// Most jobs that one script looks at.
const LOOKED_AT_ONCE: usize = 500;

/// Most scripts that one command runs: beyond this many jobs, lists and their counts are of the
/// oldest only, and the rest of a command is for the next call.
const MOST_LOOKS: usize = 20_000;

/// Members of a set that are read at once.
const SCANNED_AT_ONCE: usize = 1000;

/// A script's answer: where to go on, how many were meant, rows.
type Part = (String, u64, Vec<read::Row>);

impl RedisQueue {
    pub(super) async fn first_of(&self, lanes: &[Lane]) -> Result<Vec<Option<First>>, QueueError> {
        let mut all = Vec::with_capacity(lanes.len());
        for lanes in lanes.chunks(MAX_ASKED) {
            let mut call = self.server.script(&scripts::FIRSTS);
            for lane in lanes {
                call.arg(lane.hash)
                    .arg(format!("{}:{}", lane.observer, lane.action));
            }
            let rows: Vec<read::Row> = self.server.run(&call).await?;
            for row in &rows {
                all.push(read::first(row)?);
            }
        }
        Ok(all)
    }

    pub(super) async fn lanes_of(
        &self,
        shards: &[u16],
        of: u16,
        most: usize,
    ) -> Result<Vec<ActionLanes>, QueueError> {
        let of = u32::from(of.max(1));
        let actions: BTreeSet<String> = self.server.ask("SMEMBERS", "actions").await?;
        let mut all = Vec::new();
        for name in actions {
            let Some((observer, action)) = name.split_once(':') else {
                return Err(QueueError::Unreadable("an action's name".to_owned()));
            };
            let mut hashes = BTreeSet::new();
            let mut from = 0;
            loop {
                let (next, some) = self
                    .server
                    .scan(&format!("lanes:{name}"), from, SCANNED_AT_ONCE)
                    .await?;
                for hash in some {
                    let hash: u32 = hash
                        .parse()
                        .map_err(|_| QueueError::Unreadable("a lane's hash".to_owned()))?;
                    if shards.iter().any(|shard| hash % of == u32::from(*shard)) {
                        hashes.insert(hash);
                    }
                }
                from = next;
                if from == 0 || hashes.len() > most {
                    break;
                }
            }
            if !hashes.is_empty() {
                all.push(ActionLanes {
                    observer: observer.into(),
                    action: action.into(),
                    hashes: (hashes.len() <= most).then(|| hashes.into_iter().collect()),
                });
            }
        }
        Ok(all)
    }

    pub(super) async fn count(&self) -> Result<Vec<(String, Figures)>, QueueError> {
        let call = self.server.script(&scripts::FIGURES);
        let rows: Vec<read::Row> = self.server.run(&call).await?;
        let mut all = rows
            .iter()
            .map(read::figures)
            .collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(all)
    }

    pub(super) async fn selected(
        &self,
        what: &Selection,
        most: usize,
    ) -> Result<(Vec<Shown>, u64), QueueError> {
        let (mut rows, mut all) = (Vec::new(), 0);
        // Finished ones are kept apart, but for those asked for by their ids.
        let states = match (what.state, &what.ids) {
            (None, None) => vec![None, Some(State::Finished)],
            (state, _) => vec![state],
        };
        for state in states {
            let what = Selection {
                state,
                ..what.clone()
            };
            let (some, meant) = self.go_over("list", &what, most).await?;
            rows.extend(some);
            all += meant;
        }
        let mut shown = rows
            .iter()
            .map(read::shown)
            .collect::<Result<Vec<_>, _>>()?;
        shown.sort_by_key(|job| job.enqueued_at);
        shown.truncate(most);
        Ok((shown, all))
    }

    pub(super) async fn one(&self, id: &str) -> Result<Option<Shown>, QueueError> {
        let what = Selection {
            ids: Some(vec![id.to_owned()]),
            ..Selection::default()
        };
        let (rows, _) = self.go_over("show", &what, 1).await?;
        rows.first().map(read::shown).transpose()
    }

    /// Has a command done to all jobs of a selection, part by part.
    pub(super) async fn each(&self, command: &str, what: &Selection) -> Result<u64, QueueError> {
        if what.state == Some(State::Finished) {
            return Ok(0);
        }
        let (_, meant) = self.go_over(command, what, 0).await?;
        Ok(meant)
    }

    async fn go_over(
        &self,
        command: &str,
        what: &Selection,
        most: usize,
    ) -> Result<(Vec<read::Row>, u64), QueueError> {
        let (mut rows, mut meant) = (Vec::new(), 0);
        if let Some(ids) = &what.ids {
            for ids in ids.chunks(LOOKED_AT_ONCE) {
                let left = most.saturating_sub(rows.len());
                let (_, some, shown) = self.look(command, "", left, what, ids).await?;
                meant += some;
                rows.extend(shown);
            }
            return Ok((rows, meant));
        }
        let mut after = String::new();
        for _ in 0..MOST_LOOKS {
            let left = most.saturating_sub(rows.len());
            let (upto, some, shown) = self.look(command, &after, left, what, &[]).await?;
            meant += some;
            rows.extend(shown);
            if upto.is_empty() {
                break;
            }
            after = upto;
        }
        Ok((rows, meant))
    }

    async fn look(
        &self,
        command: &str,
        after: &str,
        most: usize,
        what: &Selection,
        ids: &[String],
    ) -> Result<Part, QueueError> {
        let mut call = self.server.script(&scripts::SELECT);
        call.arg(command)
            .arg(after)
            .arg(LOOKED_AT_ONCE)
            .arg(most)
            .arg(what.observer.as_deref().unwrap_or_default())
            .arg(what.action.as_deref().unwrap_or_default())
            .arg(read::state_letter(what.state));
        for id in ids {
            call.arg(id);
        }
        self.server.run(&call).await
    }
}
