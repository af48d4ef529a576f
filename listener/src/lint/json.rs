//! Templates that never render as the JSON that they should be.

use serde_json::Value;

use crate::text::names::did_you_mean;

/// Kinds of blocks that Slack takes in messages. See <https://docs.slack.dev/reference/block-kit/blocks>.
const BLOCKS: [&str; 12] = [
    "actions",
    "context",
    "divider",
    "file",
    "header",
    "image",
    "input",
    "markdown",
    "rich_text",
    "section",
    "table",
    "video",
];

/// Returns why a template never renders as JSON, if that is certain.
pub(super) fn wrong(source: &str) -> Option<String> {
    read(source).and_then(Result::err)
}

/// Returns why a template never renders as blocks for Slack, if that is certain.
pub(super) fn wrong_blocks(source: &str) -> Option<String> {
    let blocks = match read(source)? {
        Err(message) => return Some(message),
        Ok(blocks) => blocks,
    };
    let Value::Array(blocks) = &blocks else {
        // It may be a value that is an array.
        let whole = !source.trim_start().starts_with("{{");
        return whole.then(|| "is no array: write [{\"type\": \"section\", ...}]".to_owned());
    };
    blocks.iter().enumerate().find_map(|(n, block)| {
        let block = block.as_object()?;
        let Some(kind) = block.get("type") else {
            return Some(format!(
                "block {} has no type: write {{\"type\": \"section\", ...}}",
                n + 1
            ));
        };
        let kind = kind.as_str()?;
        if kind == "section" && !block.contains_key("text") && !block.contains_key("fields") {
            let remedy = "write \"text\": {\"type\": \"mrkdwn\", \"text\": \"...\"}";
            return Some(format!(
                "block {}, a section, has neither text nor fields: {remedy}",
                n + 1
            ));
        }
        if kind == "section" && block.get("text").is_some_and(Value::is_string) {
            let remedy = "write {\"type\": \"mrkdwn\", \"text\": \"...\"}";
            return Some(format!(
                "the text of block {} is no object: {remedy}",
                n + 1
            ));
        }
        if BLOCKS.contains(&kind) {
            return None;
        }
        let near = did_you_mean(kind, BLOCKS)?;
        Some(format!(
            "block {} is of the type {kind}; did you mean {near}?",
            n + 1
        ))
    })
}

/// Returns why a template never renders as an Adaptive Card, if that is certain.
pub(super) fn wrong_card(source: &str) -> Option<String> {
    match read(source)? {
        Err(message) => Some(message),
        Ok(Value::Object(_)) => None,
        Ok(_) if source.trim_start().starts_with("{{") => None,
        Ok(_) => Some("is no object: write {\"type\": \"AdaptiveCard\", ...}".to_owned()),
    }
}

/// Renders a template with some value for each expression and parses the JSON; nothing if the result
/// depends on more than values.
fn read(source: &str) -> Option<Result<Value, String>> {
    if source.contains("{%") {
        return None;
    }
    // A text in quotes may stand wherever a value may, but for parts of a number.
    let tried = ["\"x\"", "0"].map(|value| filled(source, value));
    let [Some(text), Some(number)] = tried else {
        return None;
    };
    let read = serde_json::from_str(&text).or_else(|error| {
        serde_json::from_str(&number).map_err(|_| {
            format!(
                "never comes out as JSON ({}, line {}): check its commas and brackets, and that text around values stands in \
                 quotes{}",
                reason(&error),
                error.line(),
                remedy(source)
            )
        })
    });
    Some(read)
}

/// Returns the parser's reason without the position, which is one in the rendered text.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Returns the remedy for a template that is meant to be plain text.
fn remedy(source: &str) -> &'static str {
    if source.trim_start().starts_with(['{', '[', '"']) {
        ""
    } else {
        "; where it is to be plain text, set the contentType to text/plain"
    }
}

/// Replaces each expression of a template by a value; within a string by the value's text.
fn filled(source: &str, value: &str) -> Option<String> {
    let (mut out, mut rest, mut quoted) = (String::with_capacity(source.len()), source, false);
    while let Some(first) = rest.chars().next() {
        let end = match rest.get(..2) {
            Some("{{") => "}}",
            Some("{#") => "#}",
            _ => {
                let mut taken = first.len_utf8();
                match first {
                    '"' => quoted = !quoted,
                    '\\' if quoted => taken += rest.chars().nth(1).map_or(0, char::len_utf8),
                    _ => {}
                }
                out.push_str(&rest[..taken]);
                rest = &rest[taken..];
                continue;
            }
        };
        if end == "}}" {
            out.push_str(if quoted {
                value.trim_matches('"')
            } else {
                value
            });
        }
        let after = ended(&rest[2..], end)?;
        rest = &rest[2 + after..];
    }
    Some(out)
}

/// Returns the offset behind the end of an expression, skipping strings within it.
fn ended(inside: &str, end: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in inside.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') if end == "}}" => quote = Some(c),
            (None, _) if inside[at..].starts_with(end) => return Some(at + end.len()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possible_json_passes() {
        for source in [
            "{\"a\": {{ new.a }}, \"b\": \"x{{ new.b }}\", {{ key }}: 1, \"c\": \"\\\"\"}",
            "{{ new|tojson }}",
            "{\"a\": -{{ new.a }}, \"b\": 1{# no #}}",
            "{\"a\": {{ \"}}\" }}}",
            "{% if new.a %}{{% else %}[{% endif %}",
            "[{{ new.a }}, {{ '\"' }}]",
        ] {
            assert_eq!(wrong(source), None, "{source}");
        }
    }

    #[test]
    fn impossible_json_is_reported() {
        for source in [
            "Order {{ new.id }}",
            "{\"a\": {{ new.a }}",
            "{\"a\": x{{ new.a }}}",
            "{'a': {{ new.a }}}",
            "{\"a\": 1,}",
            "",
        ] {
            assert!(wrong(source).is_some(), "{source}");
        }
    }

    #[test]
    fn each_block_is_checked() {
        let right = "[{\"type\": \"section\", \"text\": {\"type\": \"mrkdwn\", \"text\": \"{{ key }}\"}}, {\"type\": \"new\"}]";
        assert_eq!(wrong_blocks(right), None);
        assert_eq!(wrong_blocks("{{ new.blocks }}"), None);
        for (source, text) in [
            ("{\"type\": \"section\"}", "no array"),
            ("[{\"text\": \"x\"}]", "block 1 has no type"),
            (
                "[{\"type\": \"divider\"}, {\"type\": \"section\"}]",
                "block 2, a section",
            ),
            ("[{\"type\": \"section\", \"text\": \"x\"}]", "no object"),
            (
                "[{\"type\": \"sectoin\", \"text\": {}}]",
                "did you mean section?",
            ),
            ("[{{ new.a }]", "JSON"),
        ] {
            let said = wrong_blocks(source);
            assert!(
                said.as_ref().is_none_or(|said| said.contains(text)),
                "{source}: {said:?}"
            );
            assert!(source.contains("{{ new.a }]") || said.is_some(), "{source}");
        }
        assert!(wrong_card("[1]").is_some());
        assert!(wrong_card("{\"type\": \"AdaptiveCard\"}").is_none());
    }
}
