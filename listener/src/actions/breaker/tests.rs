#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_hours(1);

fn fail(breaker: &mut Breaker, times: u32, now: Instant) -> Option<Change> {
    let mut change = None;
    for _ in 0..times {
        let age = breaker.admit(now).unwrap();
        change = breaker.note(age, Sign::Down, now, 1.0);
    }
    change
}

#[test]
fn it_opens_when_nearly_all_of_the_latest_attempts_failed() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    assert_eq!(fail(&mut breaker, LATEST - 1, now), None);
    assert_eq!(
        fail(&mut breaker, 1, now),
        Some(Change::Opened(FIRST_PAUSE))
    );
    assert_eq!(breaker.condition(), Condition::Open);
    assert_eq!(breaker.admit(now), Err(FIRST_PAUSE));
    assert_eq!(breaker.room(now), Some((0, now + FIRST_PAUSE)));
}

#[test]
fn a_receiver_that_often_fails_is_not_down() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    for n in 0..10_000 {
        let age = breaker.admit(now).unwrap();
        let sign = if n % 5 == 0 { Sign::Well } else { Sign::Down };
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
        assert_eq!(breaker.admit(now), Err(pause));
        now += pause;
        assert_eq!(breaker.room(now), Some((1, now)));
        let probe = breaker.admit(now).unwrap();
        assert_eq!(breaker.condition(), Condition::HalfOpen);
        assert_eq!(breaker.admit(now), Err(FIRST_PAUSE), "one is under way");
        let next = (pause * 2).min(LONGEST_PAUSE);
        let told = breaker.note(probe, Sign::Down, now, 1.0);
        assert_eq!(told, Some(Change::Opened(next)));
    }
    assert_eq!(breaker.opened(), 9);
}

#[test]
fn a_probe_that_was_cut_off_is_made_again() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let probe = breaker.admit(now).unwrap();
    assert_eq!(breaker.note(probe, Sign::None, now, 0.0), None);
    assert!(breaker.admit(now).is_ok());
}

#[test]
fn signs_of_what_was_begun_before_say_nothing() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    let before = breaker.admit(now).unwrap();
    fail(&mut breaker, LATEST, now);
    assert_eq!(breaker.note(before, Sign::Well, now, 0.0), None);
    now += FIRST_PAUSE;
    let probe = breaker.admit(now).unwrap();
    assert_eq!(breaker.note(before, Sign::Down, now, 0.0), None);
    let told = breaker.note(probe, Sign::Well, now, 0.0);
    assert_eq!(told, Some(Change::Returned));
}

#[test]
fn the_return_doubles_each_second_until_all_is_admitted() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let probe = breaker.admit(now).unwrap();
    breaker.note(probe, Sign::Well, now, 0.0);
    let mut admitted = Vec::new();
    for _ in 0..8 {
        let end = now + Duration::from_secs(1);
        let mut count = 0;
        while now < end {
            match breaker.admit(now) {
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
    assert!(breaker.admit(now).is_ok());
    assert_eq!(breaker.condition(), Condition::Closed);
    assert_eq!(breaker.room(now), None);
}

#[test]
fn a_return_that_fails_is_a_longer_pause() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new();
    fail(&mut breaker, LATEST, now);
    now += FIRST_PAUSE;
    let probe = breaker.admit(now).unwrap();
    breaker.note(probe, Sign::Well, now, 1.0);
    now += Duration::from_secs(1);
    assert_eq!(
        fail(&mut breaker, RELAPSE, now),
        Some(Change::Opened(FIRST_PAUSE * 2))
    );
}

#[test]
fn a_wish_to_be_left_alone_is_heeded_within_bounds() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    let age = breaker.admit(now).unwrap();
    let wish = Duration::from_secs(30);
    assert_eq!(
        breaker.note(age, Sign::Busy(wish), now, 0.0),
        Some(Change::Opened(wish))
    );
    assert_eq!(breaker.admit(now), Err(wish));
    let mut breaker = Breaker::new();
    let age = breaker.admit(now).unwrap();
    breaker.note(age, Sign::Busy(LONG), now, 0.0);
    assert_eq!(breaker.admit(now), Err(LONGEST_WISH));
}

proptest! {
    /// Whatever happens, it is never stuck: within the longest wish there is an attempt again,
    /// and as many as `room` says are admitted.
    #[test]
    fn it_always_comes_back(steps in proptest::collection::vec((0_u8..4, 0_u64..5_000, 0.0_f64..1.0), 1..200)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        let mut under_way = Vec::new();
        for (what, millis, random) in steps {
            now += Duration::from_millis(millis);
            match breaker.room(now) {
                Some((0, _)) => prop_assert!(breaker.admit(now).is_err()),
                Some((room, _)) => for _ in 0..room {
                    under_way.push(breaker.admit(now).unwrap());
                    if breaker.condition() != Condition::HalfOpen { break; }
                },
                None => under_way.push(breaker.admit(now).unwrap()),
            }
            let sign = [Sign::Well, Sign::Down, Sign::Busy(Duration::from_secs(5)), Sign::None][usize::from(what)];
            if let Some(age) = under_way.pop() {
                breaker.note(age, sign, now, random);
            }
        }
        for age in under_way {
            breaker.note(age, Sign::None, now, 0.0);
        }
        now += LONGEST_WISH;
        prop_assert!(breaker.admit(now).is_ok());
    }
}
