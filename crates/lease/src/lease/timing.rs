//! Timing of a Lease, validated once: a holder stops before others may take over, and has time for
//! more than one renewal attempt before it must.

use std::time::Duration;

use thiserror::Error;

/// Largest share by which jitter shortens a period.
const JITTER: f64 = 0.2;

/// Shortest retry period; anything faster is a burden on the API server.
pub(crate) const MIN_RETRY_PERIOD: Duration = Duration::from_millis(100);

/// Longest time that a dead holder may block a Lease.
pub(crate) const MAX_LEASE_DURATION: Duration = Duration::from_mins(10);

/// Why times are not a valid timing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    /// Others could take over while the holder still works.
    #[error(
        "the lease's duration ({duration:?}) must be longer than its renew deadline ({renew_deadline:?})"
    )]
    DurationTooShort {
        /// The lease duration.
        duration: Duration,
        /// The renew deadline.
        renew_deadline: Duration,
    },
    /// The holder could reach its deadline before its first renewal.
    #[error(
        "the lease's renew deadline ({renew_deadline:?}) must be longer than 1.2 times its retry period ({retry_period:?})"
    )]
    RenewDeadlineTooShort {
        /// The renew deadline.
        renew_deadline: Duration,
        /// The retry period.
        retry_period: Duration,
    },
    /// The API server would be called too often.
    #[error(
        "the lease's retry period ({0:?}) must be at least {min:?}",
        min = MIN_RETRY_PERIOD
    )]
    RetryPeriodTooShort(Duration),
    /// A dead holder would block the Lease for too long.
    #[error(
        "the lease's duration ({0:?}) must be at most {max:?}",
        max = MAX_LEASE_DURATION
    )]
    DurationTooLong(Duration),
}

/// Times of a Lease: `duration > renew_deadline > 1.2 * retry_period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

impl Default for Timing {
    /// Returns 15 s, 10 s and 2 s, the defaults of client-go.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Checks the times against each other.
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

    /// How long a record must go unchanged before others may take over the Lease.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How long a holder goes on after it sent its last successful renewal.
    #[must_use]
    pub fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// Time between two attempts or polls, and the timeout of a single request.
    #[must_use]
    pub fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// Interval between two successful renewals: three tenths of the deadline, and at least a retry
    /// period. With the default times, no Lease is lost in an API server outage of five seconds,
    /// whenever it begins.
    #[must_use]
    pub fn renew_interval(&self) -> Duration {
        (self.renew_deadline * 3 / 10).max(self.retry_period)
    }

    /// Returns the retry period with jitter, so that many processes do not call at the same moment.
    /// `random` is between 0 and 1.
    pub(crate) fn with_jitter(&self, random: f64) -> Duration {
        jittered(self.retry_period, random)
    }

    /// Returns the renewal interval with jitter. `random` is between 0 and 1.
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
        // The first attempt may come at any moment of an outage of five seconds.
        let tries = timing.renewal_with_jitter(0.0) + 3 * timing.with_jitter(0.0);
        assert!(tries < timing.renew_deadline());
    }
}
