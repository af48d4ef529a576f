//! Steps that make a database ready for a listener, and what became of each.

use std::fmt;

/// Something that has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is, as `publication observer`.
    pub what: String,
    /// What became of it.
    pub outcome: StepOutcome,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It was there already.
    There,
    /// This statement made it.
    Done(String),
    /// This statement would make it.
    Planned(String),
    /// It is missing.
    Failed(StepFailure),
}

/// Why something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// Why, in a word, as `TableNotTracked`.
    pub reason: &'static str,
    /// Why, for people.
    pub why: String,
    /// The statement that makes it, for somebody who may run it.
    pub sql: Option<String>,
}

impl Step {
    /// A step with its outcome.
    pub(crate) fn new(what: impl Into<String>, outcome: StepOutcome) -> Self {
        Self {
            what: what.into(),
            outcome,
        }
    }

    /// Returns why it is missing, if it is.
    #[must_use]
    pub const fn failure(&self) -> Option<&StepFailure> {
        match &self.outcome {
            StepOutcome::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sql {
            Some(sql) => write!(f, "{}: have its owner run {sql};", self.why),
            None => f.write_str(&self.why),
        }
    }
}
