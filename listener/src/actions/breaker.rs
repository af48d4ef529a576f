//! Leaves alone what is down, looks whether it is back with one attempt at a time, and comes back
//! to it little by little.
//!
//! It goes by the latest [`LATEST`] attempts, as count-based breakers do (Nygard, "Release It!",
//! 2007): when nearly all of them failed for a time, no more are made for a pause. Then one is, the
//! probe. If that fails, the next pause is twice as long; if it works, attempts are admitted at a
//! rate that doubles each second, until there is none any more. What is not admitted has cost no
//! attempt. A receiver that says itself for how long it wants to be left alone (429 with
//! `Retry-After`) is.
//!
//! Nothing here sleeps or draws: time and randomness come with the call.

use std::time::Duration;

use tokio::time::Instant;

/// Attempts that are looked back at.
const LATEST: u32 = 20;

/// So many failures among them are too many.
const TOO_MANY: u32 = 18;

/// First pause; each further one is twice as long. A pause is drawn from its second half, so that
/// processes do not come back together.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Longest pause that the receiver may ask for.
const LONGEST_WISH: Duration = Duration::from_mins(10);

/// Attempts admitted in the first second of the return, about; in each further one twice as many.
const RAMP: f64 = 10.0;

/// How long the return takes: about 1,800 attempts a second are admitted at its end.
const RETURN: Duration = Duration::from_secs(8);

/// A return with so many failures, and more of them than successes, has failed.
const RELAPSE: u32 = 3;

/// How the other side is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Everything is admitted.
    Closed,
    /// It is being looked whether it is back: one attempt, or few.
    HalfOpen,
    /// Nothing is admitted.
    Open,
}

/// What an attempt tells of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is there.
    Well,
    /// It is not, or not in time, or it cannot answer.
    Down,
    /// It wants to be left alone for so long.
    Busy(Duration),
    /// Nothing: nothing was sent, or the attempt was cut off.
    None,
}

/// What changed with a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is left alone from now on, for so long at first.
    Opened(Duration),
    /// It answers again.
    Returned,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
    Returning(Return),
}

#[derive(Clone, Copy, Debug)]
struct Return {
    since: Instant,
    admitted: u32,
    well: u32,
    down: u32,
    pause: Duration,
}

/// See the module's words.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// The latest signs while it is closed, a bit each, set where it was down.
    latest: u32,
    seen: u32,
    /// Grows with each change of state, so that a late sign is known as one.
    age: u64,
    opened: u64,
}

impl Breaker {
    /// Everything is admitted.
    pub(super) const fn new() -> Self {
        Self {
            state: State::Closed,
            latest: 0,
            seen: 0,
            age: 0,
            opened: 0,
        }
    }

    pub(super) const fn condition(&self) -> Condition {
        match self.state {
            State::Closed => Condition::Closed,
            State::Open { .. } => Condition::Open,
            State::Probing { .. } | State::Returning(_) => Condition::HalfOpen,
        }
    }

    /// How often it was opened.
    pub(super) const fn opened(&self) -> u64 {
        self.opened
    }

    /// How many attempts would be admitted now, where that is bounded; and when more would, where
    /// there is none.
    pub(super) fn room(&self, now: Instant) -> Option<(u32, Instant)> {
        match self.state {
            State::Closed => None,
            State::Open { until, .. } if now < until => Some((0, until)),
            State::Open { .. } => Some((1, now)),
            State::Probing { .. } => Some((0, now + FIRST_PAUSE)),
            State::Returning(back) => back.room(now),
        }
    }

    /// Admits an attempt, and answers with what its sign is to be told with; or says how long to
    /// wait.
    pub(super) fn admit(&mut self, now: Instant) -> Result<u64, Duration> {
        match &mut self.state {
            State::Closed => {}
            State::Open { until, pause } => {
                if now < *until {
                    return Err(*until - now);
                }
                let pause = *pause;
                self.turn(State::Probing { pause });
            }
            State::Probing { .. } => return Err(FIRST_PAUSE),
            State::Returning(back) => match back.room(now) {
                None => {
                    self.turn(State::Closed);
                }
                Some((0, next)) => return Err(next.saturating_duration_since(now)),
                Some(_) => back.admitted += 1,
            },
        }
        Ok(self.age)
    }

    /// Takes in what an attempt tells that was admitted at that `age`. `random` is drawn from 0
    /// to 1.
    pub(super) fn note(
        &mut self,
        age: u64,
        sign: Sign,
        now: Instant,
        random: f64,
    ) -> Option<Change> {
        if age != self.age {
            return None;
        }
        match (&mut self.state, sign) {
            // A probe that was cut off tells nothing, so there is another.
            (State::Probing { pause }, Sign::None) => {
                let pause = *pause;
                self.turn(State::Open { until: now, pause });
                None
            }
            (_, Sign::None) | (State::Open { .. }, _) => None,
            (_, Sign::Busy(wish)) => Some(self.open(wish.min(LONGEST_WISH), FIRST_PAUSE, now)),
            (State::Closed, sign) => {
                self.latest =
                    (self.latest << 1 | u32::from(sign == Sign::Down)) & ((1 << LATEST) - 1);
                self.seen = (self.seen + 1).min(LATEST);
                let down = self.latest.count_ones();
                (self.seen == LATEST && down >= TOO_MANY)
                    .then(|| self.open(drawn(FIRST_PAUSE, random), FIRST_PAUSE, now))
            }
            (State::Probing { pause }, Sign::Down) => {
                let pause = (*pause * 2).min(LONGEST_PAUSE);
                Some(self.open(drawn(pause, random), pause, now))
            }
            (State::Probing { pause }, Sign::Well) => {
                let pause = *pause;
                self.turn(State::Returning(Return {
                    since: now,
                    admitted: 0,
                    well: 0,
                    down: 0,
                    pause,
                }));
                Some(Change::Returned)
            }
            (State::Returning(back), sign) => {
                if sign == Sign::Well {
                    back.well += 1;
                } else {
                    back.down += 1;
                }
                let relapse = back.down >= RELAPSE && back.down > back.well;
                let pause = (back.pause * 2).min(LONGEST_PAUSE);
                relapse.then(|| self.open(drawn(pause, random), pause, now))
            }
        }
    }

    fn open(&mut self, wait: Duration, pause: Duration, now: Instant) -> Change {
        self.opened += 1;
        self.turn(State::Open {
            until: now + wait,
            pause,
        });
        Change::Opened(wait)
    }

    fn turn(&mut self, state: State) {
        self.age += 1;
        self.latest = 0;
        self.seen = 0;
        self.state = state;
    }
}

impl Return {
    /// How many more may be begun by now, and when one more may.
    fn room(&self, now: Instant) -> Option<(u32, Instant)> {
        let lasted = now.saturating_duration_since(self.since);
        if lasted >= RETURN {
            return None;
        }
        let allowed = RAMP * (lasted.as_secs_f64().exp2() - 1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 1 and a small bound"
        )]
        let allowed = allowed as u32 + 1;
        let room = allowed.saturating_sub(self.admitted);
        // When the next whole one is allowed.
        let next = (f64::from(self.admitted) / RAMP).ln_1p() / std::f64::consts::LN_2;
        let next = Duration::try_from_secs_f64(next).unwrap_or(RETURN);
        Some((room, (self.since + next.min(RETURN)).max(now)))
    }
}

/// From the second half of a pause.
fn drawn(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
