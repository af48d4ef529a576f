//! How many pods a listener has, by how far it is behind: a pure decision, taken each time its pods have reported.
//!
//! Scaling out follows the `HorizontalPodAutoscaler` of Kubernetes: as many times more pods as the lag is longer than
//! wanted, at once at most twice as many or four more, and only once those asked for before are at work. How many pods
//! would do cannot be told from a lag near zero, so scaling in is a trial: after five minutes without need, a quarter of
//! the pods at most, and again each minute. When a trial was wrong, the next one waits twice as long.

use std::time::Duration;

use crds::pod_status::{BLOCKED_BY_TRANSACTION, DATABASE_UNREACHABLE, ENDPOINT_FAILING, Role};
use crds::v1alpha1::{Autoscaling, AutoscalingStatus};
use k8s_openapi::jiff::Timestamp;

use crate::listener::status::PodView;

/// Shortest time between two changes while the lag is too long.
const OUT_INTERVAL: Duration = Duration::from_secs(15);

/// Most pods that are added at once to few.
const OUT_STEP: i32 = 4;

/// Part of the lag by which it may be too long without need for more pods.
const TOLERANCE: f64 = 0.1;

/// How long the lag has to be short before there are fewer pods.
const CALM: Duration = Duration::from_mins(5);

/// Shortest time between two steps in.
const IN_INTERVAL: Duration = Duration::from_mins(1);

/// A step in is one of so many pods, and at least one.
const IN_PART: i32 = 4;

/// A lag so soon after scaling in shows that it was wrong.
const TRIAL: Duration = Duration::from_mins(10);

/// Most times that the wait for the next trial doubles.
const MAX_MISTAKES: u32 = 4;

/// Stalls that more pods do not end.
const NOT_FOR_PODS: [&str; 3] = [
    BLOCKED_BY_TRANSACTION,
    DATABASE_UNREACHABLE,
    ENDPOINT_FAILING,
];

/// What the pods tell of their load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Age of the oldest unfinished event in seconds; nothing if no pod has told.
    lag: Option<f64>,
    /// Number of pods at work.
    working: i32,
    /// Whether the oldest event waits for something that more pods do not change.
    is_held: bool,
}

impl Load {
    /// Takes it from the reports of a listener's pods.
    #[must_use]
    pub(super) fn of(pods: &[PodView]) -> Self {
        let active = || {
            let alive = pods.iter().filter(|pod| !pod.seen.terminating);
            let reports = alive.filter_map(|pod| pod.report.as_ref());
            reports.filter(|report| report.role == Role::Active)
        };
        let late = active().max_by_key(|report| report.lag_seconds);
        let seconds = |lag: u64| f64::from(u32::try_from(lag).unwrap_or(u32::MAX));
        Self {
            lag: late.map(|report| seconds(report.lag_seconds)),
            working: i32::try_from(active().count()).unwrap_or(i32::MAX),
            is_held: late.is_some_and(|report| {
                let mut stalled = report.stalled.iter();
                stalled.any(|shard| NOT_FOR_PODS.contains(&&*shard.reason))
            }),
        }
    }
}

/// State between decisions. It is lost when the operator restarts, so trials then wait as long as the first one.
#[derive(Clone, Debug, Default)]
pub(super) struct Autoscaler {
    /// Since when fewer pods might do.
    calm_since: Option<Timestamp>,
    /// When it scaled in last.
    scaled_in: Option<Timestamp>,
    /// How many trials were wrong, one after the other.
    mistakes: u32,
    /// The lag of the look before.
    lag_before: Option<f64>,
}

impl Autoscaler {
    /// Returns how many pods there should be, given what was decided before; `replicas` is the number where nothing
    /// was. Says why in a sentence where that is another number than before.
    pub(super) fn decide(
        &mut self,
        spec: Autoscaling,
        (before, replicas): (Option<&AutoscalingStatus>, i32),
        load: Load,
        now: Timestamp,
    ) -> (AutoscalingStatus, Option<String>) {
        let asked = before.map_or(replicas, |before| before.desired_replicas);
        let current = bounded(asked, spec);
        let changed_at = before.and_then(|before| before.last_scale_time.as_ref()?.parse().ok());
        let target = spec.target_lag.duration().as_secs_f64();
        // A lag that falls ends by itself, as after a failover.
        let falls = load.lag < self.lag_before;
        self.lag_before = load.lag;
        if self.scaled_in.is_some() && is_past(self.scaled_in, TRIAL, now) {
            (self.scaled_in, self.mistakes) = (None, 0);
        }
        let wanted = match load.lag {
            None => {
                self.calm_since = None;
                current
            }
            Some(lag) if lag > target * (1.0 + TOLERANCE) => {
                self.calm_since = None;
                let may = !load.is_held
                    && !falls
                    && load.working >= current
                    && is_past(changed_at, OUT_INTERVAL, now);
                if may {
                    out(current, lag / target, spec)
                } else {
                    current
                }
            }
            Some(lag) if lag > target / 2.0 => {
                self.calm_since = None;
                current
            }
            Some(_) => self.fewer(current, spec, changed_at, now),
        };
        if wanted > current && self.scaled_in.is_some() {
            self.mistakes = (self.mistakes + 1).min(MAX_MISTAKES);
            self.scaled_in = None;
        }
        if wanted < current {
            self.scaled_in = Some(now);
        }
        let why = (wanted != asked).then(|| match load.lag {
            Some(lag) => format!(
                "from {asked} to {wanted} pods: the oldest event is {lag} s old, and up to {target} s are wanted"
            ),
            None => format!("from {asked} to {wanted} pods, as spec.autoscaling says"),
        });
        let last_scale_time = if wanted == asked {
            before.and_then(|before| before.last_scale_time.clone())
        } else {
            Some(now.to_string())
        };
        let status = AutoscalingStatus {
            desired_replicas: wanted,
            last_scale_time,
        };
        (status, why)
    }

    fn fewer(
        &mut self,
        current: i32,
        spec: Autoscaling,
        changed_at: Option<Timestamp>,
        now: Timestamp,
    ) -> i32 {
        let calm_since = *self.calm_since.get_or_insert(now);
        let wait = CALM * (1 << self.mistakes);
        if current <= spec.min_replicas
            || !is_past(Some(calm_since), wait, now)
            || !is_past(changed_at, IN_INTERVAL, now)
        {
            return current;
        }
        let step = (current / IN_PART).max(1);
        (current - step).max(spec.min_replicas)
    }
}

/// Returns the number of pods within the bounds of the spec.
pub(super) fn bounded(replicas: i32, spec: Autoscaling) -> i32 {
    replicas.clamp(spec.min_replicas, spec.max_replicas.max(spec.min_replicas))
}

/// Returns a larger number of pods for a lag that is so many times as long as wanted.
fn out(current: i32, times: f64, spec: Autoscaling) -> i32 {
    let most = current
        .saturating_mul(2)
        .max(current.saturating_add(OUT_STEP));
    let needed = (1..=most)
        .find(|pods| f64::from(*pods) >= f64::from(current) * times)
        .unwrap_or(most);
    needed.min(spec.max_replicas).max(current)
}

/// Returns whether so much time has passed since then, or it never was.
fn is_past(then: Option<Timestamp>, time: Duration, now: Timestamp) -> bool {
    then.is_none_or(|then| {
        Duration::try_from(now.duration_since(then)).is_ok_and(|passed| passed >= time)
    })
}

#[cfg(test)]
#[path = "autoscale_tests.rs"]
mod tests;
