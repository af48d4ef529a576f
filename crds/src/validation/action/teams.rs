//! Validation of a Teams message: the rules that its schema cannot say.

use crate::config::{ServerUrl, TeamsConfig, TeamsContent};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::Teams;
use crate::validation::context::ValidationContext;
use crate::validation::url::url;

/// Validates a Teams message and returns its configuration, with placeholders for what it reports.
pub(super) fn check(at: &str, teams: &Teams, context: &mut ValidationContext<'_>) -> TeamsConfig {
    let shown = match (&teams.text, &teams.card) {
        (None, None) => TeamsContent::Summary,
        (Some(text), None) => TeamsContent::Text(text.clone()),
        (text, Some(card)) => {
            if text.is_some() {
                context.error(
                    &field(at, "card"),
                    "is given beside `text`; keep one of them, as a card holds its own text",
                );
            }
            TeamsContent::Card(card.clone())
        }
    };
    TeamsConfig {
        url: url(&field(at, "url"), &teams.url, ServerUrl::HTTP, context),
        content: shown,
    }
}
