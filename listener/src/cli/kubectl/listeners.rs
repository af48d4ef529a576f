//! `kubectl observers status`: the listeners of a namespace as their resources tell, without a pod.

use chrono::Utc;
use crds::duration::HumanDuration;
use crds::v1alpha1::ObserverListener;
use kube::ResourceExt;
use serde::Serialize;

use crate::cli::CliError;
use crate::cli::table::{formatted, one_line};

/// Rounds an age to its two largest parts at most, as `5d3h`.
fn age(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => HumanDuration::from_secs(seconds).to_string(),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) if days < 10 => format!("{days}d{hours}h"),
        (days, ..) => format!("{days}d"),
    }
}

/// Returns the lines of a table of listeners; `wide` ones say why a listener is not ready.
pub(super) fn table(
    listeners: &[ObserverListener],
    with_namespace: bool,
    wide: bool,
) -> Vec<String> {
    let now = Utc::now().timestamp();
    let rows: Vec<[String; 11]> = listeners.iter().map(|one| row(one, now)).collect();
    let head = [
        "NAMESPACE",
        "NAME",
        "READY",
        "REASON",
        "PODS",
        "OBSERVERS",
        "LAG",
        "BACKLOG",
        "BREAKERS",
        "AGE",
        "MESSAGE",
    ];
    let skipped = usize::from(!with_namespace);
    match (skipped, wide) {
        (0, true) => formatted(head, &rows),
        (0, false) => formatted(part::<10>(&head, 0), &parts::<10>(&rows, 0)),
        (_, true) => formatted(part::<10>(&head, 1), &parts::<10>(&rows, 1)),
        (_, false) => formatted(part::<9>(&head, 1), &parts::<9>(&rows, 1)),
    }
}

fn part<'a, const N: usize>(cells: &[&'a str; 11], from: usize) -> [&'a str; N] {
    std::array::from_fn(|n| cells[n + from])
}

fn parts<const N: usize>(rows: &[[String; 11]], from: usize) -> Vec<[String; N]> {
    let part = |row: &[String; 11]| std::array::from_fn(|n| row[n + from].clone());
    rows.iter().map(part).collect()
}

fn row(listener: &ObserverListener, now: i64) -> [String; 11] {
    let status = listener.status.as_ref();
    let conditions = || status.into_iter().flat_map(|status| &status.conditions);
    let ready = conditions().find(|one| one.type_ == "Ready");
    // A listener may be ready while something of it is not as it should be.
    let wrong = conditions().find(|one| {
        let expected = if matches!(one.type_.as_str(), "Ready" | "Accepted") {
            "True"
        } else {
            "False"
        };
        one.status != expected
    });
    let told = wrong.or(ready);
    let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let created = listener.creation_timestamp().map(|at| at.0.as_second());
    [
        listener.namespace().unwrap_or_default(),
        listener.name_any(),
        ready.map_or("Unknown", |one| &one.status).to_owned(),
        text(told.map(|one| one_line(&one.reason))),
        format!(
            "{}/{}",
            status.map_or(0, |one| one.ready_replicas),
            status
                .and_then(|one| one.autoscaling.as_ref())
                .map_or(listener.spec.replicas, |one| one.desired_replicas)
        ),
        text(status.map(|one| format!("{}/{}", one.observers.programmed, one.observers.selected))),
        text(status.and_then(|one| one.lag.clone())),
        text(status.map(|one| one.backlog.to_string())),
        text(status.map(|one| one.open_circuit_breakers.len().to_string())),
        text(created.map(|at| age(now - at))),
        text(told.map(|one| one_line(&one.message))),
    ]
}

/// Listeners as kubectl writes a list of resources.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    api_version: &'static str,
    kind: &'static str,
    items: &'a [ObserverListener],
}

/// Writes listeners as kubectl would.
pub(super) fn document(listeners: &[ObserverListener], as_yaml: bool) -> Result<String, CliError> {
    let list = List {
        api_version: "v1",
        kind: "List",
        items: listeners,
    };
    Ok(if as_yaml {
        serde_yaml_ng::to_string(&list)?.trim_end().to_owned()
    } else {
        serde_json::to_string_pretty(&list)?
    })
}
