#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_hours(1);

/// So many different deliveries fail.
fn fail(breaker: &mut Breaker, times: u32, now: Instant) -> Option<Change> {
    let mut change = None;
    for _ in 0..times {
        let ticket = breaker.admit(true, now).unwrap();
        change = breaker.note(ticket, Sign::Failed, now, 1.0);
    }
    change
}

fn one(breaker: &mut Breaker, fresh: bool, sign: Sign, now: Instant) -> Option<Change> {
    let ticket = breaker.admit(fresh, now).unwrap();
    breaker.note(ticket, sign, now, 1.0)
}

#[test]
fn it_opens_when_all_of_the_latest_deliveries_failed() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    assert_eq!(fail(&mut breaker, LATEST - 1, now), None);
    assert_eq!(
        fail(&mut breaker, 1, now),
        Some(Change::Opened(FIRST_PAUSE))
    );
    assert_eq!(breaker.condition(now), Condition::Open);
    assert_eq!(breaker.admit(true, now), Err(FIRST_PAUSE));
    assert_eq!(breaker.room(now), Some((0, now + FIRST_PAUSE)));
}

#[test]
fn a_receiver_that_often_fails_is_not_down() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    for n in 0..10_000 {
        let age = breaker.admit(true, now).unwrap();
        let sign = if n % 5 == 0 { Sign::Well } else { Sign::Failed };
        assert_eq!(breaker.note(age, sign, now, 0.5), None);
    }
}

#[test]
fn one_probe_at_a_time_after_pauses_that_double() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let pause = Duration::from_secs(seconds);
        assert_eq!(breaker.admit(true, now), Err(pause));
        now += pause;
        assert_eq!(breaker.room(now), Some((CANDIDATES, now)));
        let probe = breaker.admit(true, now).unwrap();
        assert_eq!(breaker.condition(now), Condition::HalfOpen);
        assert_eq!(
            breaker.admit(true, now),
            Err(FIRST_PAUSE),
            "one is under way"
        );
        let next = (pause * 2).min(LONGEST_PAUSE);
        let told = breaker.note(probe, Sign::Away, now, 1.0);
        assert_eq!(told, Some(Change::Opened(next)));
    }
    assert_eq!(breaker.opened(), 9);
    // What is answered may have failed for its own sake, so a few others are tried.
    now += LONGEST_PAUSE;
    for _ in 1..PROBES {
        assert_eq!(one(&mut breaker, true, Sign::Failed, now), None);
    }
    let told = one(&mut breaker, true, Sign::Failed, now);
    assert_eq!(told, Some(Change::Opened(LONGEST_PAUSE)));
}

#[test]
fn a_probe_that_was_cut_off_is_made_again() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let probe = breaker.admit(true, now).unwrap();
    assert_eq!(breaker.note(probe, Sign::None, now, 0.0), None);
    assert!(breaker.admit(true, now).is_ok());
}

#[test]
fn signs_of_what_was_begun_before_say_nothing() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    let before = breaker.admit(true, now).unwrap();
    fail(&mut breaker, LATEST, now);
    assert_eq!(breaker.note(before, Sign::Well, now, 0.0), None);
    now += FIRST_PAUSE;
    let probe = breaker.admit(true, now).unwrap();
    assert_eq!(breaker.note(before, Sign::Failed, now, 0.0), None);
    let told = breaker.note(probe, Sign::Well, now, 0.0);
    assert_eq!(told, Some(Change::Returned));
}

#[test]
fn the_return_doubles_each_second_until_all_is_admitted() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let probe = breaker.admit(true, now).unwrap();
    breaker.note(probe, Sign::Well, now, 0.0);
    let mut admitted = Vec::new();
    for _ in 0..8 {
        let end = now + Duration::from_secs(1);
        let mut count = 0;
        while now < end {
            match breaker.admit(true, now) {
                Ok(age) => {
                    breaker.note(age, Sign::Well, now, 0.0);
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
    assert_eq!(breaker.condition(now), Condition::Closed);
    assert_eq!(breaker.room(now), None);
}

#[test]
fn a_return_that_fails_is_a_longer_pause() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let probe = breaker.admit(true, now).unwrap();
    breaker.note(probe, Sign::Well, now, 1.0);
    now += Duration::from_secs(1);
    assert_eq!(
        (0..LATEST).find_map(|_| {
            now += Duration::from_millis(200);
            one(&mut breaker, true, Sign::Failed, now)
        }),
        Some(Change::Opened(FIRST_PAUSE * 2))
    );
}

#[test]
fn a_wish_to_be_left_alone_is_heeded_within_bounds() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    let age = breaker.admit(true, now).unwrap();
    let wish = Duration::from_secs(30);
    assert_eq!(
        breaker.note(age, Sign::Busy(wish), now, 0.0),
        Some(Change::Opened(wish))
    );
    assert_eq!(breaker.admit(true, now), Err(wish));
    let mut breaker = Breaker::new();
    let age = breaker.admit(true, now).unwrap();
    breaker.note(age, Sign::Busy(LONG), now, 0.0);
    assert_eq!(breaker.admit(true, now), Err(LONGEST_WISH));
}

#[test]
fn a_delivery_that_failed_before_says_nothing_new() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST - 1, now);
    for _ in 0..1000 {
        assert_eq!(one(&mut breaker, false, Sign::Failed, now), None);
    }
    assert_eq!(breaker.condition(now), Condition::Closed);
    assert!(fail(&mut breaker, 1, now).is_some());
}

#[test]
fn what_is_not_reached_at_all_counts_each_time() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    let opened = (0..LATEST).find_map(|_| one(&mut breaker, false, Sign::Away, now));
    assert!(opened.is_some());
}

#[test]
fn rejections_and_local_errors_do_not_open_it() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    for sign in [Sign::There, Sign::None] {
        for _ in 0..1000 {
            assert_eq!(one(&mut breaker, true, sign, now), None);
        }
    }
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let told = one(&mut breaker, true, Sign::There, now);
    assert_eq!(told, Some(Change::Returned));
}

#[test]
fn what_failed_before_is_no_probe_while_something_else_may_be() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    assert_eq!(breaker.admit(false, now), Err(GRACE));
    // The longer what fails for itself is probed with, the longer it waits; others do not.
    for _ in 0..20 {
        now += LONGEST_PAUSE + GRACE;
        let told = one(&mut breaker, false, Sign::Failed, now);
        assert_eq!(told, Some(Change::Opened(FIRST_PAUSE)));
    }
    now += FIRST_PAUSE;
    assert!(breaker.admit(false, now).is_err());
    let told = one(&mut breaker, true, Sign::Well, now);
    assert_eq!(told, Some(Change::Returned));
}

/// What a receiver does to deliveries that come one after the other, of which some are poison.
struct Model {
    breaker: Breaker,
    now: Instant,
    /// Those that failed.
    failed: u32,
    delivered: u32,
    held: Duration,
}

impl Model {
    fn new() -> Self {
        Self {
            breaker: Breaker::new(),
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
                    let sign = if fresh && works {
                        Sign::Well
                    } else {
                        Sign::Failed
                    };
                    self.breaker.note(ticket, sign, self.now, random);
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

proptest! {
    /// A receiver that takes one in five is left alone for a moment at most, now and then.
    #[test]
    fn a_mix_never_keeps_it_open(draws in proptest::collection::vec((0_u8..100, 0.0_f64..1.0), 2000), share in 20_u8..100) {
        let mut model = Model::new();
        let begun = model.now;
        for (draw, random) in &draws {
            model.deliver(*draw < share, *random);
        }
        let all = model.now - begun;
        prop_assert!(model.held < Duration::from_mins(2), "held for {:?} of {all:?}", model.held);
        let draws = draws.iter().filter(|(draw, _)| *draw < share).count();
        prop_assert_eq!(model.delivered as usize, draws);
    }

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
        let now = model.now + LONGEST_WISH;
        prop_assert!(fail(&mut model.breaker, LATEST, now).is_some());
    }

    /// A burst of poison, however long it is tried, delays what is good by a pause or two.
    #[test]
    fn poison_at_the_head_keeps_nothing_out(poison in 1_u32..200, tries in 0_u32..50) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..poison.min(LATEST) {
            one(&mut breaker, true, Sign::Failed, now);
        }
        for _ in 0..tries {
            now += Duration::from_secs(5);
            if let Ok(ticket) = breaker.admit(false, now) {
                breaker.note(ticket, Sign::Failed, now, 1.0);
            }
        }
        let wait = breaker.admit(true, now).err().unwrap_or_default();
        prop_assert!(wait <= FIRST_PAUSE, "{wait:?}");
    }

    /// Whatever happens, it is never stuck: within the longest wish there is an attempt again,
    /// and as many as `room` says are admitted.
    #[test]
    fn it_always_comes_back(steps in proptest::collection::vec((0_u8..6, 0_u64..5_000, 0.0_f64..1.0), 1..200)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        let mut under_way = Vec::new();
        for (what, millis, random) in steps {
            now += Duration::from_millis(millis);
            match breaker.room(now) {
                Some((0, _)) => prop_assert!(breaker.admit(true, now).is_err()),
                Some((room, _)) => for _ in 0..room {
                    let was = breaker.condition(now);
                    under_way.push(breaker.admit(true, now).unwrap());
                    if was == Condition::Open { break; }
                },
                None => under_way.push(breaker.admit(true, now).unwrap()),
            }
            let sign = [Sign::Well, Sign::Failed, Sign::Busy(Duration::from_secs(5)), Sign::None, Sign::Away, Sign::There][usize::from(what)];
            if let Some(age) = under_way.pop() {
                breaker.note(age, sign, now, random);
            }
        }
        for age in under_way {
            breaker.note(age, Sign::None, now, 0.0);
        }
        now += LONGEST_WISH;
        prop_assert!(breaker.admit(true, now).is_ok());
    }
}
