//! Decisions one by one, and how a listener fares under loads that burst and swing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::duration::HumanDuration;
use proptest::prelude::*;

use super::*;

fn spec(min: i32, max: i32) -> Autoscaling {
    Autoscaling {
        min_replicas: min,
        max_replicas: max,
        target_lag: HumanDuration::from_secs(10),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A listener whose operator looks every few seconds.
struct Run {
    spec: Autoscaling,
    scaler: Autoscaler,
    status: Option<AutoscalingStatus>,
    now: i64,
    changes: Vec<(i64, i32)>,
}

impl Run {
    fn new(spec: Autoscaling, replicas: i32) -> Self {
        Self {
            spec,
            scaler: Autoscaler::default(),
            status: Some(AutoscalingStatus {
                desired_replicas: replicas,
                last_scale_time: None,
            }),
            now: 0,
            changes: Vec::new(),
        }
    }

    fn replicas(&self) -> i32 {
        self.status.as_ref().unwrap().desired_replicas
    }

    fn look(&mut self, load: Load) -> i32 {
        let before = self.replicas();
        let (status, why) =
            self.scaler
                .decide(self.spec, (self.status.as_ref(), 1), load, at(self.now));
        assert_eq!(why.is_some(), status.desired_replicas != before, "{why:?}");
        if status.desired_replicas != before {
            assert_eq!(status.last_scale_time, Some(at(self.now).to_string()));
            self.changes.push((self.now, status.desired_replicas));
        }
        self.status = Some(status);
        self.replicas()
    }

    /// Looks every five seconds for so long, with all pods at work.
    fn go(&mut self, seconds: i64, lag: f64) -> i32 {
        for _ in 0..seconds / 5 {
            self.look(load(lag, self.replicas()));
            self.now += 5;
        }
        self.replicas()
    }
}

fn load(lag: f64, working: i32) -> Load {
    Load {
        lag: Some(lag),
        working,
        is_held: false,
    }
}

#[test]
fn scales_out_as_the_lag_asks_for_and_no_faster_than_pods_come() {
    let mut run = Run::new(spec(1, 20), 1);
    assert_eq!(run.look(load(10.0, 1)), 1);
    assert_eq!(run.look(load(10.9, 1)), 1, "nearly");
    assert_eq!(run.look(load(15.0, 1)), 2, "half as much again");
    run.now += 60;
    assert_eq!(run.look(load(90.0, 1)), 2, "the other is not there yet");
    assert_eq!(run.look(load(90.0, 2)), 6, "four more");
    run.now += 14;
    assert_eq!(run.look(load(90.0, 6)), 6, "too soon");
    run.now += 1;
    assert_eq!(run.look(load(90.0, 6)), 12, "twice as many");
    run.now += 15;
    assert_eq!(run.look(load(1e9, 12)), 20, "no more than the most");
}

#[test]
fn pods_that_would_not_help_are_not_added() {
    let mut run = Run::new(spec(1, 8), 2);
    let held = Load {
        is_held: true,
        ..load(600.0, 2)
    };
    assert_eq!(run.look(held), 2);
    let silent = Load {
        lag: None,
        ..load(0.0, 0)
    };
    run.now = 3600;
    assert_eq!(run.look(silent), 2, "nothing is known");
    assert!(run.scaler.calm_since.is_none());
}

#[test]
fn scales_in_step_by_step_after_five_minutes_of_calm() {
    let mut run = Run::new(spec(2, 8), 8);
    assert_eq!(run.go(300, 0.0), 8);
    assert_eq!(
        run.go(5, 6.0),
        8,
        "that was more than half of what is wanted"
    );
    assert_eq!(run.go(300, 0.0), 8);
    run.go(400, 1.0);
    let steps: Vec<i32> = run.changes.iter().map(|(_, pods)| *pods).collect();
    assert_eq!(steps, [6, 5, 4, 3, 2]);
    let times = run.changes.windows(2).map(|two| two[1].0 - two[0].0);
    assert!(times.into_iter().all(|time| time >= 60));
    assert_eq!(run.go(3600, 0.0), 2);
}

#[test]
fn bounds_that_change_are_kept_at_once() {
    let mut run = Run::new(spec(1, 8), 8);
    run.spec = spec(1, 3);
    assert_eq!(run.look(load(0.0, 8)), 3);
    run.spec = spec(5, 8);
    assert_eq!(run.look(load(0.0, 3)), 5);
    // The number of before is where it begins.
    let begun = |replicas: i32| {
        let (status, _) =
            Autoscaler::default().decide(spec(2, 4), (None, replicas), load(0.0, 1), at(0));
        status.desired_replicas
    };
    assert_eq!([begun(1), begun(3), begun(9)], [2, 3, 4]);
}

/// Plays a load of so many events a second; each pod takes 100 a second once it is at work, 10 s after it is asked for.
/// Returns the longest lag in seconds, and the number of pods at the end.
fn play(run: &mut Run, seconds: i64, rate: impl Fn(i64) -> f64) -> f64 {
    const OF_A_POD: f64 = 100.0;
    let (mut waiting, mut longest) = (0.0_f64, 0.0_f64);
    let mut at_work = vec![run.replicas(); 10];
    for second in 0..seconds {
        let working = at_work.remove(0).min(run.replicas());
        waiting = (waiting + rate(second) - f64::from(working) * OF_A_POD).max(0.0);
        let lag = (waiting / rate(second).max(OF_A_POD * f64::from(working))).floor();
        longest = longest.max(lag);
        if second % 5 == 0 {
            run.look(load(lag, working));
        }
        at_work.push(run.replicas());
        run.now += 1;
    }
    longest
}

#[test]
fn burst_brings_pods_within_thirty_seconds_and_they_go_again() {
    let mut run = Run::new(spec(1, 8), 1);
    let longest = play(
        &mut run,
        2400,
        |second| if second < 60 { 1500.0 } else { 20.0 },
    );
    let (first, _) = run.changes[0];
    assert!(first <= 30, "{:?}", run.changes);
    assert!(longest < 120.0, "{longest}");
    assert_eq!(run.replicas(), 1, "{:?}", run.changes);
}

#[test]
fn steady_load_is_tried_with_fewer_pods_ever_more_rarely() {
    let mut run = Run::new(spec(1, 8), 4);
    let longest = play(&mut run, 8 * 3600, |_| 350.0);
    assert!(longest < 60.0, "{longest}");
    // Each trial is one step in and one out, or two.
    assert!(run.changes.len() <= 30, "{:?}", run.changes);
    let last: Vec<i64> = run
        .changes
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| *at > 4 * 3600)
        .collect();
    assert!(last.len() <= 12, "{last:?}");
}

proptest! {
    /// A load that swings within ten minutes makes no more changes than one way and, at most, one trial.
    #[test]
    fn swinging_loads_do_not_make_pods_come_and_go(
        period in 20_i64..240,
        low in 10.0_f64..200.0,
        high in 300.0_f64..700.0,
        pods in 1_i32..8,
    ) {
        let mut run = Run::new(spec(1, 8), pods);
        play(&mut run, 600, |second| if (second / period) % 2 == 0 { high } else { low });
        let directions: Vec<bool> = run
            .changes
            .iter()
            .scan(pods, |before, (_, now)| {
                let out = *now > *before;
                *before = *now;
                Some(out)
            })
            .collect();
        let turns = directions.windows(2).filter(|two| two[0] != two[1]).count();
        prop_assert!(turns <= 2, "{:?}", run.changes);
    }
}
