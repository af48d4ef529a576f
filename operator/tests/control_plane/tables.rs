//! What pods find of observers' tables.

use crds::pod_status::{TABLE_NOT_TRACKED, TrackingFinding, TrackingReport};
use crds::v1alpha1::ObserverListener;

use super::pods::Told;
use super::room::{Room, until};
use super::scenarios::events;

/// What a pod finds of an observer's table shows in the observer, until it is mended.
pub(super) async fn untracked_table_is_reported_and_heals(
    room: &Room,
    told: &Told,
    observer: &str,
) {
    room.observer_says(observer, ["Tracked", "True", "AsExpected"])
        .await;
    let finding = TrackingFinding {
        observer: format!("{}/{observer}", room.namespace),
        path: "spec.events.entity".to_owned(),
        reason: TABLE_NOT_TRACKED.to_owned(),
        message: "public.orders is not tracked".to_owned(),
    };
    let untracked = async |number: i32| {
        until("the listener counts it", async || {
            let listener: ObserverListener = room.get("shop").await.unwrap();
            listener.status.unwrap().observers.untracked == number
        })
        .await;
    };
    told.change(|report| {
        report.tracking = Some(TrackingReport {
            findings: vec![finding],
            left_out: 0,
        });
    });
    let said = room
        .observer_says(observer, ["Tracked", "False", TABLE_NOT_TRACKED])
        .await;
    let said = said.split_once(": ").unwrap().1;
    assert_eq!(said, "spec.events.entity: public.orders is not tracked");
    untracked(1).await;
    room.observer_says(observer, ["Programmed", "True", "Programmed"])
        .await;
    assert!(events(room, TABLE_NOT_TRACKED).await > 0);
    told.change(|report| report.tracking = Some(TrackingReport::default()));
    room.observer_says(observer, ["Tracked", "True", "AsExpected"])
        .await;
    untracked(0).await;
}
