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

fn observed(notes: impl IntoIterator<Item = (Option<LeaseRecord>, Instant)>) -> ObservedLease {
    let mut observed = ObservedLease::default();
    for (record, at) in notes {
        observed.observe(record, at);
    }
    observed
}

fn decide(observed: &ObservedLease, now: Instant) -> CandidateAction {
    decide_as_candidate(&me(), observed, now, &Timing::default())
}

#[test]
fn missing_released_or_own_lease_is_claimed_at_once() {
    let t = Instant::now();
    for record in [
        None,
        Some(record(None, "1")),
        Some(record(Some(me().as_str()), "1")),
    ] {
        assert_eq!(decide(&observed([(record, t)]), t), CandidateAction::Claim);
    }
}

#[test]
fn earlier_process_of_the_same_pod_is_another_holder() {
    let t = Instant::now();
    let before = Identity::with_boot_id("shop-0", "uid", 2);
    let observed = observed([(Some(record(Some(before.as_str()), "1")), t)]);
    assert_eq!(decide(&observed, t), CandidateAction::Wait(t + s(15)));
}

#[test]
fn unchanged_lease_is_claimed_after_its_duration() {
    let t = Instant::now();
    let same = || Some(record(Some("other"), "1"));
    let seen = observed([(same(), t), (same(), t + s(14))]);
    assert_eq!(decide(&seen, t + s(14)), CandidateAction::Wait(t + s(15)));
    assert_eq!(decide(&seen, t + s(15)), CandidateAction::Claim);
}

#[test]
fn any_write_restarts_the_wait() {
    let t = Instant::now();
    let other = |version| Some(record(Some("other"), version));
    let seen = observed([(other("1"), t), (other("2"), t + s(14))]);
    assert_eq!(decide(&seen, t + s(15)), CandidateAction::Wait(t + s(29)));
}

#[test]
fn longer_duration_counts_up_to_the_maximum() {
    let t = Instant::now();
    for (written, waited) in [(0, 15), (60, 60), (1_000_000, 600)] {
        let record = LeaseRecord {
            duration: s(written),
            ..record(Some("other"), "1")
        };
        let seen = observed([(Some(record), t)]);
        assert_eq!(decide(&seen, t), CandidateAction::Wait(t + s(waited)));
    }
}

#[test]
fn deleted_lease_is_claimed_only_after_its_duration() {
    let t = Instant::now();
    let seen = observed([(Some(record(Some("other"), "1")), t), (None, t + s(1))]);
    assert_eq!(decide(&seen, t + s(1)), CandidateAction::Wait(t + s(15)));
    assert_eq!(decide(&seen, t + s(15)), CandidateAction::Claim);
}

#[test]
fn holder_stops_when_late_or_no_longer_holder() {
    let t = Instant::now();
    let deadline = t + s(TIMING_S.1);
    let as_holder =
        |record, now| decide_as_holder(&me(), &observed([(record, now)]), now, deadline);
    let mine = || Some(record(Some(me().as_str()), "1"));
    assert_eq!(as_holder(mine(), t), HolderAction::Renew);
    assert_eq!(
        as_holder(mine(), deadline),
        HolderAction::Stop(LossReason::RenewDeadlineExceeded)
    );
    assert_eq!(as_holder(None, t), HolderAction::Stop(LossReason::Deleted));
    for taken in [record(None, "2"), record(Some("other"), "2")] {
        assert_eq!(
            as_holder(Some(taken), t),
            HolderAction::Stop(LossReason::TakenOver)
        );
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
    /// After any observations in any order, a record of another holder is never claimed before this
    /// process has observed it for longer than its holder may go on.
    #[test]
    fn unexpired_lease_is_never_claimed(
        timing in times(),
        theirs in times(),
        looks in prop::collection::vec((0_u8..4, 0_u8..3, 0_u64..20_000), 1..40),
    ) {
        let start = Instant::now();
        let (mut seen, mut now) = (ObservedLease::default(), start);
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
            seen.observe(record, now);
            let decision = decide_as_candidate(&me(), &seen, now, &timing);
            match first {
                None => prop_assert_eq!(decision, CandidateAction::Claim),
                Some((_, since)) => {
                    let stops = since + theirs.renew_deadline();
                    match decision {
                        CandidateAction::Claim => prop_assert!(now > stops),
                        CandidateAction::Wait(until) => prop_assert!(until > now && until > stops),
                    }
                }
            }
        }
    }
}
