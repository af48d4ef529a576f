//! What links and headings a Markdown file has.

use std::collections::BTreeMap;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Links and anchors of a file.
#[derive(Debug, Default)]
pub(crate) struct Markdown {
    /// Destinations of links and images.
    pub(crate) links: Vec<String>,
    /// Anchors of headings.
    pub(crate) anchors: Vec<String>,
}

/// Reads a file.
pub(crate) fn read(text: &str) -> Markdown {
    let mut found = Markdown::default();
    let mut used = BTreeMap::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                found.links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                let before = used.entry(anchor.clone()).or_insert(0);
                found.anchors.push(match *before {
                    0 => anchor,
                    n => format!("{anchor}-{n}"),
                });
                *before += 1;
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            _ => {}
        }
    }
    found
}

/// The anchor of a heading, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            char => char.is_alphanumeric().then_some(char),
        })
        .collect()
}

#[test]
fn headings_have_the_anchors_of_github() {
    let text =
        "# What `spec.on` is\n\n## Retries, and order\n\n## Retries, and order\n\n[a](b.md#c)";
    let found = read(text);
    assert_eq!(
        found.anchors,
        ["what-specon-is", "retries-and-order", "retries-and-order-1"]
    );
    assert_eq!(found.links, ["b.md#c"]);
}
