//! Load that fifty members cause.

use testkit::soak::rounds;

use super::*;

const MEMBERS: usize = 50;
const SHARDS: u16 = 60;

fn per_second(calls: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let calls = calls as f64;
    calls / time.as_secs_f64() / 50.0
}

async fn join_fifty(server: &FakeApiServer, shards: &watch::Sender<u16>) -> Vec<TestMember> {
    let mut members = Vec::new();
    for n in 0..MEMBERS {
        members.push(TestMember::join(server, &format!("shop-{n}"), shards));
        sleep(Duration::from_millis(137)).await;
    }
    let took = wait_for(600 * SECOND, || all_owned(&members, SHARDS)).await;
    println!("{MEMBERS} members share {SHARDS} shards after {took:?}");
    members
}

/// Checks that members at rest renew and do nothing else.
async fn assert_only_renewals(server: &FakeApiServer) {
    sleep(10 * SECOND).await;
    server.clear_calls();
    let time = rounds(30, 60) * SECOND;
    sleep(time).await;
    for kind in [
        CallKind::Get,
        CallKind::List,
        CallKind::WatchAll,
        CallKind::Delete,
    ] {
        assert_eq!(server.calls(kind), 0, "{kind:?}");
    }
    let writes = per_second(server.calls(CallKind::Write), time);
    println!("at rest: {writes:.3} writes for each member and second, and nothing else");
    assert!((0.35..=0.39).contains(&writes), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn fifty_members_only_renew_at_rest_and_relist_with_jitter() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(SHARDS));
    let members = join_fifty(&server, &shards).await;
    assert_only_renewals(&server).await;
    for (down, forgets) in [(0, false), (0, true), (5, true)] {
        server.clear_calls();
        let began = Instant::now();
        if down > 0 {
            server.set_behaviour(FAIL);
        }
        server.close_watches();
        if forgets {
            // A change that is compacted, so that nobody can watch it any more.
            server.modify_lease_externally("shop-shard-0-of-60", |_| true);
            server.compact();
        }
        sleep(down * SECOND).await;
        server.set_behaviour(CallBehaviour::default());
        sleep(rounds(15, 30) * SECOND).await;
        let (lists, watches) = (
            server.call_times(CallKind::List),
            server.call_times(CallKind::WatchAll),
        );
        let peak = |call_times: &[Instant]| {
            let in_window = |at: &Instant| {
                call_times
                    .iter()
                    .filter(|m| **m >= *at && **m < *at + SECOND / 10)
                    .count()
            };
            call_times.iter().map(in_window).max().unwrap_or(0)
        };
        println!(
            "down for {down} s, forgets {forgets}: {} lists (at most {} in 100 ms), {} watches \
             (at most {}), the last after {:?}",
            lists.len(),
            peak(&lists),
            watches.len(),
            peak(&watches),
            watches.last().map(|at| *at - began),
        );
        assert!(lists.len() <= MEMBERS * 5 && watches.len() <= MEMBERS * 6);
        assert!(peak(&lists) <= 25 && peak(&watches) <= 25);
        assert!(forgets || lists.is_empty());
        assert!(all_owned(&members, SHARDS));
    }
}
