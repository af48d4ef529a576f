//! Leases as rows of a real database: whoever writes them and whenever, each sees them as the API
//! server would show them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use lease::{LeaseEvent, LeaseStore, StoreError};
use observer_listener::coordination::postgres_lease_store::PostgresLeaseStore;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{Executor as _, PgPool};
use tokio::task::JoinSet;

use crate::support::{comes, database};
use testkit::seed::seed;

fn lease(name: &str, holder: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(name.to_owned());
    lease.spec.get_or_insert_default().holder_identity = Some(holder.to_owned());
    lease
}

fn name(lease: &Lease) -> String {
    lease.metadata.name.clone().unwrap()
}

fn version(lease: &Lease) -> i64 {
    let version = lease.metadata.resource_version.as_deref();
    version.unwrap().parse().unwrap()
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .unwrap()
        .holder_identity
        .as_deref()
        .unwrap()
}

fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict))
}

fn is_missing<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Missing))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_counts_for_the_version_that_it_names_only() {
    let db = database().await;
    let rows = PostgresLeaseStore::new(db.pool.clone(), "default/test");
    assert_eq!(rows.list().await.unwrap(), (Vec::new(), "0".to_owned()));
    assert_eq!(rows.get("a").await.unwrap(), None);
    assert!(is_missing(&rows.replace("a", &lease("a", "x")).await));
    assert!(is_missing(&rows.delete("a", "1").await));

    let first = rows.create(&lease("a", "x")).await.unwrap();
    assert_eq!((name(&first).as_str(), holder(&first)), ("a", "x"));
    assert!(is_conflict(&rows.create(&lease("a", "y")).await));
    assert_eq!(rows.get("a").await.unwrap().as_ref(), Some(&first));
    let mut second = first.clone();
    second.spec.as_mut().unwrap().holder_identity = Some("y".to_owned());
    let second = rows.replace("a", &second).await.unwrap();
    assert_eq!(holder(&second), "y");
    assert!(
        version(&second) > version(&first),
        "{second:?} after {first:?}"
    );
    assert!(is_conflict(&rows.replace("a", &first).await));
    assert!(
        is_conflict(&rows.replace("a", &lease("a", "z")).await),
        "no version"
    );
    assert!(is_conflict(
        &rows.delete("a", &version(&first).to_string()).await
    ));
    assert!(is_conflict(&rows.delete("a", "not a number").await));
    let (all, last) = rows.list().await.unwrap();
    assert_eq!(all, std::slice::from_ref(&second));
    assert!(
        last.parse::<i64>().unwrap() >= version(&second),
        "{last}, with {second:?}"
    );

    let others = PostgresLeaseStore::new(db.pool.clone(), "other/test");
    assert_eq!(others.list().await.unwrap().0, []);
    others.create(&lease("a", "o")).await.unwrap();
    rows.delete("a", &version(&second).to_string())
        .await
        .unwrap();
    assert_eq!(rows.get("a").await.unwrap(), None);
    assert!(is_missing(
        &rows.delete("a", &version(&second).to_string()).await
    ));
    assert!(is_missing(&rows.replace("a", &second).await));
    let again = rows.create(&lease("a", "x")).await.unwrap();
    assert!(
        version(&again) > version(&second),
        "versions are not given twice"
    );
    assert_eq!(
        others.list().await.unwrap().0.len(),
        1,
        "others have their own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_go_up_though_all_rows_are_deleted() {
    let db = database().await;
    let rows = PostgresLeaseStore::new(db.pool.clone(), "default/test");
    let mut last = 0;
    for _ in 0..20 {
        let made = version(&rows.create(&lease("a", "x")).await.unwrap());
        assert!(made > last, "{made} after {last}");
        last = made;
        for _ in 0..20 {
            let before = rows.get("a").await.unwrap().unwrap();
            last = version(&rows.replace("a", &before).await.unwrap());
        }
        db.run("delete from observer.lease").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_before_its_write_was_seen_is_listed_anew() {
    let db = database().await;
    let rows = PostgresLeaseStore::new(db.pool.clone(), "default/test");
    let old = rows.create(&lease("old", "x")).await.unwrap();
    let (all, last) = rows.list().await.unwrap();
    assert_eq!(all.len(), 1);
    // Nothing is looked for until a change is asked for.
    let mut changes = rows.watch_all(&last).await.unwrap();
    rows.replace("old", &old).await.unwrap();
    rows.create(&lease("new", "x")).await.unwrap();
    db.run("delete from observer.lease").await;
    let gone = changes.next().await.unwrap().unwrap();
    assert_eq!(gone, LeaseEvent::Deleted("old".to_owned()));
    // Where no row is left, there is none to tell a version by, until there is a write.
    rows.create(&lease("other", "x")).await.unwrap();
    let other = changes.next().await.unwrap().unwrap();
    assert!(matches!(other, LeaseEvent::Applied(lease) if name(&lease) == "other"));
    let end = changes.next().await.unwrap();
    assert!(matches!(end, Err(StoreError::Expired)), "{end:?}");

    let (all, last) = rows.list().await.unwrap();
    assert_eq!(all.iter().map(name).collect::<Vec<_>>(), ["other"]);
    let mut changes = rows.watch_all(&last).await.unwrap();
    let kept = rows.create(&lease("kept", "x")).await.unwrap();
    let given = rows.create(&lease("given back", "x")).await.unwrap();
    let version = given.metadata.resource_version.unwrap();
    rows.delete("given back", &version).await.unwrap();
    let put = changes.next().await.unwrap().unwrap();
    assert_eq!(put, LeaseEvent::Applied(kept.clone()));
    rows.replace("kept", &kept).await.unwrap();
    let put = changes.next().await.unwrap().unwrap();
    assert!(
        matches!(put, LeaseEvent::Applied(_)),
        "its own deletions are no loss"
    );
}

/// Changes Leases at random; what is refused is done anew in another way.
async fn write(pool: PgPool, number: u64, seed: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
    let rows = PostgresLeaseStore::new(pool, "default/test");
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("lease-{}", random.random_range(0..6));
        let done = match rows.get(&name).await.unwrap() {
            None => rows
                .create(&lease(&name, &number.to_string()))
                .await
                .map(drop),
            Some(found) if random.random_bool(0.2) => {
                rows.delete(&name, &version(&found).to_string()).await
            }
            Some(found) => rows.replace(&name, &found).await.map(drop),
        };
        match done {
            Ok(()) => count += 1,
            Err(StoreError::Conflict | StoreError::Missing) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sees_a_version_has_seen_all_before_it() {
    let seed = seed();
    let db = database().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for number in 0..4 {
        writers.spawn(write(db.pool.clone(), number, seed, Arc::clone(&stop)));
    }
    let reader = PostgresLeaseStore::new(db.pool.clone(), "default/test");
    let follower = PostgresLeaseStore::new(db.pool.clone(), "default/test");
    let (leases, last) = follower.list().await.unwrap();
    let mut known: BTreeMap<String, i64> = leases
        .iter()
        .map(|lease| (name(lease), version(lease)))
        .collect();
    let mut changes = follower.watch_all(&last).await.unwrap();
    let mut newest = last.parse().unwrap();

    let mut before: Option<(BTreeMap<String, i64>, i64)> = None;
    for _ in 0..200 {
        let (leases, last) = reader.list().await.unwrap();
        let last: i64 = last.parse().unwrap();
        let now: BTreeMap<String, i64> = leases
            .iter()
            .map(|lease| (name(lease), version(lease)))
            .collect();
        if let Some((seen, seen_to)) = &before {
            assert!(last >= *seen_to, "{last} after {seen_to}");
            for (name, version) in &now {
                let early = version <= seen_to && seen.get(name) != Some(version);
                assert!(
                    !early,
                    "{name} has {version}, and was not seen at {seen_to}: {seen:?}"
                );
            }
        }
        before = Some((now, last));
        let soon = Duration::from_millis(5);
        if let Ok(Some(change)) = tokio::time::timeout(soon, changes.next()).await {
            note(change.unwrap(), &mut known, &mut newest);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written: u64 = writers.join_all().await.into_iter().sum();
    let (leases, _) = reader.list().await.unwrap();
    let end: BTreeMap<String, i64> = leases
        .iter()
        .map(|lease| (name(lease), version(lease)))
        .collect();
    while known != end {
        let what = format!("a change from {known:?} to {end:?}");
        let change = comes(&what, changes.next()).await;
        note(change.unwrap().unwrap(), &mut known, &mut newest);
    }
    println!("{written} writes seen");
    assert!(
        written > 20,
        "much was written beside the reader: {written}"
    );
}

fn note(change: LeaseEvent, known: &mut BTreeMap<String, i64>, newest: &mut i64) {
    match change {
        LeaseEvent::Applied(lease) => {
            assert!(
                version(&lease) > *newest,
                "changes come in the order of their versions"
            );
            *newest = version(&lease);
            known.insert(name(&lease), version(&lease));
        }
        LeaseEvent::Deleted(name) => {
            assert!(known.remove(&name).is_some(), "{name} was there");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_one_by_one_whoever_makes_them() {
    let db = database().await;
    let [ours, theirs] = [(); 2].map(|()| PostgresLeaseStore::new(db.pool.clone(), "default/test"));
    let first = theirs.create(&lease("a", "x")).await.unwrap();
    let (all, last) = ours.list().await.unwrap();
    assert_eq!(all, std::slice::from_ref(&first));
    // Between the list and the changes that follow it.
    let second = theirs.create(&lease("b", "x")).await.unwrap();
    let mut changes = ours.watch_all(&last).await.unwrap();
    let mut next = async || {
        let change = comes("a change", changes.next()).await;
        change.unwrap().unwrap()
    };
    assert_eq!(next().await, LeaseEvent::Applied(second.clone()));
    let first = ours.replace("a", &first).await.unwrap();
    assert_eq!(next().await, LeaseEvent::Applied(first.clone()));
    theirs
        .delete("a", &version(&first).to_string())
        .await
        .unwrap();
    assert_eq!(next().await, LeaseEvent::Deleted("a".to_owned()));
    ours.delete("b", &version(&second).to_string())
        .await
        .unwrap();
    assert_eq!(next().await, LeaseEvent::Deleted("b".to_owned()));
    let again = theirs.create(&lease("a", "y")).await.unwrap();
    assert_eq!(next().await, LeaseEvent::Applied(again));

    // Between two looks, one gives up what is its own and goes.
    let mut transaction = db.pool.begin().await.unwrap();
    for statement in [
        "insert into observer.lease
         select listener, 'b', version + 1, lease from observer.lease where name = 'a'",
        "delete from observer.lease where name = 'a'",
    ] {
        transaction.execute(statement).await.unwrap();
    }
    transaction.commit().await.unwrap();
    assert!(matches!(next().await, LeaseEvent::Applied(lease) if name(&lease) == "b"));
    assert_eq!(next().await, LeaseEvent::Deleted("a".to_owned()));

    // All at once, the count of versions included.
    db.run("select observer.drop_listener('default/test')")
        .await;
    assert_eq!(next().await, LeaseEvent::Deleted("b".to_owned()));
    let left: i64 = db.value("select count(*) from observer.lease").await;
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lease_can_be_watched_alone() {
    let db = database().await;
    let rows = PostgresLeaseStore::new(db.pool.clone(), "default/test");
    let first = rows.create(&lease("a", "x")).await.unwrap();
    let seen = version(&first).to_string();
    let mut changes = rows.watch("a", &seen).await.unwrap();
    let mut next = async || {
        let change = comes("a change", changes.next()).await;
        change.unwrap().unwrap()
    };
    rows.create(&lease("b", "x")).await.unwrap();
    let second = rows.replace("a", &first).await.unwrap();
    assert_eq!(next().await, Some(second.clone()));
    rows.delete("a", &version(&second).to_string())
        .await
        .unwrap();
    assert_eq!(next().await, None);
}
