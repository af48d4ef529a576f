use super::*;

fn lease_state(version: u64, holder: Option<&str>) -> LeaseState {
    LeaseState {
        version,
        holder: holder.map(MemberId::from),
        duration: Duration::from_secs(15),
        desired_shards: 4,
    }
}

const A: &str = "a_uid_01";
const A_AGAIN: &str = "a_uid_02";
const SHARD: LeaseKey = LeaseKey::Shard(ShardId {
    shard_count: 4,
    shard: 1,
});

fn member() -> LeaseKey {
    LeaseKey::Member("a".into())
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn listed(states: &[(LeaseKey, LeaseState)], version: u64, now: Instant) -> LeaseView {
    let mut view = LeaseView::new(s(15));
    view.apply_list(states.to_vec(), version, now);
    view
}

#[test]
fn late_watch_event_does_not_undo_a_response() {
    let now = Instant::now();
    let mut view = listed(&[(SHARD, lease_state(1, Some(A)))], 1, now);
    view.apply_response(SHARD, lease_state(4, Some("me")), now);
    assert!(view.awaiting_own_write_since().is_some());
    view.apply_event(SHARD, lease_state(2, None), now);
    view.apply_deletion(&SHARD, now);
    assert_eq!(view.get(&SHARD).map(|seen| seen.state.version), Some(4));
    view.apply_event(SHARD, lease_state(4, Some("me")), now);
    assert!(view.awaiting_own_write_since().is_none());
    view.apply_deletion(&SHARD, now);
    assert!(view.get(&SHARD).is_none());
}

#[test]
fn list_replaces_all_but_newer_responses() {
    let now = Instant::now();
    let mut view = listed(
        &[
            (SHARD, lease_state(1, Some(A))),
            (member(), lease_state(2, Some(A))),
        ],
        2,
        now,
    );
    view.apply_response(SHARD, lease_state(9, Some("me")), now);
    view.apply_list(Vec::new(), 5, now);
    assert!(view.get(&SHARD).is_some() && view.get(&member()).is_none());
    // A server that was restored from a backup has lost all of it.
    view.apply_list(vec![(SHARD, lease_state(3, None))], 3, now);
    assert_eq!(view.get(&SHARD).map(|seen| seen.state.version), Some(3));
    assert!(view.awaiting_own_write_since().is_none());
}

#[test]
fn holder_is_alive_while_its_member_lease_is_renewed() {
    let start = Instant::now();
    let id = MemberId::from(A);
    let mut view = listed(&[(member(), lease_state(1, Some(A)))], 1, start);
    assert_eq!(view.liveness(&id, 1, start), Liveness::Alive(start + s(15)));
    assert!(view.apply_event(member(), lease_state(2, Some(A)), start + s(5)));
    assert_eq!(
        view.liveness(&id, 1, start + s(19)),
        Liveness::Alive(start + s(20))
    );
    assert_eq!(view.liveness(&id, 1, start + s(20)), Liveness::Expired);
    assert!(!view.apply_event(member(), lease_state(3, None), start + s(20)));
    assert_eq!(view.liveness(&id, 1, start + s(20)), Liveness::Dead);
}

#[test]
fn holder_is_dead_once_its_member_lease_is_taken_over() {
    let now = Instant::now();
    let mut view = listed(&[(member(), lease_state(3, Some(A_AGAIN)))], 3, now);
    assert_eq!(view.liveness(&A.into(), 2, now), Liveness::Dead);
    // Claimed by a process that may be newer than what was seen of the member's Lease.
    assert!(matches!(
        view.liveness(&"a_uid_03".into(), 4, now),
        Liveness::Alive(_)
    ));
}

#[test]
fn holder_with_deleted_member_lease_counts_as_alive_for_now() {
    let now = Instant::now();
    let mut view = listed(&[(SHARD, lease_state(1, Some(A)))], 2, now);
    assert_eq!(
        view.liveness(&A.into(), 1, now),
        Liveness::Alive(now + s(15))
    );
    assert_eq!(view.liveness(&A.into(), 1, now + s(15)), Liveness::Dead);
}

#[test]
fn owner_of_a_deleted_shard_lease_is_remembered() {
    let now = Instant::now();
    let mut view = listed(&[(SHARD, lease_state(1, Some(A)))], 2, now);
    view.apply_deletion(&SHARD, now);
    assert!(view.references_pod("a"));
    view.prune(now + s(29));
    assert_eq!(view.deleted_shards.len(), 1);
    view.prune(now + s(30));
    assert!(view.deleted_shards.is_empty());
}
