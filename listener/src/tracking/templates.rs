//! The columns that the templates of an action read.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use crds::config::ActionConfig;
use minijinja::Environment;
use regex::Regex;

use crate::actions;
use crate::matching::Side;

/// Stack for the parser, which calls itself for each of a chain of operators: enough for the longest
/// template that is compiled. Memory is only taken as far as it is used.
const PARSER_STACK: usize = 128 * 1024 * 1024;

/// Prefixes of a column in a template, as in `new.total`.
const ROWS: [&str; 3] = ["new.", "old.", "changed."];

/// Tests of a column before it is read.
static ASKED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"\b(?:new|old|changed)\.(\w+)\s*(?:\|\s*(?:default|d)\b|is\s+(?:not\s+)?(?:un)?defined)",
    )
    .ok()
});

/// Returns the columns that each template of an action fails without, with its path.
pub(super) fn columns(action: &ActionConfig) -> Vec<(String, Vec<String>)> {
    let templates = actions::templates(&action.kind).into_iter();
    templates
        .map(|template| {
            let mut columns: Vec<String> = paths(template.source)
                .into_iter()
                .map(|(_, column)| column)
                .collect();
            columns.sort();
            columns.dedup();
            (template.field, columns)
        })
        .collect()
}

/// Returns the images that a template fails without.
pub(crate) fn images(source: &str) -> Vec<Side> {
    let paths = paths(source);
    let sides = [(Side::Old, "old."), (Side::New, "new.")].into_iter();
    sides
        .filter(|(_, row)| paths.iter().any(|(of, _)| of == row))
        .map(|(side, _)| side)
        .collect()
}

/// Returns the columns that a template reads without testing for them, each with its row.
fn paths(source: &str) -> Vec<(&'static str, String)> {
    let names = names(source);
    let asked: BTreeSet<&str> = ASKED
        .iter()
        .flat_map(|asked| asked.captures_iter(source))
        .filter_map(|found| found.get(1))
        .map(|name| name.as_str())
        .collect();
    let split = |name: &String| {
        let (row, path) = ROWS
            .iter()
            .find_map(|row| Some((*row, name.strip_prefix(row)?)))?;
        let column = path.split('.').next()?;
        let usable = !column.is_empty() && !asked.contains(column);
        usable.then(|| (row, column.to_owned()))
    };
    names.iter().filter_map(split).collect()
}

/// Returns the names that a template refers to, with their paths; none if it cannot be parsed, which
/// compiling it reports.
pub(crate) fn names(source: &str) -> HashSet<String> {
    let parse = || {
        let environment = Environment::new();
        let template = environment.template_from_str(source);
        template.map_or_else(
            |_| HashSet::new(),
            |template| template.undeclared_variables(true),
        )
    };
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, parse);
        let names = parser.ok().and_then(|parser| parser.join().ok());
        names.unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_except_those_tested_for() {
        let of = |source| {
            let mut columns: Vec<String> = paths(source).into_iter().map(|(_, one)| one).collect();
            columns.sort();
            columns.join(" ")
        };
        assert_eq!(of("{{ new.total }} {{ old.a.b }} {{ key }}"), "a total");
        assert_eq!(of("{% if changed.status %}x{% endif %}"), "status");
        assert_eq!(of("{{ new.note | default('') }}{{ new.a }}"), "a");
        assert_eq!(
            of("{% if new.note is defined %}{{ new.note }}{% endif %}"),
            ""
        );
        assert_eq!(
            of("{% for item in new.items %}{{ item.price }}{% endfor %}"),
            "items"
        );
        assert_eq!(of("{{ new."), "");
    }
}
