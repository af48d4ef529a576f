//! The way of deliveries: where they are, and their attempts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use crate::api::segment;
use crate::routes::path;
use crate::value::{cell, number, text, time};

/// What one observer made of an event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObserverEntry {
    /// `namespace/name`.
    pub(super) observer: String,
    /// Why the event does not concern it.
    pub(super) not_matched: Option<String>,
    /// Its deliveries.
    #[serde(default)]
    pub(super) deliveries: Vec<Delivery>,
}

/// One delivery.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivery {
    action: String,
    #[serde(rename = "delivery")]
    id: String,
    replay: Option<String>,
    state: State,
    #[serde(default)]
    attempts: u64,
    #[serde(default)]
    history: Vec<Attempt>,
    due_at: Option<DateTime<Utc>>,
    job: Option<String>,
    dead_letter: Option<u64>,
    #[serde(default)]
    details_lost: bool,
}

/// One attempt of a delivery.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    at: DateTime<Utc>,
    took_ms: Option<u64>,
    status: Option<u16>,
    kind: Option<String>,
    error: Option<String>,
}

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Pending,
    Queued,
    Retrying,
    Completed,
    Dropped,
    DeadLetter,
    Delivered,
}

/// Names of states, as filters and facets have them, with the words for them.
pub(super) const OUTCOMES: [(&str, &str); 7] = [
    ("pending", State::Pending.word()),
    ("queued", State::Queued.word()),
    ("retrying", State::Retrying.word()),
    ("completed", State::Completed.word()),
    ("dropped", State::Dropped.word()),
    ("deadLetter", State::DeadLetter.word()),
    ("delivered", State::Delivered.word()),
];

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Dropped => "dropped",
            Self::DeadLetter => "dead letter",
            Self::Delivered => "delivered",
        }
    }

    /// Returns whether something is still to come.
    const fn is_waiting(self) -> bool {
        matches!(self, Self::Pending | Self::Queued | Self::Retrying)
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Delivered => "good",
            Self::Dropped | Self::DeadLetter => "bad",
            Self::Retrying => "warn",
            Self::Pending | Self::Queued | Self::Completed => "",
        }
    }
}

impl Delivery {
    /// Returns whether something is still to come.
    pub(super) const fn is_waiting(&self) -> bool {
        self.state.is_waiting()
    }
}

/// Returns how many deliveries are where.
pub(super) fn summary(observers: &[ObserverEntry]) -> Markup {
    let mut states: BTreeMap<State, u64> = BTreeMap::new();
    for delivery in observers.iter().flat_map(|one| &one.deliveries) {
        *states.entry(delivery.state).or_default() += 1;
    }
    html! {
        @if states.is_empty() { span.none { "no delivery" } }
        @for (state, count) in states {
            span class={ "tag " (state.class()) } { (number(count)) " " (state.word()) } " "
        }
    }
}

/// Tells what became of a delivery, as a step of its event's way.
pub(super) fn step(observer: &str, delivery: &Delivery, now: DateTime<Utc>) -> Markup {
    let listed = delivery.history.len() as u64;
    html! {
        li class=(delivery.state.class()) {
            h3 {
                (text(observer)) " / " (text(&delivery.action)) ": "
                span class={ "tag " (delivery.state.class()) } { (delivery.state.word()) }
            }
            p.quiet { "Delivery " code { (text(&delivery.id)) }
                @if let Some(replay) = &delivery.replay { ", part of the replay " code { (text(replay)) } }
            }
            @if delivery.attempts != listed {
                p { (number(delivery.attempts)) " attempts are known, and details of " (number(listed)) ":" }
            }
            @if !delivery.history.is_empty() {
                ol { @for one in &delivery.history { (attempt(one)) } }
            }
            p { (end(delivery, now)) }
        }
    }
}

fn attempt(attempt: &Attempt) -> Markup {
    html! {
        li {
            (time(attempt.at)) " "
            @match (&attempt.error, attempt.kind.as_deref()) {
                (Some(error), kind) => {
                    span.tag.bad { "failed" @if let Some(kind) = kind { ": " (cell(kind)) } }
                    (facts(attempt)) div { (text(error)) }
                }
                (None, Some(kind)) => { span.tag.good { "over" } ", without sending anything: " (cell(kind)) (facts(attempt)) }
                (None, None) => { span.tag.good { "accepted" } (facts(attempt)) }
            }
        }
    }
}

fn facts(attempt: &Attempt) -> Markup {
    html! {
        @if let Some(status) = attempt.status { ", HTTP " (status) }
        @match attempt.took_ms {
            Some(took) => { ", took " (number(took)) " ms" }
            None => { ", not sent" }
        }
    }
}

/// Returns how a delivery ended, or what comes next.
fn end(delivery: &Delivery, now: DateTime<Utc>) -> Markup {
    let due = delivery.due_at.filter(|due| *due > now);
    let job = delivery.job.as_ref().filter(|_| delivery.is_waiting());
    html! {
        @match delivery.state {
            State::Pending => { "It was not attempted yet. The listener does so when it gets there." }
            State::Queued => { "It waits in the job queue: for its first attempt, or behind another one of its key." }
            State::Retrying => { "It failed so far, and is tried again"
                @match due { Some(due) => { ": the next attempt is due at " (time(due)) "." } None => { " now." } } }
            State::Completed => { "It is over, and nobody reported how: it was delivered, cancelled or dropped." }
            State::Dropped => { "It was given up, and not kept: its action says " code { "onFailure: Drop" } "." }
            State::DeadLetter => { "It was given up, and is kept as a dead letter. Mend the receiver, then redrive it. " }
            State::Delivered => { "The receiver accepted it." }
        }
        @if delivery.details_lost { " Its attempts are not known: a process ended before it could report them." }
        @if let Some(job) = job { " " a href={ (path::JOB) (segment(job)) } { "Its job" } }
        @if let Some(letter) = delivery.dead_letter.filter(|_| delivery.state == State::DeadLetter) {
            a href={ (path::DEAD_LETTER) (letter) } { "Dead letter " (letter) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::{Value, json};

    use super::super::testing::in_order;
    use super::*;

    fn told(delivery: Value) -> String {
        let delivery: Delivery = serde_json::from_value(delivery).unwrap();
        let now = "2026-11-30T12:00:00Z".parse().unwrap();
        step("shop/<b>", &delivery, now).into_string()
    }

    #[test]
    fn each_end_says_what_comes_next() {
        let of = |state: &str| json!({"action": "post", "delivery": "a-1-b.c", "state": state, "job": "a-1-b.c/x", "deadLetter": 7});
        let job = "href=\"/console/jobs/a-1-b.c%2Fx\"";
        for (state, says, links) in [
            ("pending", "not attempted yet", true),
            ("queued", "waits in the job queue", true),
            ("retrying", "is tried again now.", true),
            ("completed", "nobody reported how", false),
            ("dropped", "onFailure: Drop", false),
            ("deadLetter", "href=\"/console/dead-letters/7\"", false),
            ("delivered", "The receiver accepted it", false),
        ] {
            let told = told(of(state));
            assert!(told.contains(says), "{state}: {told}");
            assert_eq!(told.contains(job), links, "{state}: {told}");
            assert_eq!(told.contains("dead-letters"), state == "deadLetter");
        }
        let mut later = of("retrying");
        later["dueAt"] = json!("2026-11-30T12:00:01Z");
        assert!(told(later).contains("due at <time datetime=\"2026-11-30T12:00:01"));
    }

    #[test]
    fn attempts_are_told_in_order_and_as_text() {
        let told = told(json!({
            "action": "p\u{202e}ost", "delivery": "d", "replay": "r1", "state": "delivered", "attempts": 1200,
            "history": [
                {"at": "2026-11-30T11:00:00Z", "tookMs": 31, "status": 503, "kind": "http", "error": "<script>\u{0}"},
                {"at": "2026-11-30T11:00:01Z", "kind": "circuitOpen", "error": "open"},
                {"at": "2026-11-30T11:00:02Z", "tookMs": 1, "status": 200},
                {"at": "2026-11-30T11:00:03Z", "tookMs": 0, "kind": "cached"},
            ],
        }));
        let expected = [
            "shop/&lt;b&gt;</bdi> / <bdi>p\\u{202e}ost",
            "replay <code><bdi>r1",
            "1,200 attempts are known, and details of 4:",
            "11:00:00.000</time> <span class=\"tag bad\">failed: <bdi>http</bdi></span>, HTTP 503, took 31 ms",
            "&lt;script&gt;\\u{0}",
            "circuitOpen</bdi></span>, not sent",
            "accepted</span>, HTTP 200, took 1 ms",
            "without sending anything: <bdi>cached</bdi>, took 0 ms",
            "The receiver accepted it.",
        ];
        in_order(&told, &expected);
    }

    #[test]
    fn summary_counts_deliveries_by_state() {
        let one = |state: &str| json!({"action": "a", "delivery": "d", "state": state});
        let observers = json!([
            {"observer": "a/b", "deliveries": [one("delivered"), one("deadLetter")]},
            {"observer": "a/c", "deliveries": [one("delivered")]},
            {"observer": "a/d", "notMatched": "the condition is false"},
        ]);
        let observers: Vec<ObserverEntry> = serde_json::from_value(observers).unwrap();
        let shown = summary(&observers).into_string();
        assert_eq!(
            shown,
            "<span class=\"tag bad\">1 dead letter</span> <span class=\"tag good\">2 delivered</span> "
        );
        assert!(
            summary(&observers[2..])
                .into_string()
                .contains("no delivery")
        );
    }

    #[test]
    fn names_of_outcomes_are_those_of_the_api() {
        for (name, word) in OUTCOMES {
            let state: State = serde_json::from_value(json!(name)).unwrap();
            assert_eq!(state.word(), word);
        }
    }
}
