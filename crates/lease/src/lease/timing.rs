//! The times of a Lease, checked once: a holder gives up before others may take over, and it
//! has time for more than one try before it must.

use std::time::Duration;

use thiserror::Error;

/// A period is shortened by up to this share of itself.
const JITTER: f64 = 0.2;

/// Shortest time between two looks; anything faster is a burden on the API server.
pub(crate) const MIN_RETRY_PERIOD: Duration = Duration::from_millis(100);

/// Longest time that a dead holder may keep others waiting.
pub(crate) const MAX_LEASE_DURATION: Duration = Duration::from_mins(10);

/// Why times do not make a Lease.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    /// Others could take over while the holder still works.
    #[error(
        "the lease's duration ({duration:?}) must be longer than its renew deadline ({renew_deadline:?})"
    )]
    DurationTooShort {
        /// The duration.
        duration: Duration,
        /// The renew deadline.
        renew_deadline: Duration,
    },
    /// The holder could come to its deadline before its first renewal.
    #[error(
        "the lease's renew deadline ({renew_deadline:?}) must be longer than 1.2 times its retry period ({retry_period:?})"
    )]
    RenewDeadlineTooShort {
        /// The renew deadline.
        renew_deadline: Duration,
        /// The retry period.
        retry_period: Duration,
    },
    /// The API server would be asked too often.
    #[error(
        "the lease's retry period ({0:?}) must be at least {min:?}",
        min = MIN_RETRY_PERIOD
    )]
    RetryPeriodTooShort(Duration),
    /// A dead holder would keep others waiting for too long.
    #[error(
        "the lease's duration ({0:?}) must be at most {max:?}",
        max = MAX_LEASE_DURATION
    )]
    DurationTooLong(Duration),
}

/// The times of a Lease: `duration > renew_deadline > 1.2 * retry_period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

impl Default for Timing {
    /// 15 s, 10 s and 2 s, as the components of Kubernetes have it.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Times that hold what the type promises.
    pub fn new(
        duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, TimingError> {
        if retry_period < MIN_RETRY_PERIOD {
            return Err(TimingError::RetryPeriodTooShort(retry_period));
        }
        if duration > MAX_LEASE_DURATION {
            return Err(TimingError::DurationTooLong(duration));
        }
        if duration <= renew_deadline {
            return Err(TimingError::DurationTooShort {
                duration,
                renew_deadline,
            });
        }
        if renew_deadline.as_secs_f64() <= retry_period.as_secs_f64() * (1.0 + JITTER) {
            return Err(TimingError::RenewDeadlineTooShort {
                renew_deadline,
                retry_period,
            });
        }
        Ok(Self {
            duration,
            renew_deadline,
            retry_period,
        })
    }

    /// How long after they first saw a record others may take the Lease.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How long after it sent the last renewal that succeeded a holder goes on.
    #[must_use]
    pub fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// Time between two tries or looks, and the longest that one call may take.
    #[must_use]
    pub fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// Time between two renewals that succeed: three tenths of the deadline, and at least a retry
    /// period. With the default times the API server may be away for five seconds, at whatever
    /// moment, and no Lease is lost.
    #[must_use]
    pub fn renew_interval(&self) -> Duration {
        (self.renew_deadline * 3 / 10).max(self.retry_period)
    }

    /// A retry period that is spread, so that many processes do not call at the same moment.
    /// `random` is drawn from 0 to 1.
    pub(crate) fn with_jitter(&self, random: f64) -> Duration {
        jittered(self.retry_period, random)
    }

    /// The time between two renewals, spread in the same way.
    pub(crate) fn renewal_with_jitter(&self, random: f64) -> Duration {
        jittered(self.renew_interval(), random)
    }
}

fn jittered(period: Duration, random: f64) -> Duration {
    period.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn default_timing_is_valid() {
        assert_eq!(Timing::new(s(15), s(10), s(2)), Ok(Timing::default()));
    }

    #[test]
    fn inconsistent_times_are_rejected() {
        assert!(matches!(
            Timing::new(s(10), s(10), s(2)),
            Err(TimingError::DurationTooShort { .. })
        ));
        assert!(matches!(
            Timing::new(s(15), s(12), s(10)),
            Err(TimingError::RenewDeadlineTooShort { .. })
        ));
        assert!(matches!(
            Timing::new(s(15), s(10), s(0)),
            Err(TimingError::RetryPeriodTooShort(_))
        ));
        assert!(matches!(
            Timing::new(s(601), s(10), s(2)),
            Err(TimingError::DurationTooLong(_))
        ));
    }

    #[test]
    fn jitter_only_shortens_the_retry_period() {
        let timing = Timing::default();
        assert_eq!(timing.with_jitter(0.0), s(2));
        assert_eq!(timing.with_jitter(0.5), Duration::from_millis(1800));
        assert_eq!(timing.with_jitter(1.0), Duration::from_millis(1600));
    }

    #[test]
    fn failed_renewal_is_retried_before_the_deadline() {
        let timing = Timing::default();
        assert_eq!(timing.renew_interval(), s(3));
        assert_eq!(timing.renewal_with_jitter(0.0), s(3));
        let tight = Timing::new(s(15), Duration::from_millis(2500), s(2));
        assert_eq!(tight.map(|timing| timing.renew_interval()), Ok(s(2)));
        // The first try may come at any moment of five seconds of trouble.
        let tries = timing.renewal_with_jitter(0.0) + 3 * timing.with_jitter(0.0);
        assert!(tries < timing.renew_deadline());
    }
}
