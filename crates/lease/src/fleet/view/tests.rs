use super::*;

fn fact(version: u64, holder: Option<&str>) -> Fact {
    Fact {
        version,
        holder: holder.map(Id::from),
        wait: Duration::from_secs(15),
        takes: 4,
    }
}

const A: &str = "a_uid_01";
const A_AGAIN: &str = "a_uid_02";
const SHARD: Name = Name::Shard(Place { of: 4, shard: 1 });

fn member() -> Name {
    Name::Member("a".into())
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn listed(facts: &[(Name, Fact)], version: u64, now: Instant) -> View {
    let mut view = View::new(s(15));
    view.list(facts.to_vec(), version, now);
    view
}

#[test]
fn a_late_change_does_not_undo_what_an_answer_told() {
    let now = Instant::now();
    let mut view = listed(&[(SHARD, fact(1, Some(A)))], 1, now);
    view.answer(SHARD, fact(4, Some("me")), now);
    assert!(view.owes_since().is_some());
    view.change(SHARD, fact(2, None), now);
    view.gone(&SHARD, now);
    assert_eq!(view.get(&SHARD).map(|seen| seen.fact.version), Some(4));
    view.change(SHARD, fact(4, Some("me")), now);
    assert!(view.owes_since().is_none());
    view.gone(&SHARD, now);
    assert!(view.get(&SHARD).is_none());
}

#[test]
fn a_list_takes_the_place_of_what_was_known_but_for_later_answers() {
    let now = Instant::now();
    let mut view = listed(
        &[(SHARD, fact(1, Some(A))), (member(), fact(2, Some(A)))],
        2,
        now,
    );
    view.answer(SHARD, fact(9, Some("me")), now);
    view.list(Vec::new(), 5, now);
    assert!(view.get(&SHARD).is_some() && view.get(&member()).is_none());
    // A server that was restored from a copy has forgotten all of it.
    view.list(vec![(SHARD, fact(3, None))], 3, now);
    assert_eq!(view.get(&SHARD).map(|seen| seen.fact.version), Some(3));
    assert!(view.owes_since().is_none());
}

#[test]
fn a_holder_lives_as_long_as_its_member_lease_is_renewed() {
    let start = Instant::now();
    let id = Id::from(A);
    let mut view = listed(&[(member(), fact(1, Some(A)))], 1, start);
    assert_eq!(view.life(&id, 1, start), Life::Lives(start + s(15)));
    assert!(view.change(member(), fact(2, Some(A)), start + s(5)));
    assert_eq!(view.life(&id, 1, start + s(19)), Life::Lives(start + s(20)));
    assert_eq!(view.life(&id, 1, start + s(20)), Life::Expired);
    assert!(!view.change(member(), fact(3, None), start + s(20)));
    assert_eq!(view.life(&id, 1, start + s(20)), Life::Over);
}

#[test]
fn a_holder_is_over_when_another_has_its_member_lease_but_not_before_that_is_certain() {
    let now = Instant::now();
    let mut view = listed(&[(member(), fact(3, Some(A_AGAIN)))], 3, now);
    assert_eq!(view.life(&A.into(), 2, now), Life::Over);
    // Claimed by a process that may have come after what was seen of the member's Lease.
    assert!(matches!(
        view.life(&"a_uid_03".into(), 4, now),
        Life::Lives(_)
    ));
}

#[test]
fn a_holder_whose_member_lease_was_deleted_may_not_know_it_yet() {
    let now = Instant::now();
    let mut view = listed(&[(SHARD, fact(1, Some(A)))], 2, now);
    assert_eq!(view.life(&A.into(), 1, now), Life::Lives(now + s(15)));
    assert_eq!(view.life(&A.into(), 1, now + s(15)), Life::Over);
}

#[test]
fn a_deleted_shard_lease_is_known_to_have_had_an_owner() {
    let now = Instant::now();
    let mut view = listed(&[(SHARD, fact(1, Some(A)))], 2, now);
    view.gone(&SHARD, now);
    assert!(view.names("a"));
    view.tidy(now + s(29));
    assert_eq!(view.orphans.len(), 1);
    view.tidy(now + s(30));
    assert!(view.orphans.is_empty());
}
