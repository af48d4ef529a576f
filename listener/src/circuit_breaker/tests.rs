#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const LONG: Duration = Duration::from_hours(1);

/// So many different deliveries fail.
fn fail(breaker: &mut CircuitBreaker, times: u32, now: Instant) -> Option<Transition> {
    let mut transition = None;
    for _ in 0..times {
        let ticket = breaker.admit(true, now).unwrap();
        transition = breaker.record(ticket, Signal::Failure, now, 1.0);
    }
    transition
}

fn one(
    breaker: &mut CircuitBreaker,
    fresh: bool,
    signal: Signal,
    now: Instant,
) -> Option<Transition> {
    let ticket = breaker.admit(fresh, now).unwrap();
    breaker.record(ticket, signal, now, 1.0)
}

#[test]
fn opens_after_enough_failures_in_a_row() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    assert_eq!(fail(&mut breaker, FAILURE_THRESHOLD - 1, now), None);
    assert_eq!(
        fail(&mut breaker, 1, now),
        Some(Transition::Opened(INITIAL_OPEN))
    );
    assert_eq!(breaker.state(now), CircuitState::Open);
    assert_eq!(breaker.admit(true, now), Err(INITIAL_OPEN));
    assert_eq!(breaker.capacity(now), Some((0, now + INITIAL_OPEN)));
}

#[test]
fn frequent_failures_with_successes_do_not_open_it() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    for n in 0..10_000 {
        let ticket = breaker.admit(true, now).unwrap();
        let signal = if n % 5 == 0 {
            Signal::Success
        } else {
            Signal::Failure
        };
        assert_eq!(breaker.record(ticket, signal, now, 0.5), None);
    }
}

#[test]
fn one_probe_at_a_time_after_doubling_waits() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let pause = Duration::from_secs(seconds);
        assert_eq!(breaker.admit(true, now), Err(pause));
        now += pause;
        assert_eq!(breaker.capacity(now), Some((PROBE_CANDIDATES, now)));
        let probe = breaker.admit(true, now).unwrap();
        assert_eq!(breaker.state(now), CircuitState::HalfOpen);
        assert_eq!(
            breaker.admit(true, now),
            Err(INITIAL_OPEN),
            "one is under way"
        );
        let next = (pause * 2).min(MAX_OPEN);
        let transition = breaker.record(probe, Signal::Unreachable, now, 1.0);
        assert_eq!(transition, Some(Transition::Opened(next)));
    }
    assert_eq!(breaker.opened(), 9);
    // What is answered may have failed for its own sake, so a few others are tried.
    now += MAX_OPEN;
    for _ in 1..MAX_FRESH_PROBES {
        assert_eq!(one(&mut breaker, true, Signal::Failure, now), None);
    }
    let transition = one(&mut breaker, true, Signal::Failure, now);
    assert_eq!(transition, Some(Transition::Opened(MAX_OPEN)));
}

#[test]
fn cancelled_probe_is_repeated() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    now += INITIAL_OPEN;
    let probe = breaker.admit(true, now).unwrap();
    assert_eq!(breaker.record(probe, Signal::Ignored, now, 0.0), None);
    assert!(breaker.admit(true, now).is_ok());
}

#[test]
fn signals_of_earlier_generations_are_ignored() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    let before = breaker.admit(true, now).unwrap();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    assert_eq!(breaker.record(before, Signal::Success, now, 0.0), None);
    now += INITIAL_OPEN;
    let probe = breaker.admit(true, now).unwrap();
    assert_eq!(breaker.record(before, Signal::Failure, now, 0.0), None);
    let transition = breaker.record(probe, Signal::Success, now, 0.0);
    assert_eq!(transition, Some(Transition::Recovering));
}

#[test]
fn ramp_doubles_each_second_until_closed() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    now += INITIAL_OPEN;
    let probe = breaker.admit(true, now).unwrap();
    breaker.record(probe, Signal::Success, now, 0.0);
    let mut admitted = Vec::new();
    for _ in 0..8 {
        let end = now + Duration::from_secs(1);
        let mut count = 0;
        while now < end {
            match breaker.admit(true, now) {
                Ok(ticket) => {
                    breaker.record(ticket, Signal::Success, now, 0.0);
                    count += 1;
                }
                Err(wait) => now += wait.max(Duration::from_micros(1)),
            }
        }
        now = end;
        admitted.push(count);
    }
    for (n, count) in admitted.iter().enumerate() {
        let about = 10 << n;
        assert!((about - 1..=about + 2).contains(count), "{admitted:?}");
    }
    assert!(breaker.admit(true, now).is_ok());
    assert_eq!(breaker.state(now), CircuitState::Closed);
    assert_eq!(breaker.capacity(now), None);
}

#[test]
fn failed_ramp_opens_it_for_longer() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    now += INITIAL_OPEN;
    let probe = breaker.admit(true, now).unwrap();
    breaker.record(probe, Signal::Success, now, 1.0);
    now += Duration::from_secs(1);
    assert_eq!(
        (0..FAILURE_THRESHOLD).find_map(|_| {
            now += Duration::from_millis(200);
            one(&mut breaker, true, Signal::Failure, now)
        }),
        Some(Transition::Opened(INITIAL_OPEN * 2))
    );
}

#[test]
fn retry_after_is_honoured_within_bounds() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    let ticket = breaker.admit(true, now).unwrap();
    let wait = Duration::from_secs(30);
    assert_eq!(
        breaker.record(ticket, Signal::RetryAfter(wait), now, 0.0),
        Some(Transition::Opened(wait))
    );
    assert_eq!(breaker.admit(true, now), Err(wait));
    let mut breaker = CircuitBreaker::new();
    let ticket = breaker.admit(true, now).unwrap();
    breaker.record(ticket, Signal::RetryAfter(LONG), now, 0.0);
    assert_eq!(breaker.admit(true, now), Err(MAX_RETRY_AFTER));
}

#[test]
fn retries_that_fail_again_do_not_count() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    fail(&mut breaker, FAILURE_THRESHOLD - 1, now);
    for _ in 0..1000 {
        assert_eq!(one(&mut breaker, false, Signal::Failure, now), None);
    }
    assert_eq!(breaker.state(now), CircuitState::Closed);
    assert!(fail(&mut breaker, 1, now).is_some());
}

#[test]
fn unreachable_endpoint_counts_each_attempt() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    let opened =
        (0..FAILURE_THRESHOLD).find_map(|_| one(&mut breaker, false, Signal::Unreachable, now));
    assert!(opened.is_some());
}

#[test]
fn rejections_and_misconfiguration_leave_it_unchanged() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    for signal in [Signal::Responded, Signal::Ignored] {
        for _ in 0..1000 {
            assert_eq!(one(&mut breaker, true, signal, now), None);
        }
    }
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    now += INITIAL_OPEN;
    let transition = one(&mut breaker, true, Signal::Responded, now);
    assert_eq!(transition, Some(Transition::Recovering));
}

#[test]
fn retries_are_not_probes_while_fresh_deliveries_wait() {
    let mut now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    now += INITIAL_OPEN;
    assert_eq!(breaker.admit(false, now), Err(FRESH_PROBE_GRACE));
    // The longer what fails for itself is probed with, the longer it waits; others do not.
    for _ in 0..20 {
        now += MAX_OPEN + FRESH_PROBE_GRACE;
        let transition = one(&mut breaker, false, Signal::Failure, now);
        assert_eq!(transition, Some(Transition::Opened(INITIAL_OPEN)));
    }
    now += INITIAL_OPEN;
    assert!(breaker.admit(false, now).is_err());
    let transition = one(&mut breaker, true, Signal::Success, now);
    assert_eq!(transition, Some(Transition::Recovering));
}

/// What a receiver does to deliveries that come one after the other, of which some are poison.
struct Model {
    breaker: CircuitBreaker,
    now: Instant,
    /// Those that failed.
    failed: u32,
    delivered: u32,
    held: Duration,
}

impl Model {
    fn new() -> Self {
        Self {
            breaker: CircuitBreaker::new(),
            now: Instant::now(),
            failed: 0,
            delivered: 0,
            held: Duration::ZERO,
        }
    }

    /// A new delivery, and after it one that failed before, if there is one.
    fn deliver(&mut self, works: bool, random: f64) {
        self.now += Duration::from_millis(10);
        let mut fresh = true;
        loop {
            match self.breaker.admit(fresh, self.now) {
                Ok(ticket) => {
                    let signal = if fresh && works {
                        Signal::Success
                    } else {
                        Signal::Failure
                    };
                    self.breaker.record(ticket, signal, self.now, random);
                    if !fresh {
                        break;
                    }
                    if works {
                        self.delivered += 1;
                    } else {
                        self.failed += 1;
                    }
                    fresh = false;
                }
                Err(_) if !fresh => break,
                Err(wait) => {
                    // No gate waits for less.
                    let wait = wait.max(Duration::from_millis(10));
                    self.now += wait;
                    self.held += wait;
                }
            }
        }
    }
}

/// A receiver that takes one in five is left alone for a moment at most, now and then: in the mean of
/// many runs, since any one of them may be as unlucky as it likes.
#[test]
fn a_mix_never_keeps_it_open() {
    const RUNS: u32 = 64;
    const DELIVERIES: u32 = 2000;
    for share in [0.2, 0.3, 0.5, 0.8, 0.95] {
        let mut random = StdRng::seed_from_u64(1);
        let mut held = Duration::ZERO;
        for _ in 0..RUNS {
            let mut model = Model::new();
            let mut good = 0;
            for _ in 0..DELIVERIES {
                let works = random.random_bool(share);
                good += u32::from(works);
                model.deliver(works, random.random());
            }
            assert_eq!(model.delivered, good, "share {share}");
            held += model.held;
        }
        let mean = held / RUNS;
        println!("share {share}: held {mean:?}");
        assert!(
            mean < Duration::from_secs(30),
            "share {share}: held {mean:?}"
        );
    }
}

proptest! {
    /// However a receiver did before, as long as it was well at the end, an outage is noticed.
    #[test]
    fn an_outage_opens_it(before in proptest::collection::vec(0_u8..10, 0..500)) {
        let mut model = Model::new();
        for draw in before {
            model.deliver(draw > 0, 0.5);
        }
        for _ in 0..100 {
            model.deliver(true, 0.5);
        }
        let now = model.now + MAX_RETRY_AFTER;
        prop_assert!(fail(&mut model.breaker, FAILURE_THRESHOLD, now).is_some());
    }

    /// A burst of poison, however long it is tried, delays what is good by a pause or two.
    #[test]
    fn poison_at_the_head_keeps_nothing_out(poison in 1_u32..200, tries in 0_u32..50) {
        let mut now = Instant::now();
        let mut breaker = CircuitBreaker::new();
        for _ in 0..poison.min(FAILURE_THRESHOLD) {
            one(&mut breaker, true, Signal::Failure, now);
        }
        for _ in 0..tries {
            now += Duration::from_secs(5);
            if let Ok(ticket) = breaker.admit(false, now) {
                breaker.record(ticket, Signal::Failure, now, 1.0);
            }
        }
        let wait = breaker.admit(true, now).err().unwrap_or_default();
        prop_assert!(wait <= INITIAL_OPEN, "{wait:?}");
    }

    /// Whatever happens, it is never stuck: within the longest wait there is an attempt again,
    /// and as many as `room` says are admitted.
    #[test]
    fn it_always_comes_back(steps in proptest::collection::vec((0_u8..6, 0_u64..5_000, 0.0_f64..1.0), 1..200)) {
        let mut now = Instant::now();
        let mut breaker = CircuitBreaker::new();
        let mut in_flight = Vec::new();
        for (what, millis, random) in steps {
            now += Duration::from_millis(millis);
            match breaker.capacity(now) {
                Some((0, _)) => prop_assert!(breaker.admit(true, now).is_err()),
                Some((room, _)) => for _ in 0..room {
                    let was = breaker.state(now);
                    in_flight.push(breaker.admit(true, now).unwrap());
                    if was == CircuitState::Open { break; }
                },
                None => in_flight.push(breaker.admit(true, now).unwrap()),
            }
            let signal = [Signal::Success, Signal::Failure, Signal::RetryAfter(Duration::from_secs(5)), Signal::Ignored, Signal::Unreachable, Signal::Responded][usize::from(what)];
            if let Some(ticket) = in_flight.pop() {
                breaker.record(ticket, signal, now, random);
            }
        }
        for ticket in in_flight {
            breaker.record(ticket, Signal::Ignored, now, 0.0);
        }
        now += MAX_RETRY_AFTER;
        prop_assert!(breaker.admit(true, now).is_ok());
    }
}

#[test]
fn closed_by_hand_it_is_as_new() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new();
    assert!(!breaker.close(now));
    let late = breaker.admit(true, now).unwrap();
    fail(&mut breaker, FAILURE_THRESHOLD, now);
    assert!(breaker.close(now));
    assert_eq!(breaker.state(now), CircuitState::Closed);
    assert_eq!(breaker.capacity(now), None);
    // What was under way says nothing of the endpoint as it is now.
    assert_eq!(breaker.record(late, Signal::Failure, now, 1.0), None);
    assert_eq!(fail(&mut breaker, FAILURE_THRESHOLD - 1, now), None);
    assert!(fail(&mut breaker, 1, now).is_some());
    // So does a probe that is under way.
    let later = now + INITIAL_OPEN;
    let probe = breaker.admit(true, later).unwrap();
    assert!(breaker.close(later));
    assert_eq!(breaker.record(probe, Signal::Failure, later, 1.0), None);
    assert_eq!(breaker.state(later), CircuitState::Closed);
}
