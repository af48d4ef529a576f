//! Templates of an action as they are configured.

use crds::config::is_json;

/// Template of an action, and the field that holds it.
pub(crate) struct TemplateSource<'a> {
    /// Path of the field within the action, as in `webhook.body`.
    pub(crate) field: String,
    pub(crate) source: &'a str,
    pub(crate) output: TemplateOutput,
}

/// What a template is to come out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TemplateOutput {
    /// Any text.
    Text,
    /// JSON.
    Json,
    /// JSON array of Slack's blocks.
    SlackBlocks,
    /// JSON object that is an Adaptive Card.
    AdaptiveCard,
}

impl TemplateOutput {
    /// What a content type asks for.
    pub(crate) fn of_content_type(content_type: &str) -> Self {
        if is_json(content_type) {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// Collects the templates of an action.
#[derive(Default)]
pub(crate) struct TemplateSources<'a>(Vec<TemplateSource<'a>>);

impl<'a> TemplateSources<'a> {
    /// Adds the template in a field, if there is one.
    pub(crate) fn add(
        mut self,
        field: impl Into<String>,
        source: impl Into<Option<&'a String>>,
        output: TemplateOutput,
    ) -> Self {
        if let Some(source) = source.into() {
            self.0.push(TemplateSource {
                field: field.into(),
                source,
                output,
            });
        }
        self
    }

    /// Adds the template of a text in a field, if there is one.
    pub(crate) fn text(
        self,
        field: impl Into<String>,
        source: impl Into<Option<&'a String>>,
    ) -> Self {
        self.add(field, source, TemplateOutput::Text)
    }

    /// Adds the templates of texts in a list.
    pub(crate) fn texts(mut self, field: &str, sources: &'a [String]) -> Self {
        for (n, source) in sources.iter().enumerate() {
            self = self.text(format!("{field}[{n}]"), source);
        }
        self
    }

    /// Returns all that were added.
    pub(crate) fn into_vec(self) -> Vec<TemplateSource<'a>> {
        self.0
    }
}
