//! Circuit breaker of an endpoint: opens when the endpoint is down, probes it with one attempt at a
//! time, and ramps the rate of attempts up once it answers again.
//!
//! Some deliveries fail because of what they hold, at a healthy endpoint: those must not hold up others.
//! So deliveries are counted and not attempts (a retry that fails once more says nothing new),
//! and it opens only when [`FAILURE_THRESHOLD`] of them failed and none succeeded in between. A run of
//! failures that a success ended was no outage, so after one a longer run is waited for. What shows
//! that the endpoint was not reached at all counts for each attempt, since no delivery can be to blame.
//!
//! While it is open no attempts are made. Then it is half-open for one, the probe: of a delivery that has not
//! failed before if there is one, since others may only show again what is wrong with themselves. If it
//! fails though it was answered, so may a few others, each for the first time. If all do, it stays open twice as long; if it works, attempts are admitted at a rate that doubles
//! each second, until there is none any more. What is not admitted has cost no attempt. An endpoint that
//! answers 429 with `Retry-After` is left in peace for that long.
//!
//! It is pure: time and randomness are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Failures of different deliveries in a row that open the circuit breaker.
const FAILURE_THRESHOLD: u32 = 20;

/// How much longer a run of failures may be than the last one that a success ended, which was no outage.
const THRESHOLD_FACTOR: u32 = 3;

/// Upper bound of the failure threshold.
const MAX_FAILURE_THRESHOLD: u32 = 60;

/// How long it is open at first; doubles each time. The time is jittered within its second half, so that
/// processes do not probe together.
const INITIAL_OPEN: Duration = Duration::from_secs(1);

/// Longest time that it is open before a probe.
const MAX_OPEN: Duration = Duration::from_mins(1);

/// How long a probe waits for a delivery that has not failed before.
const FRESH_PROBE_GRACE: Duration = Duration::from_secs(1);

/// How many deliveries are offered, one of which becomes the probe.
const PROBE_CANDIDATES: u32 = 4;

/// How many deliveries that had not failed before are probes, one after the other, before it opens again.
const MAX_FRESH_PROBES: u32 = 5;

/// Longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Attempts admitted in about the first second of the ramp; doubles each second.
const RAMP_INITIAL_RATE: f64 = 10.0;

/// Length of the ramp: about 1,800 attempts a second are admitted at its end.
const RAMP_DURATION: Duration = Duration::from_secs(8);

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// All attempts are admitted.
    Closed,
    /// Few attempts are admitted: the probe, or the ramp after it.
    HalfOpen,
    /// No attempts are admitted.
    Open,
}

/// What an attempt says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Delivered.
    Success,
    /// Answered, with an error that concerns this delivery alone.
    Responded,
    /// Failed on this delivery, which may be why.
    Failure,
    /// Not reached, which is no fault of the delivery.
    Unreachable,
    /// Asks for no attempts for this long.
    RetryAfter(Duration),
    /// Says nothing: nothing was sent, or the attempt was cancelled.
    Ignored,
}

/// Change of state that a signal caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Opened, for this long at first.
    Opened(Duration),
    /// The probe succeeded; the ramp begins.
    Recovering,
}

/// Ticket of an admitted attempt, with which its signal is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Generation of the breaker when the attempt was admitted.
    generation: u64,
    /// Whether its delivery had not failed before.
    fresh: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open(OpenInterval),
    Probing(OpenInterval),
    Ramping(Ramp),
}

/// How long it stays open. Retries that fail cannot lengthen it for deliveries that have not failed.
#[derive(Clone, Copy, Debug)]
struct OpenInterval {
    /// From when it opened until something is admitted.
    wait: Duration,
    /// When a delivery that has not failed before may be the probe, and when any may.
    fresh_at: Instant,
    any_at: Instant,
    /// Probes of deliveries that had not failed before, since it opened.
    probes: u32,
    /// Lengths before jitter.
    fresh: Duration,
    any: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Ramp {
    since: Instant,
    admitted: u32,
    pause: OpenInterval,
}

/// Circuit breaker; see the module.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    phase: Phase,
    /// Failures in a row, each delivery counted once.
    failures: u32,
    /// How many of them open it.
    threshold: u32,
    /// Grows with each change of state, so that signals of earlier attempts are ignored.
    generation: u64,
    opened: u64,
}

impl CircuitBreaker {
    /// Creates a closed one.
    pub(crate) const fn new() -> Self {
        Self {
            phase: Phase::Closed,
            failures: 0,
            threshold: FAILURE_THRESHOLD,
            generation: 0,
            opened: 0,
        }
    }

    pub(crate) fn state(&self, now: Instant) -> CircuitState {
        match self.phase {
            Phase::Closed => CircuitState::Closed,
            // The next attempt records that, which may be long in coming.
            Phase::Ramping(back) if back.is_over(now) => CircuitState::Closed,
            Phase::Open(_) => CircuitState::Open,
            Phase::Probing(_) | Phase::Ramping(_) => CircuitState::HalfOpen,
        }
    }

    /// Returns how often it opened.
    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    /// Returns how many attempts may be offered now, where that is bounded, and when more may where none
    /// may now.
    pub(crate) fn capacity(&self, now: Instant) -> Option<(u32, Instant)> {
        match self.phase {
            Phase::Closed => None,
            Phase::Open(pause) if now < pause.fresh_at => Some((0, pause.fresh_at)),
            Phase::Open(_) => Some((PROBE_CANDIDATES, now)),
            Phase::Probing(_) => Some((0, now + INITIAL_OPEN)),
            Phase::Ramping(back) => back.capacity(now),
        }
    }

    /// Admits an attempt, `fresh` if its delivery has not failed before, or returns how long to wait.
    pub(crate) fn admit(&mut self, fresh: bool, now: Instant) -> Result<Ticket, Duration> {
        match &mut self.phase {
            Phase::Closed => {}
            Phase::Open(pause) => {
                let at = if fresh { pause.fresh_at } else { pause.any_at };
                if now < at {
                    return Err(at - now);
                }
                let pause = *pause;
                self.transition_to(Phase::Probing(pause));
            }
            Phase::Probing(_) => return Err(INITIAL_OPEN),
            Phase::Ramping(back) => match back.capacity(now) {
                None => self.transition_to(Phase::Closed),
                Some((0, next)) => return Err(next.saturating_duration_since(now)),
                Some(_) => back.admitted += 1,
            },
        }
        Ok(Ticket {
            generation: self.generation,
            fresh,
        })
    }

    /// Records the signal of an attempt that was admitted with that ticket. `random` is from 0 to 1.
    pub(crate) fn record(
        &mut self,
        ticket: Ticket,
        signal: Signal,
        now: Instant,
        random: f64,
    ) -> Option<Transition> {
        if ticket.generation != self.generation {
            return None;
        }
        match (self.phase, signal) {
            // A probe that was cancelled says nothing, so there is another.
            (Phase::Probing(pause), Signal::Ignored) => {
                self.transition_to(Phase::Open(OpenInterval {
                    fresh_at: now,
                    any_at: now,
                    ..pause
                }));
                None
            }
            (_, Signal::Ignored) | (Phase::Open(_), _) => None,
            (_, Signal::RetryAfter(wish)) => {
                let wish = wish.min(MAX_RETRY_AFTER);
                Some(self.open(OpenInterval::first(now, wish)))
            }
            (Phase::Probing(pause), Signal::Success | Signal::Responded) => {
                self.transition_to(Phase::Ramping(Ramp {
                    since: now,
                    admitted: 0,
                    pause,
                }));
                Some(Transition::Recovering)
            }
            (Phase::Probing(pause), Signal::Failure)
                if ticket.fresh && pause.probes + 1 < MAX_FRESH_PROBES =>
            {
                self.transition_to(Phase::Open(OpenInterval {
                    fresh_at: now,
                    probes: pause.probes + 1,
                    ..pause
                }));
                None
            }
            (Phase::Probing(pause), Signal::Failure | Signal::Unreachable) => {
                let all = ticket.fresh || signal == Signal::Unreachable;
                Some(self.open(pause.longer(all, now, random)))
            }
            (Phase::Closed | Phase::Ramping(_), Signal::Success) => {
                self.record_success();
                None
            }
            (_, Signal::Responded) => None,
            (state, Signal::Failure | Signal::Unreachable) => {
                if !ticket.fresh && signal == Signal::Failure {
                    return None;
                }
                self.failures += 1;
                (self.failures >= self.threshold).then(|| {
                    let pause = match state {
                        Phase::Ramping(back) => back.pause.longer(true, now, random),
                        _ => OpenInterval::first(now, jittered(INITIAL_OPEN, random)),
                    };
                    self.open(pause)
                })
            }
        }
    }

    /// Closes it, as if it had never opened. Signals of attempts that are under way are ignored. Returns
    /// whether it was not closed.
    pub(crate) fn close(&mut self, now: Instant) -> bool {
        let was_closed = self.state(now) == CircuitState::Closed;
        self.transition_to(Phase::Closed);
        self.threshold = FAILURE_THRESHOLD;
        !was_closed
    }

    /// Resets the failures: a run that a success ended was no outage.
    fn record_success(&mut self) {
        let forgotten = self.threshold.saturating_sub(1).max(FAILURE_THRESHOLD);
        self.threshold =
            forgotten.max((self.failures * THRESHOLD_FACTOR).min(MAX_FAILURE_THRESHOLD));
        self.failures = 0;
    }

    fn open(&mut self, pause: OpenInterval) -> Transition {
        self.opened += 1;
        let wait = pause.wait;
        self.transition_to(Phase::Open(pause));
        Transition::Opened(wait)
    }

    fn transition_to(&mut self, phase: Phase) {
        self.generation += 1;
        self.failures = 0;
        self.phase = phase;
    }
}

impl OpenInterval {
    /// Creates the first, this long from now.
    fn first(now: Instant, wait: Duration) -> Self {
        Self {
            wait,
            probes: 0,
            fresh_at: now + wait,
            any_at: now + wait + FRESH_PROBE_GRACE,
            fresh: INITIAL_OPEN,
            any: INITIAL_OPEN,
        }
    }

    /// Returns the one after a failed probe; `all`: whatever the delivery.
    fn longer(self, all: bool, now: Instant, random: f64) -> Self {
        let double = |pause: Duration| (pause * 2).min(MAX_OPEN);
        let fresh = if all { double(self.fresh) } else { self.fresh };
        let any = double(self.any);
        let wait = jittered(fresh, random);
        Self {
            wait,
            probes: 0,
            fresh_at: now + wait,
            any_at: now + jittered(any, random).max(wait) + FRESH_PROBE_GRACE,
            fresh,
            any,
        }
    }
}

impl Ramp {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= RAMP_DURATION
    }

    /// Returns how many more attempts may begin now, and when one more may.
    fn capacity(&self, now: Instant) -> Option<(u32, Instant)> {
        if self.is_over(now) {
            return None;
        }
        let lasted = now.saturating_duration_since(self.since);
        let allowed = RAMP_INITIAL_RATE * (lasted.as_secs_f64().exp2() - 1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 1 and a small bound"
        )]
        let allowed = allowed as u32 + 1;
        let room = allowed.saturating_sub(self.admitted);
        // When the next whole one is allowed.
        let next = (f64::from(self.admitted) / RAMP_INITIAL_RATE).ln_1p() / std::f64::consts::LN_2;
        let next = Duration::try_from_secs_f64(next).unwrap_or(RAMP_DURATION);
        Some((room, (self.since + next.min(RAMP_DURATION)).max(now)))
    }
}

/// Jitters a time within its second half.
fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
