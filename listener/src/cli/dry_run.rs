//! `replay --dry-run`: what a replay would deliver, and why not the rest.

use std::collections::BTreeMap;

use observer_listener::dead_letters::replay::ReplaySelection;
use observer_listener::history::past::{self, PastEvent};
use observer_listener::matching::RuleMatch;
use observer_listener::observers::Observers;
use serde::Serialize;
use sqlx::PgPool;

use super::CliError;
use super::output::{OutputFormat, counted, say};
use super::table;
use super::terminal::Progress;

/// Number of events in memory.
const PAGE: u64 = 500;

/// Maximum number of reasons that are counted apart.
const MAX_REASONS: usize = 100;

/// Reason of events beyond those.
const OTHER_REASON: &str = "other parts of the condition are false";

/// What a replay would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DryRun {
    observer: String,
    entity: String,
    /// Number of events of the selection.
    events: u64,
    /// Number of evaluated events, the newest ones.
    evaluated: u64,
    /// Number of evaluated events that the observer matches.
    delivered: u64,
    /// Number of their deliveries that would be requested.
    deliveries: u64,
    /// Number of their deliveries that would be skipped, since they are dead letters or requested already.
    skipped: u64,
    /// The other events, by reason, the most frequent one first.
    not_delivered: Vec<Reason>,
}

/// Why events would not be delivered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reason {
    #[serde(rename = "reason")]
    text: String,
    /// Whether the condition fails on them, so that they become dead letters.
    dead_letter: bool,
    events: u64,
    /// Id of the newest of them.
    example: String,
}

/// Evaluates the newest events of a selection, at most `limit`, and prints what would become of them. `all`
/// is the number of events.
pub(super) async fn print(
    pool: &PgPool,
    observers: &Observers,
    selection: &ReplaySelection,
    (all, limit): (u64, u64),
    output: OutputFormat,
) -> Result<(), CliError> {
    let result = evaluate(pool, observers, selection, (all, limit)).await?;
    match output {
        OutputFormat::Json => say!("{}", serde_json::to_string_pretty(&result)?),
        OutputFormat::Table => result.print(),
    }
}

async fn evaluate(
    pool: &PgPool,
    observers: &Observers,
    selection: &ReplaySelection,
    (all, limit): (u64, u64),
) -> Result<DryRun, CliError> {
    let mut result = DryRun {
        observer: selection.observer.clone(),
        entity: selection.entity.clone(),
        events: all,
        evaluated: 0,
        delivered: 0,
        deliveries: 0,
        skipped: 0,
        not_delivered: Vec::new(),
    };
    let progress = Progress::new(("event", "events"), Some(all.min(limit)));
    let actions = selection.actions.len() as u64;
    let mut reasons = Reasons::default();
    let mut before = i64::MAX;
    while result.evaluated < limit {
        let most = (limit - result.evaluated).min(PAGE);
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let page = past::newest(pool, selection, before, most).await?;
        let Some(last) = page.last() else { break };
        before = last.event.log_id;
        result.evaluated += page.len() as u64;
        for past in &page {
            if reasons.add(observers, &selection.observer, past) {
                result.delivered += 1;
                result.skipped += past.kept;
                result.deliveries += actions.saturating_sub(past.kept);
            }
        }
        progress.show(result.evaluated, " evaluated");
    }
    drop(progress);
    result.events = result.events.max(result.evaluated);
    result.not_delivered = reasons.sorted();
    Ok(result)
}

/// Events that would not be delivered, by reason, and by whether the condition fails on them.
#[derive(Default)]
struct Reasons(BTreeMap<(String, bool), (u64, String)>);

impl Reasons {
    /// Evaluates an event; adds why it would not be delivered. Returns whether it would.
    fn add(&mut self, observers: &Observers, observer: &str, past: &PastEvent) -> bool {
        let event = &past.event;
        let key = match observers.decide(event, observer) {
            Some(RuleMatch::Match) => return true,
            Some(RuleMatch::Failed(failure)) => (failure.message, true),
            None => {
                let mut rules = observers.of_entity(&event.entity);
                let rule = rules.find(|(name, ..)| *name == observer);
                let why = rule.and_then(|(_, rule, _)| rule.explain(event));
                (why.unwrap_or_else(|| OTHER_REASON.to_owned()), false)
            }
        };
        let is_known = self.0.contains_key(&key);
        let key = if is_known || self.0.len() < MAX_REASONS {
            key
        } else {
            (OTHER_REASON.to_owned(), key.1)
        };
        let new = || (0, event.id.clone());
        self.0.entry(key).or_insert_with(new).0 += 1;
        false
    }

    fn sorted(self) -> Vec<Reason> {
        let reasons = self.0.into_iter();
        let reasons = reasons.map(|((text, dead_letter), (events, example))| Reason {
            text,
            dead_letter,
            events,
            example,
        });
        let mut reasons: Vec<Reason> = reasons.collect();
        reasons.sort_by_key(|one| std::cmp::Reverse(one.events));
        reasons
    }
}

impl DryRun {
    fn print(&self) -> Result<(), CliError> {
        say!(
            "{} of {} would be evaluated again",
            counted(self.events, "event", "events"),
            self.entity
        )?;
        let of = if self.evaluated < self.events {
            say!(
                "of these, the newest {} were evaluated for this; --limit sets how many",
                self.evaluated
            )?;
            " of those"
        } else {
            ""
        };
        say!(
            "{}{of} would be delivered: {}{}",
            counted(self.delivered, "event", "events"),
            counted(self.deliveries, "delivery", "deliveries"),
            match self.skipped {
                0 => String::new(),
                skipped =>
                    format!(", without {skipped} that are dead letters or requested already"),
            }
        )?;
        if self.not_delivered.is_empty() {
            return Ok(());
        }
        let others = self.evaluated.saturating_sub(self.delivered);
        say!("{}{of} would not:", counted(others, "event", "events"))?;
        let rows = self.not_delivered.iter().map(|one| {
            let prefix = if one.dead_letter {
                "fails, and becomes a dead letter: "
            } else {
                ""
            };
            [
                format!("  {}", one.events),
                one.example.clone(),
                table::one_line(&format!("{prefix}{}", one.text)),
            ]
        });
        let rows: Vec<[String; 3]> = rows.collect();
        table::print(["  EVENTS", "NEWEST", "REASON"], &rows)
    }
}
