//! What fifty members cost.

use testkit::soak::rounds;

use super::*;

const MEMBERS: usize = 50;
const SHARDS: u16 = 60;

fn per_second(calls: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let calls = calls as f64;
    calls / time.as_secs_f64() / 50.0
}

async fn fifty(fake: &Fake, shards: &watch::Sender<u16>) -> Vec<Member> {
    let mut members = Vec::new();
    for n in 0..MEMBERS {
        members.push(Member::join(fake, &format!("shop-{n}"), shards));
        sleep(Duration::from_millis(137)).await;
    }
    let took = until(600 * SECOND, || all_owned(&members, SHARDS)).await;
    println!("{MEMBERS} members share {SHARDS} shards after {took:?}");
    members
}

/// Renews, and does nothing else.
async fn rest(fake: &Fake) {
    sleep(10 * SECOND).await;
    fake.forget_calls();
    let time = rounds(30, 60) * SECOND;
    sleep(time).await;
    for kind in [Kind::Get, Kind::List, Kind::Follow, Kind::Delete] {
        assert_eq!(fake.calls(kind), 0, "{kind:?}");
    }
    let writes = per_second(fake.calls(Kind::Write), time);
    println!("at rest: {writes:.3} writes for each member and second, and nothing else");
    assert!((0.35..=0.39).contains(&writes), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn fifty_members_only_renew_at_rest_and_do_not_storm_a_server_that_is_back() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(SHARDS));
    let members = fifty(&fake, &shards).await;
    rest(&fake).await;
    for (down, forgets) in [(0, false), (0, true), (5, true)] {
        fake.forget_calls();
        let began = Instant::now();
        if down > 0 {
            fake.always(BROKEN);
        }
        fake.hang_up();
        if forgets {
            // Something that nobody can follow any more.
            fake.meddle_with("shop-shard-0-of-60", |_| true);
            fake.compact();
        }
        sleep(down * SECOND).await;
        fake.always(Fate::default());
        sleep(rounds(15, 30) * SECOND).await;
        let (lists, follows) = (fake.moments(Kind::List), fake.moments(Kind::Follow));
        let most = |moments: &[Instant]| {
            let in_window = |at: &Instant| {
                moments
                    .iter()
                    .filter(|m| **m >= *at && **m < *at + SECOND / 10)
                    .count()
            };
            moments.iter().map(in_window).max().unwrap_or(0)
        };
        println!(
            "down for {down} s, forgets {forgets}: {} lists (at most {} in 100 ms), {} watches \
             (at most {}), the last after {:?}",
            lists.len(),
            most(&lists),
            follows.len(),
            most(&follows),
            follows.last().map(|at| *at - began),
        );
        assert!(lists.len() <= MEMBERS * 5 && follows.len() <= MEMBERS * 6);
        assert!(most(&lists) <= 25 && most(&follows) <= 25);
        assert!(forgets || lists.is_empty());
        assert!(all_owned(&members, SHARDS));
    }
}
