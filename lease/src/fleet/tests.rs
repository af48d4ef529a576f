//! The driver against an imitation of the API server. Time is paused: it moves on only when
//! everybody waits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake::{Fake, Fate, Kind};

const SECOND: Duration = Duration::from_secs(1);
const NEVER: Duration = Duration::from_hours(10);
const DEAF: Fate = Fate {
    there: NEVER,
    back: NEVER,
    fails: false,
};
const BROKEN: Fate = Fate {
    there: Duration::ZERO,
    back: Duration::ZERO,
    fails: true,
};

/// A member with a caller that takes every hold and drops it when it is to.
struct Member {
    pod: String,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    joined: JoinHandle<()>,
    working: JoinHandle<()>,
}

fn options(fake: &Fake, pod: &str) -> Options {
    Options {
        store: Arc::new(fake.clone()),
        listener: "shop".to_owned(),
        pod: pod.to_owned(),
        uid: "uid".to_owned(),
        timing: Timing::default(),
        labels: BTreeMap::from([("app".to_owned(), "shop".to_owned())]),
        owners: Vec::new(),
        member_owners: Vec::new(),
        dead: Arc::new(|_| false),
    }
}

/// Works until the hold is lost or to leave; takes `drain` for leaving.
async fn work(hold: Hold, drain: Duration) {
    tokio::select! {
        biased;
        () = hold.lost().cancelled() => {}
        () = hold.leaving().cancelled() => sleep(drain).await,
    }
}

impl Member {
    fn join(fake: &Fake, pod: &str, shards: &watch::Sender<u16>) -> Self {
        Self::with(options(fake, pod), shards)
    }

    fn with(options: Options, shards: &watch::Sender<u16>) -> Self {
        let (sender, mut holds) = mpsc::channel(4);
        let (standings, standing) = watch::channel(Standing::default());
        let stop = CancellationToken::new();
        let pod = options.pod.clone();
        let joined = join(options, shards.subscribe(), sender, standings, stop.clone());
        let working = tokio::spawn(async move {
            while let Some(hold) = holds.recv().await {
                tokio::spawn(work(hold, Duration::from_millis(50)));
            }
        });
        Self {
            pod,
            standing,
            stop,
            joined: tokio::spawn(joined),
            working,
        }
    }

    fn shards(&self) -> BTreeSet<u16> {
        let standing = self.standing.borrow();
        let mine = standing.shards.iter().filter(|seat| seat.mine);
        mine.map(|seat| seat.shard).collect()
    }

    fn identity(&self) -> Option<String> {
        self.standing.borrow().identity.clone()
    }

    /// Dies without a word.
    fn kill(self) {
        self.joined.abort();
        self.working.abort();
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(60 * SECOND, self.joined).await.unwrap().unwrap();
        self.working.abort();
    }
}

/// Waits until `condition` holds.
async fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

fn all_owned(members: &[Member], shards: u16) -> bool {
    let held: Vec<u16> = members.iter().flat_map(Member::shards).collect();
    let loads = || members.iter().map(|member| member.shards().len());
    held.len() == usize::from(shards)
        && held.iter().collect::<BTreeSet<_>>().len() == held.len()
        && loads().max().unwrap() - loads().min().unwrap() <= 1
}

fn fleet(fake: &Fake, count: usize, shards: &watch::Sender<u16>) -> Vec<Member> {
    let join = |n| Member::join(fake, &format!("shop-{n}"), shards);
    (0..count).map(join).collect()
}

#[tokio::test(start_paused = true)]
async fn one_member_takes_all_shards_at_once() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(16));
    let members = fleet(&fake, 1, &shards);
    let took = until(5 * SECOND, || all_owned(&members, 16)).await;
    assert!(took < SECOND, "{took:?}");
    let lease = fake.named("shop-shard-3-of-16").unwrap();
    let labels = lease.metadata.labels.unwrap();
    assert_eq!(labels["observers.fraiseql.dev/lease"], "shard");
    assert_eq!(labels["app"], "shop");
    assert_eq!(
        fake.named("shop-0").unwrap().metadata.labels.unwrap()["observers.fraiseql.dev/lease"],
        "member"
    );
    assert_eq!(fake.holder_of("shop-0"), members[0].identity());
    assert_eq!(members[0].standing.borrow().members, 1);
}
