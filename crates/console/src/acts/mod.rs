//! What can be changed from the console, in one table.
//!
//! An act concerns one thing by its id, or all that match filters, and says which of the two: what is left out
//! by accident never means all. Links of the pages lead to [`crate::pages::acts`], which says what an act will
//! do before it does it through the API.

mod body;
mod wanted;

use maud::{Markup, html};
use serde_json::Value;

use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::number;
use crate::visit::Visit;
pub(crate) use body::FILTERS_OF_BACKFILL;
pub(crate) use wanted::Wanted;

/// A change that people make.
#[derive(Debug)]
pub(crate) struct Act {
    /// Its name in paths.
    pub(crate) name: &'static str,
    /// What it does, in a word or two.
    pub(crate) verb: &'static str,
    /// To what: one, and many.
    pub(crate) nouns: (&'static str, &'static str),
    /// Where its things are listed.
    pub(crate) section: Section,
    /// Path of the API.
    pub(crate) path: &'static str,
    /// Fields that it takes beside `id` and `all`.
    pub(crate) fields: &'static [&'static str],
    /// Whether those who see one tenant alone may do it.
    tenants: bool,
    /// What is to be typed before it is done to all without any filter.
    word: Option<&'static str>,
    /// What happens.
    pub(crate) effect: &'static str,
    /// Whether that can be undone.
    pub(crate) undo: &'static str,
    /// What is said once it is done to these.
    done: fn(&str) -> String,
    /// What it is done to, which is looked at before.
    pub(crate) target: Target,
    /// Makes the body of the request.
    body: fn(&Wanted) -> Result<Value, String>,
}

/// What an act is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Dead letters.
    DeadLetters,
    /// Jobs that wait for their next attempt.
    ScheduledJobs,
    /// Jobs that are not completed.
    Jobs,
    /// A backfill.
    Backfill,
    /// A table whose rows are read.
    Table,
    /// Results in caches.
    Caches,
    /// Circuit breakers.
    Breakers,
}

const DEAD_LETTER_FILTERS: &[&str] = &[
    "observer", "action", "kind", "entity", "key", "tenant", "since", "until",
];

const JOB_FILTERS: &[&str] = &["observer", "action", "tenant"];

/// Delivers dead letters again.
pub(crate) static REDRIVE: Act = Act {
    name: "redrive-dead-letters",
    verb: "Redrive",
    nouns: ("dead letter", "dead letters"),
    section: Section::DeadLetters,
    path: "/dead-letters/redrive",
    fields: DEAD_LETTER_FILTERS,
    tenants: true,
    word: None,
    effect: "The listener delivers them again, with the ids that they had. Where a redrive is requested already, \
             nothing changes.",
    undo: "It cannot be undone. What fails again stays a dead letter, with one more attempt in its history.",
    done: |what| format!("A redrive of {what} is requested. What is delivered leaves this list."),
    target: Target::DeadLetters,
    body: body::dead_letters,
};

/// Deletes dead letters.
pub(crate) static DROP: Act = Act {
    name: "drop-dead-letters",
    verb: "Drop",
    word: Some("drop"),
    path: "/dead-letters/drop",
    effect: "The listener deletes them with their events and their histories. They are never delivered.",
    undo: "It cannot be undone.",
    done: |what| format!("{what} dropped."),
    ..REDRIVE
};

/// Makes scheduled jobs due.
pub(crate) static RETRY: Act = Act {
    name: "retry-jobs",
    verb: "Retry",
    nouns: ("job", "jobs"),
    section: Section::Jobs,
    path: "/jobs/retry",
    fields: JOB_FILTERS,
    tenants: true,
    word: None,
    effect: "Scheduled jobs become available now instead of at the time of their next attempt. Other jobs are left \
             as they are.",
    undo: "It cannot be undone. An attempt that fails counts as any other.",
    done: |what| format!("{what} made available now."),
    target: Target::ScheduledJobs,
    body: body::jobs,
};

/// Deletes jobs.
pub(crate) static CANCEL: Act = Act {
    name: "cancel-jobs",
    verb: "Cancel",
    word: Some("cancel"),
    path: "/jobs/cancel",
    effect: "The listener deletes them, and no dead letter is left of them. What runs is cut off; an attempt that \
             is in flight may still arrive.",
    undo: "It cannot be undone.",
    done: |what| format!("{what} cancelled."),
    target: Target::Jobs,
    ..RETRY
};

/// Starts a backfill.
pub(crate) static START_BACKFILL: Act = Act {
    name: "start-backfill",
    verb: "Start",
    nouns: ("backfill", "backfills"),
    section: Section::Backfills,
    path: "/backfills",
    fields: &[
        "entity",
        "observer",
        "rate",
        "column1",
        "operator1",
        "value1",
        "column2",
        "operator2",
        "value2",
        "column3",
        "operator3",
        "value3",
    ],
    tenants: false,
    word: None,
    effect: "The rows that the table has are sent as events of operation Read, beside its changes. How many there \
             are is shown once it has begun.",
    undo: "It can be cancelled at any time; what it has read by then is still delivered.",
    done: |_| "The backfill is requested. It begins within seconds.".to_owned(),
    target: Target::Table,
    body: body::new_backfill,
};

/// Cancels a backfill.
pub(crate) static CANCEL_BACKFILL: Act = Act {
    name: "cancel-backfill",
    verb: "Cancel",
    path: "/backfills/cancel",
    fields: &[],
    effect: "No more rows are read. What it has read by now is still delivered.",
    undo: "It can be resumed later, and goes on after its last row.",
    done: |_| "The backfill is cancelled.".to_owned(),
    target: Target::Backfill,
    body: body::backfill,
    ..START_BACKFILL
};

/// Resumes a backfill.
pub(crate) static RESUME_BACKFILL: Act = Act {
    name: "resume-backfill",
    verb: "Resume",
    path: "/backfills/resume",
    effect: "It goes on after the last row that it has read.",
    undo: "It can be cancelled again.",
    done: |_| "The backfill is resumed. It goes on within seconds.".to_owned(),
    ..CANCEL_BACKFILL
};

/// Drops results from caches.
pub(crate) static INVALIDATE: Act = Act {
    name: "invalidate-caches",
    verb: "Invalidate",
    nouns: ("cached result", "cached results"),
    section: Section::Caches,
    path: "/cache/invalidate",
    fields: &["observer", "name", "entity", "key"],
    tenants: false,
    word: None,
    effect: "All processes drop these results, and look them up again when an event needs them. What is looked up, \
             answers more requests until the caches have filled again.",
    undo: "It cannot be undone.",
    done: |_| {
        "The results are dropped. All processes learn of it within about a second.".to_owned()
    },
    target: Target::Caches,
    body: body::caches,
};

/// Closes circuit breakers.
pub(crate) static RESET: Act = Act {
    name: "reset-breakers",
    verb: "Close",
    nouns: ("circuit breaker", "circuit breakers"),
    section: Section::Observers,
    path: "/breakers/reset",
    fields: &["observer", "action"],
    tenants: false,
    word: None,
    effect: "They are closed in all processes, and deliveries that wait for them go out at once. Do it when the \
             receiver answers again.",
    undo: "It cannot be undone. A breaker opens again if attempts keep failing.",
    done: |what| format!("{what} closed, counted apart in each process."),
    target: Target::Breakers,
    body: body::breakers,
};

static ACTS: [&Act; 9] = [
    &REDRIVE,
    &DROP,
    &RETRY,
    &CANCEL,
    &START_BACKFILL,
    &CANCEL_BACKFILL,
    &RESUME_BACKFILL,
    &INVALIDATE,
    &RESET,
];

/// Returns the act of a name.
pub(crate) fn find(name: &str) -> Option<&'static Act> {
    ACTS.into_iter().find(|act| act.name == name)
}

impl Act {
    /// Returns its path.
    pub(crate) fn page(&self) -> String {
        format!("{}{}", path::ACTS, self.name)
    }

    /// Returns a number of its things, as `2 jobs`.
    pub(crate) fn of(&self, count: u64) -> String {
        let noun = if count == 1 {
            self.nouns.0
        } else {
            self.nouns.1
        };
        format!("{} {noun}", number(count))
    }

    /// Returns whether it destroys something.
    pub(crate) const fn is_final(&self) -> bool {
        self.word.is_some()
    }

    /// Returns whether somebody may do it, so that they see its button.
    pub(crate) fn is_for(&self, visit: &Visit) -> bool {
        visit.caller.operate && (self.tenants || visit.caller.tenant.is_none())
    }

    /// Returns the button that leads to it, for one thing; nothing for those who may not do it.
    pub(crate) fn button(&self, visit: &Visit, fields: &Params, label: &str) -> Markup {
        let class = if self.is_final() {
            "button danger"
        } else {
            "button"
        };
        html! {
            @if self.is_for(visit) {
                // Keeps the focus where a part of a page is renewed.
                @let id = fields.get("id").map(|id| format!("{}-{id}", self.name));
                a id=[id] class=(class) href=(fields.link(&self.page())) { (label) }
            }
        }
    }

    /// Returns the button for one thing.
    pub(crate) fn one(&self, visit: &Visit, id: &str) -> Markup {
        let label = format!("{} this {}", self.verb, self.nouns.0);
        self.button(visit, &Params::default().and("id", id), &label)
    }

    /// Returns the button for all that match the filters of a list.
    pub(crate) fn all(&self, visit: &Visit, list: &Params) -> Markup {
        let filters = list.only(self.fields);
        let which = if filters.pairs().next().is_some() {
            "all that match"
        } else {
            "all"
        };
        let label = format!("{} {which}", self.verb);
        self.button(visit, &filters.and("all", "true"), &label)
    }
}

/// Parameters that say what was done, of which lists know nothing.
pub(crate) const OF_NOTICE: [&str; 3] = ["done", "count", "unanswered"];

/// Says what was done, where a page was reached by that. Only a known name and numbers come from its parameters.
pub(crate) fn notice(query: &Params) -> Markup {
    let act = query.get("done").and_then(find);
    let digits = |name| query.get(name).and_then(|text| text.parse::<u64>().ok());
    let unanswered = digits("unanswered").filter(|count| *count > 0);
    html! {
        @if let Some(act) = act {
            p.done role="status" {
                @match digits("count") {
                    Some(0) => { "Nothing was changed: it was done already, or nothing matched any more." }
                    Some(count) => { ((act.done)(&act.of(count))) }
                    None => { ((act.done)(act.nouns.1)) }
                }
                @if let Some(count) = unanswered {
                    " " (number(count)) @if count == 1 { " more process has" } @else { " more processes have" }
                    " not answered within 5 s, and may have ended."
                }
            }
        }
    }
}

/// Returns the word for a field.
pub(crate) fn label(field: &str) -> &str {
    match field {
        "observer" => "Observer",
        "action" => "Action",
        "kind" => "Kind of failure",
        "entity" => "Entity",
        "key" => "Key",
        "tenant" => "Tenant",
        "since" => "Given up since",
        "until" => "Given up before",
        "name" => "Lookup or action",
        "rate" => "Most rows per second",
        other => other,
    }
}
