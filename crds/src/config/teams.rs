//! Messages to Microsoft Teams, after validation.

use super::Redacted;

/// A message to Microsoft Teams.
#[derive(Clone, Debug)]
pub struct TeamsConfig {
    /// The workflow, `http` or `https`.
    pub url: Redacted,
    /// What it shows.
    pub content: TeamsContent,
}

/// What a message to Microsoft Teams shows.
#[derive(Clone, Debug)]
pub enum TeamsContent {
    /// A summary of the event.
    Summary,
    /// Template of a text.
    Text(String),
    /// Template of an Adaptive Card, a JSON object.
    Card(String),
}
