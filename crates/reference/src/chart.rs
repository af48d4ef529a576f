//! Values of the chart, from its file of defaults and the comments in it.

use std::fs;

use crate::{cell, root, table};

/// A value of the chart.
#[derive(Debug, PartialEq, Eq)]
struct ChartValue {
    path: String,
    default: String,
    comment: String,
}

/// Writes the page.
pub(crate) fn body() -> anyhow::Result<String> {
    let text = fs::read_to_string(root().join("charts/observer-operator/values.yaml"))?;
    let rows = table(
        ["Value", "Default", "Meaning"],
        values(&text).into_iter().map(|value| {
            [
                format!("`{}`", value.path),
                format!("`{}`", value.default),
                cell(&value.comment),
            ]
        }),
    );
    Ok(format!(
        "Values of the Helm chart `observer-operator`. Unknown and invalid values are \
         rejected. [The chart's own page](https://github.com/fraiseql/observers/blob/main/charts/observer-operator/README.md) \
         explains installation, upgrade and removal.\n\n{rows}"
    ))
}

/// Reads the values. A comment before a value belongs to it, and one before a group to the group's
/// first value.
fn values(text: &str) -> Vec<ChartValue> {
    let mut found = Vec::new();
    let mut groups: Vec<(usize, &str)> = Vec::new();
    let mut comment = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(more) = line.strip_prefix('#') {
            let more = more.trim().trim_start_matches("-- ");
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(more);
        } else if let Some((name, default)) = line.split_once(':') {
            groups.retain(|(outer, _)| *outer < indent);
            let default = default.trim();
            if default.is_empty() {
                groups.push((indent, name));
                continue;
            }
            let path: Vec<&str> = groups.iter().map(|(_, name)| *name).chain([name]).collect();
            found.push(ChartValue {
                path: path.join("."),
                default: default.to_owned(),
                comment: std::mem::take(&mut comment),
            });
        } else {
            comment.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_paths_and_comments() {
        let text = "# About all.\n\nimage:\n  # -- The tag\n  # of it.\n  tag: \"\"\n  policy: Always\nreplicas: 1\n";
        let expected = [
            ("image.tag", "\"\"", "The tag of it."),
            ("image.policy", "Always", ""),
            ("replicas", "1", ""),
        ];
        let expected = expected.map(|(path, default, comment)| ChartValue {
            path: path.to_owned(),
            default: default.to_owned(),
            comment: comment.to_owned(),
        });
        assert_eq!(values(text), expected);
    }
}
