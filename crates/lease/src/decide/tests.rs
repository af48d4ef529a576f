use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TIMING_S: (u64, u64) = (15, 10);

fn me() -> Identity {
    Identity::with_boot_id("shop-0", "uid", 1)
}

fn record(holder: Option<&str>, version: &str) -> LeaseRecord {
    LeaseRecord {
        holder: holder.map(str::to_owned),
        version: version.to_owned(),
        duration: Duration::from_secs(TIMING_S.0),
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn observed(notes: impl IntoIterator<Item = (Option<LeaseRecord>, Instant)>) -> Observed {
    let mut observed = Observed::default();
    for (record, at) in notes {
        observed.note(record, at);
    }
    observed
}

fn stand(observed: &Observed, now: Instant) -> StandingBy {
    standing_by(&me(), observed, now, &Timing::default())
}

#[test]
fn what_is_missing_or_given_up_or_ours_is_claimed_at_once() {
    let t = Instant::now();
    for record in [
        None,
        Some(record(None, "1")),
        Some(record(Some(me().as_str()), "1")),
    ] {
        assert_eq!(stand(&observed([(record, t)]), t), StandingBy::Claim);
    }
}

#[test]
fn an_earlier_process_of_the_same_pod_is_another_holder() {
    let t = Instant::now();
    let before = Identity::with_boot_id("shop-0", "uid", 2);
    let observed = observed([(Some(record(Some(before.as_str()), "1")), t)]);
    assert_eq!(stand(&observed, t), StandingBy::Wait(t + s(15)));
}

#[test]
fn a_lease_that_does_not_change_is_claimed_when_it_was_looked_at_for_its_duration() {
    let t = Instant::now();
    let same = || Some(record(Some("other"), "1"));
    let seen = observed([(same(), t), (same(), t + s(14))]);
    assert_eq!(stand(&seen, t + s(14)), StandingBy::Wait(t + s(15)));
    assert_eq!(stand(&seen, t + s(15)), StandingBy::Claim);
}

#[test]
fn any_write_starts_the_wait_anew() {
    let t = Instant::now();
    let other = |version| Some(record(Some("other"), version));
    let seen = observed([(other("1"), t), (other("2"), t + s(14))]);
    assert_eq!(stand(&seen, t + s(15)), StandingBy::Wait(t + s(29)));
}

#[test]
fn the_longer_duration_counts_but_not_beyond_the_longest_there_can_be() {
    let t = Instant::now();
    for (written, waited) in [(0, 15), (60, 60), (1_000_000, 600)] {
        let record = LeaseRecord {
            duration: s(written),
            ..record(Some("other"), "1")
        };
        let seen = observed([(Some(record), t)]);
        assert_eq!(stand(&seen, t), StandingBy::Wait(t + s(waited)));
    }
}

#[test]
fn the_holder_of_a_deleted_lease_is_given_the_time_to_notice() {
    let t = Instant::now();
    let seen = observed([(Some(record(Some("other"), "1")), t), (None, t + s(1))]);
    assert_eq!(stand(&seen, t + s(1)), StandingBy::Wait(t + s(15)));
    assert_eq!(stand(&seen, t + s(15)), StandingBy::Claim);
}

#[test]
fn a_holder_stops_when_it_is_late_or_the_lease_is_not_its_own() {
    let t = Instant::now();
    let until = t + s(TIMING_S.1);
    let decide = |record, now| holding(&me(), &observed([(record, now)]), now, until);
    let mine = || Some(record(Some(me().as_str()), "1"));
    assert_eq!(decide(mine(), t), Holding::Renew);
    assert_eq!(decide(mine(), until), Holding::Lost(Loss::Late));
    assert_eq!(decide(None, t), Holding::Lost(Loss::Deleted));
    for taken in [record(None, "2"), record(Some("other"), "2")] {
        assert_eq!(decide(Some(taken), t), Holding::Lost(Loss::Taken));
    }
}

fn times() -> impl Strategy<Value = Timing> {
    (100_u64..60_000, 1.3_f64..10.0, 1.01_f64..4.0).prop_map(|(retry, deadline, duration)| {
        let retry = Duration::from_millis(retry);
        let deadline = retry.mul_f64(deadline);
        Timing::new(
            deadline.mul_f64(duration).min(MAX_LEASE_DURATION),
            deadline,
            retry,
        )
        .unwrap_or_default()
    })
}

proptest! {
    /// Whatever was seen, in whatever order: a record of another holder is never claimed
    /// before this process has looked at it for longer than its holder may go on.
    #[test]
    fn nobody_is_robbed(
        timing in times(),
        theirs in times(),
        looks in prop::collection::vec((0_u8..4, 0_u8..3, 0_u64..20_000), 1..40),
    ) {
        let start = Instant::now();
        let (mut seen, mut now) = (Observed::default(), start);
        let mut first: Option<(u8, Instant)> = None;
        for (version, holder, millis) in looks {
            now += Duration::from_millis(millis);
            let other = record(Some("other"), &version.to_string());
            let record = match holder {
                0 => None,
                1 => Some(LeaseRecord { holder: None, version: format!("free {version}"), ..other }),
                _ => Some(LeaseRecord { duration: theirs.duration(), ..other }),
            };
            match holder {
                0 => {}
                1 => first = None,
                _ if first.is_some_and(|(known, _)| known == version) => {}
                _ => first = Some((version, now)),
            }
            seen.note(record, now);
            let decision = standing_by(&me(), &seen, now, &timing);
            match first {
                None => prop_assert_eq!(decision, StandingBy::Claim),
                Some((_, since)) => {
                    let stops = since + theirs.renew_deadline();
                    match decision {
                        StandingBy::Claim => prop_assert!(now > stops),
                        StandingBy::Wait(until) => prop_assert!(until > now && until > stops),
                    }
                }
            }
        }
    }
}
