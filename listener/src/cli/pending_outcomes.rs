//! Outcomes of events that `tail` has seen, until they are known.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use clap::ValueEnum;
use futures::stream::{self, StreamExt};
use observer_listener::delivery::event::Event;
use observer_listener::history::outcome::{
    DeliveryOutcome, DeliveryState, ObserverOutcome, OutcomeError,
};
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::Instant;

use super::CliError;
use super::event_text::of_delivery;
use super::event_view::DeliveryView;
use super::listener::{EventOutcome, OpenListener};
use super::output::{OutputFormat, say};
use super::table::one_line;
use super::tail::{TailFilter, print_event, print_line};

/// Maximum number of events whose outcomes are waited for. For another one, what is known of the oldest is
/// printed.
const MAX_PENDING: usize = 1000;

/// How long an outcome is waited for, after which what is known is printed.
const PATIENCE: Duration = Duration::from_mins(5);

/// Number of events that are looked at together.
const BATCH: usize = 32;

/// Number of events that are looked at at once.
const CONCURRENCY: usize = 3;

/// Time until the first look at an event.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Longest time between two looks at an event.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What became of an event by one observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutcomeArg {
    /// A delivery was accepted, or dropped after its attempts
    Delivered,
    /// A delivery was given up on
    DeadLetter,
    /// A delivery is not over after 5 minutes
    Pending,
    /// An observer of the entity does not match
    NotMatched,
}

impl OutcomeArg {
    const fn of(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Delivered | DeliveryState::DeliveredOrDropped => Self::Delivered,
            DeliveryState::DeadLetter => Self::DeadLetter,
            DeliveryState::Pending
            | DeliveryState::Queued
            | DeliveryState::Running
            | DeliveryState::RedriveRequested => Self::Pending,
        }
    }
}

/// Events whose outcomes are not printed yet.
pub(super) struct PendingOutcomes<'a> {
    pool: &'a PgPool,
    listener: &'a OpenListener,
    filter: &'a TailFilter,
    output: OutputFormat,
    /// The oldest first.
    events: VecDeque<PendingEvent>,
}

struct PendingEvent {
    event: Arc<Event>,
    since: Instant,
    next_look: Instant,
    pause: Duration,
    /// Whether the event itself is printed.
    is_printed: bool,
    /// Observers and actions whose outcomes are printed.
    told: BTreeSet<(String, Option<String>)>,
}

/// A line for programs: what became of an event by one observer or action.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(flatten)]
    news: News<'a>,
}

/// What is news of an event.
#[derive(Serialize)]
#[serde(untagged)]
enum News<'a> {
    #[serde(rename_all = "camelCase")]
    NotMatched {
        observer: &'a str,
        not_matched: &'a str,
    },
    Delivery(&'a DeliveryOutcome),
}

impl<'a> PendingOutcomes<'a> {
    pub(super) const fn new(
        pool: &'a PgPool,
        listener: &'a OpenListener,
        filter: &'a TailFilter,
        output: OutputFormat,
    ) -> Self {
        let events = VecDeque::new();
        Self {
            pool,
            listener,
            filter,
            output,
            events,
        }
    }

    /// Prints an event, unless its outcome decides about that, and waits for its outcome. If too many events
    /// wait, prints what is known of the oldest.
    pub(super) async fn add(&mut self, event: Arc<Event>) -> Result<(), CliError> {
        let is_printed = self.filter.outcomes.is_empty();
        if is_printed {
            print_event(&event, self.output)?;
        }
        let now = Instant::now();
        self.events.push_back(PendingEvent {
            event,
            since: now,
            next_look: now + FIRST_LOOK,
            pause: FIRST_LOOK,
            is_printed,
            told: BTreeSet::new(),
        });
        if self.events.len() <= MAX_PENDING {
            return Ok(());
        }
        let oldest: Vec<usize> = (0..BATCH).collect();
        for outcome in self.outcomes(&oldest).await {
            if let (Some(mut one), Ok(outcome)) = (self.events.pop_front(), outcome) {
                self.tell(&mut one, &outcome, true)?;
            }
        }
        Ok(())
    }

    /// Waits until it is time to look at some event; for ever while there is none.
    pub(super) async fn due(&self) {
        match self.events.iter().map(|one| one.next_look).min() {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Looks at the events whose time has come, at most [`BATCH`], and prints what is known now.
    pub(super) async fn look(&mut self) -> Result<(), CliError> {
        let now = Instant::now();
        let due: Vec<usize> = (0..self.events.len())
            .filter(|n| self.events.get(*n).is_some_and(|one| one.next_look <= now))
            .take(BATCH)
            .collect();
        let looked = self.outcomes(&due).await;
        // From the last to the first, since finished events are removed.
        for (n, outcome) in due.into_iter().zip(looked).rev() {
            let Some(mut one) = self.events.remove(n) else {
                continue;
            };
            let is_last = one.since.elapsed() >= PATIENCE;
            // While the database is away, which the reader tells, it is asked again.
            let is_over = match outcome {
                Ok(outcome) => self.tell(&mut one, &outcome, is_last)?,
                Err(_) => is_last,
            };
            if !is_over {
                one.pause = (one.pause * 2).min(LONGEST_PAUSE);
                one.next_look = Instant::now() + one.pause;
                self.events.insert(n, one);
            }
        }
        Ok(())
    }

    /// Returns what became of the events at these places.
    async fn outcomes(&self, places: &[usize]) -> Vec<Result<EventOutcome, OutcomeError>> {
        let events = places.iter().filter_map(|n| self.events.get(*n));
        let (listener, pool) = (self.listener, self.pool);
        stream::iter(events.map(|one| Arc::clone(&one.event)))
            .map(|event| async move { listener.outcome(pool, &event).await })
            .buffered(CONCURRENCY)
            .collect()
            .await
    }

    /// Prints what is known of an event and was not printed yet; all of it if this is the last look. Returns
    /// whether it is over.
    fn tell(
        &self,
        one: &mut PendingEvent,
        outcome: &EventOutcome,
        is_last: bool,
    ) -> Result<bool, CliError> {
        let mut is_over = true;
        for observer in self.chosen(outcome) {
            if observer.deliveries.is_empty() {
                if one.told.insert((observer.observer.clone(), None)) {
                    self.tell_not_matched(one, outcome, observer)?;
                }
                continue;
            }
            for delivery in &observer.deliveries {
                let kind = OutcomeArg::of(delivery.state);
                if kind == OutcomeArg::Pending && !is_last {
                    is_over = false;
                    continue;
                }
                let name = (delivery.observer.clone(), Some(delivery.action.clone()));
                if one.told.insert(name) && self.is_wanted(kind) {
                    self.print(one, News::Delivery(delivery))?;
                }
            }
        }
        Ok(is_over || is_last)
    }

    /// Returns the outcomes of the observers that are asked for.
    fn chosen<'o>(&self, outcome: &'o EventOutcome) -> impl Iterator<Item = &'o ObserverOutcome> {
        let observer = self.filter.observer.clone();
        let is_chosen = move |one: &&ObserverOutcome| {
            observer.as_ref().is_none_or(|name| *name == one.observer)
        };
        outcome.observers.iter().filter(is_chosen)
    }

    fn is_wanted(&self, kind: OutcomeArg) -> bool {
        let wanted = &self.filter.outcomes;
        wanted.is_empty() || wanted.contains(&kind)
    }

    /// Prints that an observer does not match: for programs always, for people where none does, or where they
    /// ask for it.
    fn tell_not_matched(
        &self,
        one: &mut PendingEvent,
        outcome: &EventOutcome,
        observer: &ObserverOutcome,
    ) -> Result<(), CliError> {
        let is_asked_for = self.filter.outcomes.contains(&OutcomeArg::NotMatched);
        let is_met = outcome
            .observers
            .iter()
            .any(|one| !one.deliveries.is_empty());
        let is_news = is_asked_for || matches!(self.output, OutputFormat::Json) || !is_met;
        match &observer.not_matched {
            Some(why) if is_news && self.is_wanted(OutcomeArg::NotMatched) => {
                let not_matched = News::NotMatched {
                    observer: &observer.observer,
                    not_matched: why,
                };
                self.print(one, not_matched)
            }
            _ => Ok(()),
        }
    }

    /// Prints a line, and the event before its first one.
    fn print(&self, one: &mut PendingEvent, news: News<'_>) -> Result<(), CliError> {
        if !std::mem::replace(&mut one.is_printed, true) {
            print_event(&one.event, self.output)?;
        }
        let id = &one.event.id;
        if let OutputFormat::Json = self.output {
            let kind = "outcome";
            return say!(
                "{}",
                serde_json::to_string(&OutcomeLine { kind, id, news })?
            );
        }
        let text = match news {
            News::NotMatched {
                observer,
                not_matched,
            } => format!("{observer}: not matched, {not_matched}"),
            News::Delivery(one) => format!(
                "{}/{}: {}",
                one.observer,
                one.action,
                of_delivery(&DeliveryView::stored(one))
            ),
        };
        print_line(Utc::now(), "outcome", id, &one_line(&text))
    }
}
