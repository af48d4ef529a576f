//! Leaves alone what is down, looks whether it is back with one attempt at a time, and comes back
//! to it little by little.
//!
//! Some deliveries fail for their own sake, at a receiver that is well: those must not hold up others.
//! So what is counted is deliveries and not attempts (a retry that fails once more says nothing new),
//! and it is left alone only when [`FAILURE_THRESHOLD`] of them failed and none succeeded in between. A run of
//! failures that a success ended was no outage, so after one a longer run is waited for. What shows
//! that the receiver was not reached at all counts for each attempt, since no delivery can be to blame.
//!
//! No more attempts are made for a pause then. After it one is, the probe: of a delivery that has not
//! failed before if there is one, since others may only show again what is wrong with themselves. If it
//! fails though it was answered, so may a few others, each for the first time. If all do, the next pause is twice as long; if it works, attempts are admitted at a rate that doubles
//! each second, until there is none any more. What is not admitted has cost no attempt. A receiver that
//! says itself for how long it wants to be left alone (429 with `Retry-After`) is.
//!
//! Nothing here sleeps or draws: time and randomness come with the call.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures of different deliveries with no success in between are an outage.
const FAILURE_THRESHOLD: u32 = 20;

/// A run of failures that a success ended is no outage; so many times as long a one may be.
const THRESHOLD_FACTOR: u32 = 3;

/// So many failures with no success in between are an outage whatever came before.
const MAX_FAILURE_THRESHOLD: u32 = 60;

/// First pause; each further one is twice as long. A pause is drawn from its second half, so that
/// processes do not come back together.
const INITIAL_OPEN: Duration = Duration::from_secs(1);

/// Longest pause.
const MAX_OPEN: Duration = Duration::from_mins(1);

/// How long a probe waits for a delivery that has not failed before.
const FRESH_PROBE_GRACE: Duration = Duration::from_secs(1);

/// How many deliveries one may be chosen of as the probe.
const PROBE_CANDIDATES: u32 = 4;

/// So many deliveries that had not failed before are probes, one after the other, before the next pause.
const MAX_FRESH_PROBES: u32 = 5;

/// Longest pause that the receiver may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Attempts admitted in the first second of the return, about; in each further one twice as many.
const RAMP_INITIAL_RATE: f64 = 10.0;

/// How long the return takes: about 1,800 attempts a second are admitted at its end.
const RAMP_DURATION: Duration = Duration::from_secs(8);

/// How the other side is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// Everything is admitted.
    Closed,
    /// It is being looked whether it is back: one attempt, or few.
    HalfOpen,
    /// Nothing is admitted.
    Open,
}

/// What an attempt tells of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It is there.
    Success,
    /// It answered, with something that concerns this delivery alone.
    Responded,
    /// It failed on this delivery, which may be why.
    Failure,
    /// It cannot be reached, whatever the delivery.
    Unreachable,
    /// It wants to be left alone for so long.
    RetryAfter(Duration),
    /// Nothing: nothing was sent, or the attempt was cut off.
    Ignored,
}

/// What changed with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// It is left alone from now on, for so long at first.
    Opened(Duration),
    /// It answers again.
    Recovering,
}

/// What was admitted. Its signal is to be told with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Of the breaker, by then.
    generation: u64,
    /// Of a delivery that had not failed before.
    fresh: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open(OpenInterval),
    Probing(OpenInterval),
    Ramping(Ramp),
}

/// How long it is left alone, which what failed before cannot draw out for what did not.
#[derive(Clone, Copy, Debug)]
struct OpenInterval {
    /// From when it began until something is admitted.
    wait: Duration,
    /// When a delivery that has not failed before may be the probe, and when any may.
    fresh_at: Instant,
    any_at: Instant,
    /// How many that had not failed before were probes since it began.
    probes: u32,
    /// How long the pauses are, drawn at random from there.
    fresh: Duration,
    any: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Ramp {
    since: Instant,
    admitted: u32,
    pause: OpenInterval,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    phase: Phase,
    /// Failures since the latest success, each delivery counted once.
    failures: u32,
    /// How many of them are an outage.
    threshold: u32,
    /// Grows with each change of state, so that a late signal is known as one.
    generation: u64,
    opened: u64,
}

impl CircuitBreaker {
    /// Everything is admitted.
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
            // That is noted with the next attempt, which may be long in coming.
            Phase::Ramping(back) if back.is_over(now) => CircuitState::Closed,
            Phase::Open(_) => CircuitState::Open,
            Phase::Probing(_) | Phase::Ramping(_) => CircuitState::HalfOpen,
        }
    }

    /// How often it was opened.
    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    /// How many attempts would be looked at now, where that is bounded; and when more would, where
    /// there is none.
    pub(crate) fn capacity(&self, now: Instant) -> Option<(u32, Instant)> {
        match self.phase {
            Phase::Closed => None,
            Phase::Open(pause) if now < pause.fresh_at => Some((0, pause.fresh_at)),
            Phase::Open(_) => Some((PROBE_CANDIDATES, now)),
            Phase::Probing(_) => Some((0, now + INITIAL_OPEN)),
            Phase::Ramping(back) => back.capacity(now),
        }
    }

    /// Admits an attempt, `fresh` if its delivery has not failed before, and answers with what its signal
    /// is to be told with; or says how long to wait.
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

    /// Takes in what an attempt tells that was admitted with that ticket. `random` is drawn from 0
    /// to 1.
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
            // A probe that was cut off tells nothing, so there is another.
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

    /// A success ends a run of failures, which was no outage then.
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
    /// The first, so long from now.
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

    /// The one after a probe that failed; `all`: no matter what the delivery.
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

    /// How many more may be begun by now, and when one more may.
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

/// From the second half of a pause.
fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
