//! A row before and after its change, side by side.

use std::collections::BTreeSet;

use maud::{Markup, html};
use serde_json::{Map, Value};

use crate::value::{field, json, number, text};

/// Most columns of a row that are shown.
const MAX_COLUMNS: usize = 200;

/// Returns the images of a row with the columns marked that differ.
pub(super) fn images(old: Option<&Value>, new: Option<&Value>) -> Markup {
    let differing = match (
        old.and_then(Value::as_object),
        new.and_then(Value::as_object),
    ) {
        (Some(old), Some(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let differing = names
                .into_iter()
                .filter(|name| old.get(*name) != new.get(*name));
            differing.cloned().collect()
        }
        _ => Vec::new(),
    };
    compared(old, new, &differing)
}

/// Returns the images of a row with its changed columns marked.
pub(super) fn compared(old: Option<&Value>, new: Option<&Value>, changed: &[String]) -> Markup {
    let content = match (columns(old), columns(new)) {
        (Ok(None), Ok(None)) => html! { p.quiet { "The event has no row." } },
        (Ok(old), Ok(new)) => table(old, new, changed),
        // A payload of `observer.emit` may be anything.
        _ => html! {
            @if let Some(old) = old { h3 { "Before" } (json(old)) }
            @if let Some(new) = new { h3 { "After" } (json(new)) }
        },
    };
    html! { h2 #row { "Row" } (content) }
}

/// Returns the columns of an image; fails if it has none.
fn columns(image: Option<&Value>) -> Result<Option<&Map<String, Value>>, ()> {
    match image {
        None => Ok(None),
        Some(Value::Object(columns)) => Ok(Some(columns)),
        Some(_) => Err(()),
    }
}

fn table(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    changed: &[String],
) -> Markup {
    let images = [("Before", old), ("After", new)];
    let images = images.map(|(title, image)| image.map(|image| (title, image)));
    let images: Vec<_> = images.into_iter().flatten().collect();
    let names = images.iter().flat_map(|(_, image)| image.keys());
    let names: BTreeSet<&String> = names.chain(changed).collect();
    let changed: BTreeSet<&String> = changed.iter().collect();
    let left_out = names.len().saturating_sub(MAX_COLUMNS);
    html! {
        div.wide tabindex="0" role="region" aria-labelledby="row" { table.row {
            thead { tr {
                th scope="col" { "Column" }
                @for (title, _) in &images { th scope="col" { (title) } }
            } }
            tbody { @for name in names.into_iter().take(MAX_COLUMNS) {
                @let is_changed = changed.contains(name);
                tr class=[is_changed.then_some("changed")] {
                    th scope="row" { (text(name)) @if is_changed { " " span.tag.warn { "changed" } } }
                    @for (_, image) in &images { td {
                        @match image.get(name) {
                            Some(value) => { (field(value)) }
                            None => { span.none { "not kept" } }
                        }
                    } }
                }
            } }
        } }
        @if left_out > 0 { p.cut { "… and " (number(left_out as u64)) " columns more, which the HTTP interface shows" } }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn changed_columns_are_marked_by_more_than_colour() {
        let old = value!({"id": 9_007_199_254_740_993_u64, "total": 1, "gone": null});
        let new = value!({"id": 9_007_199_254_740_993_u64, "total": "<script>\u{202e}"});
        let changed = ["total".to_owned(), "card".to_owned()];
        let shown = compared(Some(&old), Some(&new), &changed).into_string();
        for part in [
            "<tr class=\"changed\"><th scope=\"row\"><bdi>total</bdi> <span class=\"tag warn\">changed</span></th>\
             <td><code><bdi>1</bdi></code></td><td><bdi>&lt;script&gt;\\u{202e}</bdi></td></tr>",
            "<tr><th scope=\"row\"><bdi>id</bdi></th><td><code><bdi>9007199254740993</bdi></code></td>",
            "<bdi>card</bdi> <span class=\"tag warn\">changed</span></th><td><span class=\"none\">not kept</span></td>",
            "<td><span class=\"none\">null</span></td>",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn images_may_be_absent_or_anything() {
        let row = value!({"a": 1});
        let shown = compared(None, Some(&row), &[]).into_string();
        assert!(
            shown.contains("After") && !shown.contains("Before"),
            "{shown}"
        );
        let shown = compared(None, Some(&value!(["</pre>"])), &[]).into_string();
        assert!(
            shown.contains("&lt;/pre&gt;") && shown.contains("<pre>"),
            "{shown}"
        );
        let shown = compared(None, None, &[]).into_string();
        assert!(shown.contains("has no row"), "{shown}");
    }
}
