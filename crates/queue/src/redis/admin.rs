//! Queries about jobs, and commands on jobs that match a filter.

use std::collections::BTreeSet;

use super::{RedisQueue, decode, scripts};
use crate::{
    JobFilter, JobState, JobView, Lane, LaneHead, LanesOfAction, MAX_LANES_PER_QUERY, QueueError,
    QueueStats,
};

pub(super) const RETRY: &str = "retry";
pub(super) const CANCEL: &str = "cancel";

/// Most jobs that one script reads.
const PAGE_SIZE: usize = 500;

/// Most scripts of one command. Beyond this many jobs, lists and their counts cover the oldest only, and
/// the next call does the rest of a command.
const MAX_PAGES: usize = 20_000;

/// Most jobs that one script shows in full.
const SHOW_SIZE: usize = 50;

/// Members of a set that one command reads.
const SCAN_SIZE: usize = 1000;

/// Reply of a script: where to continue, how many jobs matched, and rows.
type Page = (String, u64, Vec<decode::Row>);

impl RedisQueue {
    pub(super) async fn query_lane_heads(
        &self,
        lanes: &[Lane],
    ) -> Result<Vec<Option<LaneHead>>, QueueError> {
        let mut all = Vec::with_capacity(lanes.len());
        for lanes in lanes.chunks(MAX_LANES_PER_QUERY) {
            let mut call = self.server.script(&scripts::LANE_HEADS);
            for lane in lanes {
                call.arg(lane.hash)
                    .arg(format!("{}:{}", lane.observer, lane.action));
            }
            let rows: Vec<decode::Row> = self.server.run(&call).await?;
            for row in &rows {
                all.push(decode::lane_head(row)?);
            }
        }
        Ok(all)
    }

    pub(super) async fn query_lanes(
        &self,
        shards: &[u16],
        shard_count: u16,
        max_lanes: usize,
    ) -> Result<Vec<LanesOfAction>, QueueError> {
        let shard_count = u32::from(shard_count.max(1));
        let actions: BTreeSet<String> = self.server.command_of("SMEMBERS", "actions").await?;
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
                    .scan(&format!("lanes:{name}"), from, SCAN_SIZE)
                    .await?;
                for hash in some {
                    let hash: u32 = hash
                        .parse()
                        .map_err(|_| QueueError::Unreadable("a lane's hash".to_owned()))?;
                    if shards
                        .iter()
                        .any(|shard| hash % shard_count == u32::from(*shard))
                    {
                        hashes.insert(hash);
                    }
                }
                from = next;
                if from == 0 || hashes.len() > max_lanes {
                    break;
                }
            }
            if !hashes.is_empty() {
                all.push(LanesOfAction {
                    observer: observer.into(),
                    action: action.into(),
                    hashes: (hashes.len() <= max_lanes).then(|| hashes.into_iter().collect()),
                });
            }
        }
        Ok(all)
    }

    pub(super) async fn query_stats(&self) -> Result<Vec<(String, QueueStats)>, QueueError> {
        let call = self.server.script(&scripts::STATS);
        let rows: Vec<decode::Row> = self.server.run(&call).await?;
        let mut all = rows
            .iter()
            .map(decode::stats)
            .collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(all)
    }

    pub(super) async fn query_jobs(
        &self,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<(Vec<JobView>, u64), QueueError> {
        let (mut rows, mut all) = (Vec::new(), 0);
        // Finished jobs have an index of their own, except by id.
        let states = match (filter.state, &filter.ids) {
            (None, None) => vec![None, Some(JobState::Completed)],
            (state, _) => vec![state],
        };
        for state in states {
            let filter = JobFilter {
                state,
                ..filter.clone()
            };
            let (some, matched) = self.for_each_page("list", &filter, limit).await?;
            rows.extend(some);
            all += matched;
        }
        let mut shown = rows
            .iter()
            .map(decode::job_view)
            .collect::<Result<Vec<_>, _>>()?;
        shown.sort_by_key(|job| job.enqueued_at);
        shown.truncate(limit);
        Ok((shown, all))
    }

    pub(super) async fn query_job(
        &self,
        id: &str,
        tenant: Option<&str>,
    ) -> Result<Option<JobView>, QueueError> {
        let filter = JobFilter {
            ids: Some(vec![id.to_owned()]),
            tenant: tenant.map(str::to_owned),
            ..JobFilter::default()
        };
        let (rows, _) = self.for_each_page("show", &filter, 1).await?;
        rows.first().map(decode::job_view).transpose()
    }

    /// Finds jobs by their ids, few at a time: each comes with its event.
    pub(super) async fn find_jobs(&self, ids: &[String]) -> Result<Vec<JobView>, QueueError> {
        let mut jobs = Vec::new();
        for ids in ids.chunks(SHOW_SIZE) {
            let all = JobFilter::default();
            let (_, _, rows) = self.page("show", "", ids.len(), &all, ids).await?;
            for row in &rows {
                let mut job = decode::job_view(row)?;
                job.event = None;
                jobs.push(job);
            }
        }
        Ok(jobs)
    }

    /// Runs a command on all jobs that match a filter, page by page. Returns their number.
    pub(super) async fn run_command(
        &self,
        command: &str,
        filter: &JobFilter,
    ) -> Result<u64, QueueError> {
        if filter.state == Some(JobState::Completed) {
            return Ok(0);
        }
        let (_, matched) = self.for_each_page(command, filter, 0).await?;
        Ok(matched)
    }

    async fn for_each_page(
        &self,
        command: &str,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<(Vec<decode::Row>, u64), QueueError> {
        let (mut rows, mut matched) = (Vec::new(), 0);
        // The script takes an empty text for no filter, and no job has one.
        let texts = [&filter.observer, &filter.action, &filter.tenant];
        if texts.into_iter().flatten().any(String::is_empty) {
            return Ok((rows, matched));
        }
        if let Some(ids) = &filter.ids {
            for ids in ids.chunks(PAGE_SIZE) {
                let left = limit.saturating_sub(rows.len());
                let (_, some, shown) = self.page(command, "", left, filter, ids).await?;
                matched += some;
                rows.extend(shown);
            }
            return Ok((rows, matched));
        }
        let mut after = String::new();
        for _ in 0..MAX_PAGES {
            let left = limit.saturating_sub(rows.len());
            let (next, some, shown) = self.page(command, &after, left, filter, &[]).await?;
            matched += some;
            rows.extend(shown);
            if next.is_empty() {
                break;
            }
            after = next;
        }
        Ok((rows, matched))
    }

    async fn page(
        &self,
        command: &str,
        after: &str,
        limit: usize,
        filter: &JobFilter,
        ids: &[String],
    ) -> Result<Page, QueueError> {
        let mut call = self.server.script(&scripts::FILTER);
        call.arg(command)
            .arg(after)
            .arg(PAGE_SIZE)
            .arg(limit)
            .arg(filter.observer.as_deref().unwrap_or_default())
            .arg(filter.action.as_deref().unwrap_or_default())
            .arg(decode::state_letter(filter.state))
            .arg(filter.tenant.as_deref().unwrap_or_default());
        for id in ids {
            call.arg(id);
        }
        self.server.run(&call).await
    }
}
