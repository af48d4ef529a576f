use std::cell::Cell;

use super::*;

#[tokio::test(start_paused = true)]
async fn slow_progress_is_waited_for() {
    let begun = Instant::now();
    let seen = Cell::new(0);
    amounts_to("steps", 5, async || {
        tokio::time::sleep(STALLED / 2).await;
        seen.set(seen.get() + 1);
        seen.get()
    })
    .await;
    assert!(begun.elapsed() > STALLED * 2);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no progress for 120s, or no end to it: 5 steps, stuck at 3")]
async fn missing_progress_fails() {
    amounts_to("steps", 5, async || 3).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no progress for 120s, or no end to it: rain")]
async fn missing_condition_fails() {
    eventually("rain", async || None::<()>).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "or no end to it: peace")]
async fn progress_without_end_fails() {
    let seen = Cell::new(0);
    let goes_on = async || {
        seen.set(seen.get() + 1);
        Err::<(), u64>(seen.get())
    };
    while_progressing_or(goes_on, async || "peace".to_owned()).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "or no end to it: an answer")]
async fn a_look_that_hangs_fails() {
    eventually("an answer", async || {
        std::future::pending::<Option<()>>().await
    })
    .await;
}

/// Looks for the fifth of steps that take half a minute each.
async fn fifth(stalled: Duration) -> anyhow::Result<((), Duration)> {
    let begun = Instant::now();
    until("five steps", stalled, async || {
        match begun.elapsed().as_secs() / 30 {
            5.. => Ok(()),
            steps => Err(anyhow!("{steps} are done")),
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn reasons_that_change_are_waited_for() {
    let ((), took) = fifth(Duration::from_secs(31)).await.unwrap();
    assert!(took >= Duration::from_secs(150) && took < Duration::from_secs(151));
}

#[tokio::test(start_paused = true)]
async fn a_reason_that_stays_is_told() {
    let error = fifth(Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no progress for 20s, or no end to it: five steps. 0 are done"
    );
}

#[tokio::test(start_paused = true)]
async fn reasons_without_end_are_told_at_last() {
    let mut seen = 0;
    let look = async || {
        seen += 1;
        Err::<(), _>(anyhow!("{seen} came"))
    };
    let begun = Instant::now();
    let error = until("peace", STALLED, look).await.unwrap_err();
    let told = format!("no progress for 120s, or no end to it: peace. {seen} came");
    assert_eq!(error.to_string(), told);
    assert!(begun.elapsed() >= ENDLESS);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_given_up_for_another() {
    let mut looks = 0;
    let look = async || {
        looks += 1;
        if looks == 1 {
            std::future::pending::<()>().await;
        }
        Ok(looks)
    };
    let (looks, took) = until("an answer", STALLED, look).await.unwrap();
    assert_eq!(looks, 2);
    assert!(took >= LOOK && took < LOOK * 2);
}

#[tokio::test(start_paused = true)]
async fn looks_that_hang_fail() {
    let look = async || std::future::pending::<anyhow::Result<()>>().await;
    let error = until("an answer", STALLED, look).await.unwrap_err();
    let told = ": an answer. a look took more than 60s";
    assert!(error.to_string().ends_with(told), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_the_end_is_waited_for() {
    let begun = Instant::now();
    comes("the end", tokio::time::sleep(STALLED / 2)).await;
    assert_eq!(begun.elapsed(), STALLED / 2);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "waited 120s in vain: the end")]
async fn what_never_comes_fails() {
    comes("the end", std::future::pending::<()>()).await;
}

/// Looks for the third of three numbers that come with pauses.
async fn third(pause: Duration) -> Option<()> {
    let (send, mut numbers) = watch::channel(0);
    tokio::spawn(async move {
        for n in 1..=3 {
            tokio::time::sleep(pause).await;
            send.send_replace(n);
        }
    });
    watched(
        &mut numbers,
        |n| (*n == 3).then_some(()),
        |n| *n,
        |n| format!("3 in place of {n}"),
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn what_is_watched_is_waited_for_while_it_changes() {
    assert_eq!(third(STALLED / 2).await, Some(()));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "or no end to it: 3 in place of 0")]
async fn what_is_watched_and_does_not_change_fails() {
    third(STALLED * 2).await;
}

#[tokio::test]
async fn what_nobody_changes_any_more_is_not_waited_for() {
    let (_, mut nothing) = watch::channel(0);
    let found = watched(
        &mut nothing,
        |n| (*n == 1).then_some(()),
        |n| *n,
        |_| String::new(),
    );
    assert_eq!(found.await, None);
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nothing_runs_does_not_count() {
    let mut patience = Patience::default();
    tokio::time::advance(STALLED * 10).await;
    assert!(patience.lasts());
}
