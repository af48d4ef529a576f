//! Validation of formats: the rules that their schema cannot say.

use super::webhook::content_type;
use crate::config::MessageFormat;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::default_content_type;
use crate::validation::context::ValidationContext;

/// Validates that an action at `at` has a format or a template, which is the field `name`.
pub(super) fn check_format(
    at: &str,
    format: MessageFormat,
    (name, template): (&str, Option<&String>),
    context: &mut ValidationContext<'_>,
) {
    if format != MessageFormat::Event && template.is_some() {
        context.error(
            &field(at, "format"),
            format!("says what is sent, and so does `{name}`; leave out one of them"),
        );
    }
}

/// Validates a content type and returns what is sent: that of the format, unless the format leaves it to the
/// user.
pub(super) fn format_content_type(
    at: &str,
    format: MessageFormat,
    (text, is_batch): (&str, bool),
    context: &mut ValidationContext<'_>,
) -> String {
    let at = field(at, "contentType");
    let given = content_type(&at, text, context);
    if format == MessageFormat::Event {
        return given;
    }
    if given != default_content_type() {
        context.error(&at, "is decided by `format`; leave it out");
    }
    format.content_type(is_batch).to_owned()
}
