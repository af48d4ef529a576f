//! Every fault and every change, one after the other at random and some at once. Nothing is lost
//! and every key stays in order; what comes twice is counted.
//!
//! The seed is printed; `OBSERVER_TEST_SEED=N e2e/run chaos` draws the same once more.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use testkit::seed::{SEED, seed};
use testkit::soak::rounds;

use super::faults::postgres_signal;
use super::steps::{RATE, Wanted, divide, names, roll, scale, without_back_off};
use super::{MAIN, Shop};
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::node::{Node, Signal};
use crate::support::room::{Room, scenario};
use crate::support::wait::LATE;

/// How many of them happen.
fn events() -> u32 {
    rounds(10, 50)
}

/// How often as many are tried, as those without an API server or on a busy machine may not happen.
const TRIES: u32 = 5;

/// Time between two of them, in milliseconds.
const BETWEEN: RangeInclusive<u64> = 1_500..=5_000;

/// How long a process is paused, in milliseconds: longer than a Lease lasts, or not, and mostly
/// shorter than the kubelet bears.
const PAUSED: RangeInclusive<u64> = 1_000..=22_000;

/// How long the API server is away, in milliseconds.
const AWAY: RangeInclusive<u64> = 2_000..=20_000;

/// Longest that one of them may take; without an API server most fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// Restarts of the database: each makes the kubelet wait longer for the next.
const DATABASE_RESTARTS: usize = 2;

/// Shards and pods in the end.
const END: (u16, usize) = (8, 3);

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Kill,
    Pause,
    DeletePod,
    DeleteShardLease,
    DeleteMemberLease,
    Scale,
    Divide,
    Roll,
    RestartDatabase,
    StopApiServer,
}

const EVENTS: [Event; 10] = [
    Event::Kill,
    Event::Pause,
    Event::DeletePod,
    Event::DeleteShardLease,
    Event::DeleteMemberLease,
    Event::Scale,
    Event::Divide,
    Event::Roll,
    Event::RestartDatabase,
    Event::StopApiServer,
];

/// What has to be put right later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// The process goes on.
    Continue(u32),
    /// The API server is started.
    StartApiServer,
}

/// What has happened and what is to be put right.
struct Storm<'a> {
    room: &'a Room,
    node: &'a Node,
    random: StdRng,
    start: Instant,
    remedies: Vec<(Instant, Remedy)>,
    restarts: usize,
    /// Whether the API server may still be taken away; once is enough.
    api_server_left: bool,
    happened: u32,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn chaos_loses_nothing_and_keeps_the_order() {
    scenario("chaos", async |room| {
        installation::installed(&room.cluster).await?;
        let node = Node::of(&room.cluster)?;
        let mut shop = Shop::open(room, 3).await?;
        let seed = seed();
        figure(&format!(
            "{} of everything at random, under {RATE} rows a second; {SEED}={seed}:",
            events(),
        ));
        let writer = shop.under_writers(room, &Wanted::of(8, 3)).await?;
        let mut storm = Storm {
            room,
            node: &node,
            random: StdRng::seed_from_u64(seed),
            start: Instant::now(),
            remedies: Vec::new(),
            restarts: 0,
            // The writer has to go on without it.
            api_server_left: shop.database.is_straight() && shop.sink.is_straight(),
            happened: 0,
        };
        let raged = storm.rage().await;
        let happened = storm.happened;
        // Whatever came, the cluster is left whole.
        storm.put_right(None).await?;
        raged?;

        let calm = Instant::now();
        divide(room, END.0).await?;
        scale(room, END.1).await?;
        without_back_off(room).await?;
        let what = format!("after {happened} of them");
        shop.after(room, &what, calm, &Wanted::of(END.0, END.1))
            .await?;
        let failed = writer.stop().await?;
        figure(&format!("  {failed} statements of the writer failed"));
        shop.tally
            .all_in_order(&shop.sink, &shop.database, MAIN, LATE)
            .await
    })
    .await;
}

impl Storm<'_> {
    async fn rage(&mut self) -> Result<()> {
        for _ in 0..events() * TRIES {
            if self.happened >= events() {
                return Ok(());
            }
            let pause = self.random.random_range(BETWEEN);
            let next = Instant::now() + Duration::from_millis(pause);
            self.put_right(Some(next)).await?;
            tokio::time::sleep_until(next.into()).await;
            let events: Vec<Event> = EVENTS.into_iter().filter(|e| self.may(*e)).collect();
            let event = *events.choose(&mut self.random).context("no events")?;
            let done = tokio::time::timeout(PATIENCE, self.happen(event)).await;
            let said = match done {
                Ok(Ok(said)) => {
                    self.happened += 1;
                    said
                }
                Ok(Err(error)) => format!("does not happen: {error:#}"),
                Err(_) => "does not happen in time".to_owned(),
            };
            figure(&format!(
                "    {}: {event:?}: {said}",
                seconds(self.start.elapsed())
            ));
        }
        ensure!(self.happened >= events(), "only {} happened", self.happened);
        Ok(())
    }

    /// Puts right, each at its time, what has to be by then; without a time everything, now.
    async fn put_right(&mut self, by: Option<Instant>) -> Result<()> {
        self.remedies.sort_by_key(|(at, _)| *at);
        while let Some((at, remedy)) = self.remedies.first().copied() {
            match by {
                Some(by) if at > by => return Ok(()),
                Some(_) => tokio::time::sleep_until(at.into()).await,
                None => {}
            }
            self.remedies.remove(0);
            match remedy {
                // It may have ended by then.
                Remedy::Continue(process) => {
                    let _ended = self.node.signal(process, Signal::Continue).await;
                }
                Remedy::StartApiServer => self.node.start_api_server(&self.room.cluster).await?,
            }
        }
        Ok(())
    }

    /// Whether it has not happened often enough.
    fn may(&self, event: Event) -> bool {
        match event {
            Event::RestartDatabase => self.restarts < DATABASE_RESTARTS,
            Event::StopApiServer => self.api_server_left,
            _ => true,
        }
    }

    fn later(&mut self, time: Duration, remedy: Remedy) {
        self.remedies.push((Instant::now() + time, remedy));
    }

    /// Draws all that it needs before anything can fail, so that the same seed draws the same.
    async fn happen(&mut self, event: Event) -> Result<String> {
        let choice = self.random.random_range(0..=1_000_000);
        let paused = Duration::from_millis(self.random.random_range(PAUSED));
        let away = Duration::from_millis(self.random.random_range(AWAY));
        match event {
            Event::Kill => {
                let pod = self.pod(choice).await?;
                self.node.kill(self.room, &pod).await?;
                Ok(pod)
            }
            Event::Pause => self.pause(choice, paused).await,
            Event::DeletePod => {
                let pod = self.pod(choice).await?;
                self.room
                    .delete::<k8s_openapi::api::core::v1::Pod>(&pod)
                    .await?;
                Ok(pod)
            }
            Event::DeleteShardLease => self.delete_lease(choice, false).await,
            Event::DeleteMemberLease => self.delete_lease(choice, true).await,
            Event::Scale => {
                let replicas = 2 + usize::try_from(choice % 4)?;
                scale(self.room, replicas).await?;
                Ok(format!("to {replicas}"))
            }
            Event::Divide => {
                let shards = 3 + u16::try_from(choice % 8)?;
                divide(self.room, shards).await?;
                Ok(format!("into {shards}"))
            }
            Event::Roll => {
                roll(self.room, choice).await?;
                Ok(String::from("begins"))
            }
            Event::RestartDatabase => self.restart_database(choice).await,
            Event::StopApiServer => self.stop_api_server(away).await,
        }
    }

    async fn pod(&self, choice: u64) -> Result<String> {
        pick(&names(self.room).await?, choice)
    }

    async fn pause(&mut self, choice: u64, time: Duration) -> Result<String> {
        let pod = self.pod(choice).await?;
        let process = self.node.process(self.room, &pod).await?;
        self.later(time, Remedy::Continue(process));
        self.node.signal(process, Signal::Stop).await?;
        Ok(format!("{pod} for {}", seconds(time)))
    }

    async fn delete_lease(&self, choice: u64, member: bool) -> Result<String> {
        let fleet = Shop::fleet(self.room).await?;
        let names: Vec<String> = if member {
            fleet.members.into_values().collect()
        } else {
            fleet.leases.into_values().map(|(name, _)| name).collect()
        };
        let name = pick(&names, choice)?;
        self.room.delete::<Lease>(&name).await?;
        Ok(name)
    }

    async fn restart_database(&mut self, choice: u64) -> Result<String> {
        self.restarts += 1;
        let signal = if choice.is_multiple_of(2) {
            Signal::Interrupt
        } else {
            Signal::Quit
        };
        postgres_signal(self.room, self.node, signal).await?;
        Ok(format!("{signal:?}"))
    }

    async fn stop_api_server(&mut self, time: Duration) -> Result<String> {
        self.api_server_left = false;
        // Before the stop, so that it is put right even if that takes too long.
        self.later(time, Remedy::StartApiServer);
        self.node.stop_api_server().await?;
        Ok(format!("for {}", seconds(time)))
    }
}

fn pick(names: &[String], choice: u64) -> Result<String> {
    let count = u64::try_from(names.len())?;
    ensure!(count > 0, "there is none");
    let index = usize::try_from(choice % count)?;
    names.get(index).cloned().context("there is none")
}
