//! Counts of the events that a search finds: values that narrow it, and a plot over time.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::fields::rfc3339;
use super::way::OUTCOMES;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, time};

/// Number of values of a facet that are shown at once.
const SHOWN: usize = 6;

/// Most bars of a plot; the API has 60 at most.
const MAX_BARS: i64 = 100;

/// What `GET /search` counts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facets {
    entity: Vec<Bucket>,
    operation: Vec<Bucket>,
    observer: Vec<Bucket>,
    outcome: Vec<Bucket>,
    time: Vec<Interval>,
    interval_seconds: u32,
}

#[derive(Debug, Deserialize)]
struct Bucket {
    value: String,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct Interval {
    #[serde(rename = "value")]
    start: DateTime<Utc>,
    count: u64,
}

/// One of a facet's values.
#[derive(Debug, PartialEq, Eq)]
struct Choice<'a> {
    value: &'a str,
    count: Option<u64>,
    /// Whether it is a filter now, which the link takes away.
    is_present: bool,
    /// Where the search goes; nothing where no filter has this value.
    link: Option<String>,
}

/// One of the bars.
#[derive(Debug, PartialEq, Eq)]
struct Bar {
    place: i64,
    percent: u64,
    count: u64,
    from: DateTime<Utc>,
    link: String,
}

/// Returns values as links that narrow the search, or widen it again.
pub(super) fn narrow(facets: &Facets, query: &Params) -> Markup {
    let groups = [
        ("Entity", "entity", &facets.entity),
        ("Operation", "operation", &facets.operation),
        ("Observer", "observer", &facets.observer),
        ("Outcome", "outcome", &facets.outcome),
    ];
    html! {
        h2 { "Narrow the search" }
        div.facets { @for (title, name, buckets) in groups {
            @let choices = choices(name, buckets, query);
            div {
                h3 { (title) }
                @if choices.is_empty() { p.none { "none" } }
                ul { @for choice in choices.iter().take(SHOWN) { (item(title, choice)) } }
                @if choices.len() > SHOWN {
                    details {
                        summary { (choices.len() - SHOWN) " more" }
                        ul { @for choice in &choices[SHOWN..] { (item(title, choice)) } }
                    }
                }
            }
        } }
    }
}

fn item(title: &str, choice: &Choice<'_>) -> Markup {
    let word = word(choice.value);
    html! {
        li {
            @match &choice.link {
                Some(link) if choice.is_present => {
                    span { strong { (cell(word)) } " "
                        a href=(link) aria-label={ "Remove the filter " (title) " " (word) } { "Remove" } }
                }
                Some(link) => { a href=(link) { (cell(word)) } }
                None => { span { (cell(word)) } }
            }
            @if let Some(count) = choice.count { span { (number(count)) } }
        }
    }
}

/// Returns the word for a value.
fn word(value: &str) -> &str {
    let known = OUTCOMES.iter().find(|(name, _)| *name == value);
    match known {
        Some((_, word)) => word,
        None if value == "notMatched" => "no delivery",
        None => value,
    }
}

/// Returns the values of a facet: first those that are filters now.
fn choices<'a>(name: &'a str, buckets: &'a [Bucket], query: &'a Params) -> Vec<Choice<'a>> {
    // These filters take several values with commas.
    let is_list = ["operation", "outcome"].contains(&name);
    let present: Vec<&str> = query
        .all(name)
        .flat_map(|value| {
            if is_list {
                value.split(',').collect()
            } else {
                vec![value]
            }
        })
        .collect();
    let link = |value: Option<&str>| {
        query
            .with("cursor", None)
            .with(name, value)
            .link(path::EVENTS)
    };
    let removable = present.iter().map(|value| {
        let rest: Vec<_> = present
            .iter()
            .filter(|one| *one != value)
            .copied()
            .collect();
        let rest = rest.join(",");
        Choice {
            value,
            count: buckets
                .iter()
                .find(|one| one.value == *value)
                .map(|one| one.count),
            is_present: true,
            link: Some(link(Some(&*rest).filter(|rest| !rest.is_empty()))),
        }
    });
    let others = buckets.iter().filter(|one| !present.contains(&&*one.value));
    let others = others.map(|one| Choice {
        value: &one.value,
        count: Some(one.count),
        is_present: false,
        // It stands for the lack of a delivery, for which there is no filter.
        link: (one.value != "notMatched").then(|| link(Some(&one.value))),
    });
    removable.chain(others).collect()
}

/// Returns a plot of the events over time, and the same as a table. Each bar and each row narrows the search.
pub(super) fn plot(facets: &Facets, query: &Params) -> Markup {
    let bars = bars(facets, query);
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else {
        return html! {};
    };
    let length = length(facets.interval_seconds);
    html! {
        h2 #when { "When" }
        // The table below has the same links, for those who do not see the plot or have no mouse.
        svg.plot viewBox={ "0 0 " ((last.place + 1) * 10) " 100" } preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            @for bar in &bars {
                a href=(bar.link) tabindex="-1" {
                    title { (rfc3339(bar.from)) ", " (length) ": " (number(bar.count)) }
                    rect.hit x=(bar.place * 10) y="0" width="10" height="100" {}
                    rect x=(bar.place * 10 + 1) y=(100 - bar.percent) width="8" height=(bar.percent) {}
                }
            }
        }
        p.hint { "From " (time(first.from)) ", each bar " (length) ", the last from " (time(last.from)) " (UTC)." }
        details {
            summary { "The plot as a table" }
            div.wide tabindex="0" role="region" aria-labelledby="when" { table {
                thead { tr { th { "From (UTC), " (length) } th.number { "Events" } } }
                tbody { @for bar in &bars { tr {
                    td { a href=(bar.link) { (time(bar.from)) } } td.number { (number(bar.count)) }
                } } }
            } }
        }
    }
}

fn bars(facets: &Facets, query: &Params) -> Vec<Bar> {
    let seconds = i64::from(facets.interval_seconds.max(1));
    let Some(first) = facets.time.first().map(|one| one.start) else {
        return Vec::new();
    };
    let most = facets.time.iter().map(|one| one.count).max();
    let most = u128::from(most.unwrap_or_default().max(1));
    let bars = facets.time.iter().map(|one| Bar {
        place: (one.start - first).num_seconds() / seconds,
        percent: u64::try_from(u128::from(one.count) * 100 / most)
            .unwrap_or(100)
            .max(2),
        count: one.count,
        from: one.start,
        link: narrowed(query, one.start, one.start + TimeDelta::seconds(seconds)),
    });
    bars.filter(|bar| (0..MAX_BARS).contains(&bar.place))
        .collect()
}

/// Returns the search within an interval, which only ever gets narrower.
fn narrowed(query: &Params, start: DateTime<Utc>, end: DateTime<Utc>) -> String {
    let given = |name: &str| {
        let given = DateTime::parse_from_rfc3339(query.get(name)?).ok()?;
        Some(given.to_utc())
    };
    let from = given("from").map_or(start, |given| given.max(start));
    let to = given("to").map_or(end, |given| given.min(end));
    let query = query
        .with("cursor", None)
        .with("from", Some(&rfc3339(from)));
    query.with("to", Some(&rfc3339(to))).link(path::EVENTS)
}

/// Returns the length of an interval in its largest unit.
fn length(seconds: u32) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, word) = unit.unwrap_or((1, "s"));
    format!("{} {word}", seconds / unit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::{Value, json};

    use super::*;

    fn facets(time: &Value) -> Facets {
        let bucket = |value: &str, count: u64| json!({"value": value, "count": count});
        serde_json::from_value(json!({
            "entity": [bucket("public.orders", 1200), bucket("\"><script>", 3)],
            "operation": [bucket("Insert", 2), bucket("Update", 1)],
            "observer": (0..9).map(|n| bucket(&format!("shop/o{n}"), n)).collect::<Vec<_>>(),
            "outcome": [bucket("deadLetter", 2), bucket("notMatched", 1)],
            "time": time, "intervalSeconds": 600,
        }))
        .unwrap()
    }

    #[test]
    fn values_narrow_and_widen_the_search() {
        let facets = facets(&json!([]));
        let query = Params::parse(b"q=a&entity=x,y&operation=Insert,Read&cursor=c");
        let entities = choices("entity", &facets.entity, &query);
        assert_eq!(
            (
                entities[0].value,
                entities[0].count,
                entities[0].link.as_deref()
            ),
            (
                "x,y",
                None,
                Some("/console/events?q=a&operation=Insert%2CRead")
            )
        );
        assert_eq!(
            entities[1].link.as_deref(),
            Some("/console/events?q=a&operation=Insert%2CRead&entity=public.orders")
        );
        let operations = choices("operation", &facets.operation, &query);
        let all: Vec<_> = operations
            .iter()
            .map(|one| (one.value, one.count, one.is_present))
            .collect();
        assert_eq!(
            all,
            [
                ("Insert", Some(2), true),
                ("Read", None, true),
                ("Update", Some(1), false)
            ]
        );
        assert_eq!(
            operations[0].link.as_deref(),
            Some("/console/events?q=a&entity=x%2Cy&operation=Read")
        );
        let shown = narrow(&facets, &query).into_string();
        assert!(
            shown.contains("&gt;&lt;script&gt;") && !shown.contains("<script"),
            "{shown}"
        );
        assert!(
            shown.contains("<span><bdi>no delivery</bdi></span><span>1</span>"),
            "{shown}"
        );
        assert!(
            shown.contains("outcome=deadLetter\"><bdi>dead letter"),
            "{shown}"
        );
        assert!(shown.contains("<summary>3 more</summary>"), "{shown}");
        assert!(
            shown.contains("aria-label=\"Remove the filter Operation Insert\""),
            "{shown}"
        );
    }

    #[test]
    fn bars_stand_where_their_time_is() {
        let interval = |value: &str, count: u64| json!({"value": value, "count": count});
        let facets = facets(&json!([
            interval("2026-11-30T10:00:00Z", u64::MAX),
            interval("2026-11-30T10:30:00Z", 1),
            interval("2036-11-30T10:30:00Z", 1),
        ]));
        let query = Params::parse(b"from=2026-11-30T10:05:00Z&to=2026-11-30T10:35:00Z&cursor=c");
        let bars = bars(&facets, &query);
        let places: Vec<_> = bars.iter().map(|bar| (bar.place, bar.percent)).collect();
        assert_eq!(places, [(0, 100), (3, 2)]);
        assert_eq!(
            bars[0].link,
            "/console/events?from=2026-11-30T10%3A05%3A00Z&to=2026-11-30T10%3A10%3A00Z"
        );
        assert_eq!(
            bars[1].link,
            "/console/events?from=2026-11-30T10%3A30%3A00Z&to=2026-11-30T10%3A35%3A00Z"
        );
        let shown = plot(&facets, &query).into_string();
        assert!(shown.contains("viewBox=\"0 0 40 100\""), "{shown}");
        assert!(
            shown.contains("18,446,744,073,709,551,615") && !shown.contains("style="),
            "{shown}"
        );
        assert_eq!(
            shown.matches(&bars[1].link.replace('&', "&amp;")).count(),
            2
        );
    }

    #[test]
    fn lengths_are_in_their_largest_unit() {
        let all = [1, 10, 600, 21_600, 604_800].map(length);
        assert_eq!(all, ["1 s", "10 s", "10 min", "6 h", "7 d"]);
    }
}
