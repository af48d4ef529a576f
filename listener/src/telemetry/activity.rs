//! What a process did in each minute of the last hour, for people who look at all processes together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::sync::lock;

/// Number of minutes that are kept.
pub(crate) const MINUTES: i64 = 60;

/// What a process did in a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MinuteActivity {
    /// The minute, in minutes since 1970.
    pub(crate) minute: i64,
    /// Events read from the change log.
    pub(crate) events: u64,
    /// Deliveries that succeeded.
    pub(crate) delivered: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Dead letters written.
    pub(crate) dead_letters: u64,
    /// Greatest age of the oldest unfinished event, in seconds.
    pub(crate) lag_seconds: u64,
}

/// Activity of this process in the last hour.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Mutex<VecDeque<MinuteActivity>>>);

impl Activity {
    /// Counts in the minute of this time. A clock that is set back counts in the latest minute.
    pub(crate) fn count(&self, now: DateTime<Utc>, count: impl FnOnce(&mut MinuteActivity)) {
        let mut minutes = lock(&self.0);
        let minute = minute_of(now);
        if minutes.back().is_none_or(|last| last.minute < minute) {
            minutes.push_back(MinuteActivity {
                minute,
                ..MinuteActivity::default()
            });
            minutes.retain(|one| one.minute > minute - MINUTES);
        }
        if let Some(last) = minutes.back_mut() {
            count(last);
        }
    }

    /// Notes the age of the oldest unfinished event. One of less than a second is none.
    pub(crate) fn note_lag(&self, now: DateTime<Utc>, seconds: u64) {
        if seconds > 0 {
            self.count(now, |minute| {
                minute.lag_seconds = minute.lag_seconds.max(seconds);
            });
        }
    }

    /// Returns the minutes in which something was counted, in order.
    pub(crate) fn minutes(&self) -> Vec<MinuteActivity> {
        lock(&self.0).iter().copied().collect()
    }
}

/// Returns the minute of a time.
pub(crate) fn minute_of(time: DateTime<Utc>) -> i64 {
    time.timestamp().div_euclid(60)
}

/// Returns the last hour up to this time, of all processes together: sums, and the greatest lag.
pub(crate) fn together(
    all: impl IntoIterator<Item = MinuteActivity>,
    now: DateTime<Utc>,
) -> Vec<MinuteActivity> {
    let first = minute_of(now) - (MINUTES - 1);
    let mut hour: Vec<MinuteActivity> = (0..MINUTES)
        .map(|after| MinuteActivity {
            minute: first + after,
            ..MinuteActivity::default()
        })
        .collect();
    for one in all {
        let place = usize::try_from(one.minute.saturating_sub(first));
        let Some(sum) = place.ok().and_then(|place| hour.get_mut(place)) else {
            continue;
        };
        sum.events = sum.events.saturating_add(one.events);
        sum.delivered = sum.delivered.saturating_add(one.delivered);
        sum.failed = sum.failed.saturating_add(one.failed);
        sum.dead_letters = sum.dead_letters.saturating_add(one.dead_letters);
        sum.lag_seconds = sum.lag_seconds.max(one.lag_seconds);
    }
    hour
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn time(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(minute * 60 + 59, 0).unwrap()
    }

    fn minute(minute: i64, events: u64, lag_seconds: u64) -> MinuteActivity {
        MinuteActivity {
            minute,
            events,
            lag_seconds,
            ..MinuteActivity::default()
        }
    }

    #[test]
    fn counts_are_kept_by_minute_for_an_hour() {
        let activity = Activity::default();
        activity.count(time(100), |minute| minute.events += 1);
        activity.count(time(100), |minute| minute.events += 2);
        activity.note_lag(time(101), 0);
        assert_eq!(activity.minutes(), [minute(100, 3, 0)]);
        activity.note_lag(time(102), 7);
        activity.note_lag(time(102), 4);
        activity.count(time(90), |minute| minute.events += 1);
        assert_eq!(activity.minutes(), [minute(100, 3, 0), minute(102, 1, 7)]);
        activity.count(time(160), |minute| minute.events += 1);
        assert_eq!(activity.minutes(), [minute(102, 1, 7), minute(160, 1, 0)]);
    }

    #[test]
    fn processes_are_summed_over_the_last_hour() {
        let all = [
            minute(41, 1, 1),
            minute(40, 9, 9),
            minute(100, 2, 3),
            minute(100, 5, 1),
        ];
        let hour = together(all.into_iter().chain([minute(101, 9, 9)]), time(100));
        assert_eq!((hour.len(), hour[0]), (60, minute(41, 1, 1)));
        assert_eq!(hour[30], minute(71, 0, 0));
        assert_eq!(hour[59], minute(100, 7, 3));
    }
}
