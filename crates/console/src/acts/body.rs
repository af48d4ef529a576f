//! Bodies of requests to the API, made from the fields of forms.

use serde_json::{Map, Value, json};

use super::Wanted;

/// Filters that the form of a backfill has; the API takes more.
pub(crate) const FILTERS_OF_BACKFILL: usize = 3;

type Body = Result<Value, String>;

/// Returns those of some fields that are given.
fn texts(wanted: &Wanted, names: &[&str]) -> Map<String, Value> {
    let given = names.iter().filter_map(|name| {
        let text = wanted.get(name)?;
        Some(((*name).to_owned(), text.into()))
    });
    given.collect()
}

fn whole_number(name: &str, text: &str) -> Result<i64, String> {
    let number = text.trim().parse();
    number.map_err(|_| format!("{name} must be a whole number"))
}

fn neither() -> String {
    "give an id, or all=true".to_owned()
}

pub(super) fn dead_letters(wanted: &Wanted) -> Body {
    if let Some(id) = wanted.get("id") {
        return Ok(json!({ "ids": [whole_number("id", id)?] }));
    }
    if !wanted.is_all() {
        return Err(neither());
    }
    let mut filter = texts(wanted, wanted.act.fields);
    filter.insert("until".to_owned(), wanted.until().into());
    Ok(json!({ "all": true, "filter": filter }))
}

pub(super) fn jobs(wanted: &Wanted) -> Body {
    if let Some(id) = wanted.get("id") {
        return Ok(json!({ "ids": [id] }));
    }
    if !wanted.is_all() {
        return Err(neither());
    }
    let mut body = texts(wanted, wanted.act.fields);
    body.insert("all".to_owned(), true.into());
    Ok(body.into())
}

pub(super) fn backfill(wanted: &Wanted) -> Body {
    let id = wanted.get("id").ok_or("give the id of a backfill")?;
    Ok(json!({ "id": whole_number("id", id)? }))
}

pub(super) fn new_backfill(wanted: &Wanted) -> Body {
    if wanted.get("entity").is_none() {
        return Err("give the table whose rows are sent, as schema.table".to_owned());
    }
    let mut body = texts(wanted, &["entity", "observer"]);
    if let Some(rate) = wanted.get("rate") {
        body.insert("rate".to_owned(), whole_number("rate", rate)?.into());
    }
    let mut filters = Vec::new();
    for at in 1..=FILTERS_OF_BACKFILL {
        let field = |name: &str| wanted.get(&format!("{name}{at}"));
        match (field("column"), field("value")) {
            // No value is the empty text.
            (Some(column), value) => filters.push(json!({
                "column": column,
                "operator": field("operator").unwrap_or("="),
                "value": value.unwrap_or_default(),
            })),
            (None, Some(_)) => return Err(format!("filter {at} has a value and no column")),
            (None, None) => {}
        }
    }
    body.insert("filters".to_owned(), filters.into());
    Ok(body.into())
}

pub(super) fn caches(wanted: &Wanted) -> Body {
    let all = wanted.act.fields;
    let [observer, name, entity, key] =
        ["observer", "name", "entity", "key"].map(|field| wanted.get(field).is_some());
    match (wanted.is_all(), observer, entity) {
        (true, false, false) if !name && !key => Ok(json!({ "all": true })),
        (false, true, false) if !key => Ok(texts(wanted, all).into()),
        (false, false, true) if !name => Ok(texts(wanted, all).into()),
        _ => Err(
            "give an observer and perhaps a lookup or action, or an entity and perhaps a key, or all=true".to_owned(),
        ),
    }
}

pub(super) fn breakers(wanted: &Wanted) -> Body {
    let [observer, action] = ["observer", "action"].map(|field| wanted.get(field).is_some());
    match (wanted.is_all(), observer) {
        (true, false) if !action => Ok(json!({ "all": true })),
        (false, true) => Ok(texts(wanted, wanted.act.fields).into()),
        _ => Err("give an observer and perhaps an action, or all=true".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::acts::find;
    use crate::params::Params;

    fn wanted(act: &str, query: &str) -> Result<Wanted, String> {
        let now: DateTime<Utc> = "2026-11-30T22:00:00.123456789Z".parse().unwrap();
        Wanted::parse(find(act).unwrap(), &Params::parse(query.as_bytes()), now)
    }

    #[track_caller]
    fn body(act: &str, query: &str) -> Value {
        wanted(act, query).unwrap().body().unwrap()
    }

    #[test]
    fn bodies_are_as_the_api_takes_them() {
        let seen = "2026-11-30T22:00:00.123456Z";
        let both = ["redrive-dead-letters", "drop-dead-letters"];
        for act in both {
            assert_eq!(body(act, "id=17"), json!({"ids": [17]}));
            assert_eq!(
                body(act, "all=true"),
                json!({"all": true, "filter": {"until": seen}})
            );
            let filter = json!({"observer": "shop/a", "kind": "status", "key": "\u{202e}<b>", "until": seen});
            let given = "all=true&observer=shop/a&kind=status&action=&key=%E2%80%AE%3Cb%3E";
            assert_eq!(body(act, given), json!({"all": true, "filter": filter}));
        }
        for act in ["retry-jobs", "cancel-jobs"] {
            assert_eq!(body(act, "id=a-1.b~2"), json!({"ids": ["a-1.b~2"]}));
            let all = json!({"all": true, "action": "post", "tenant": "acme"});
            assert_eq!(body(act, "all=true&action=post&tenant=acme"), all);
        }
        for act in ["cancel-backfill", "resume-backfill"] {
            assert_eq!(body(act, "id=3"), json!({"id": 3}));
        }
        let given = "entity=public.orders&observer=&rate=50&column1=status&operator1=%3D&value1=paid\
                     &column2=&operator2=%3D&value2=&column3=note&operator3=!%3D&value3=";
        let filters = json!([
            {"column": "status", "operator": "=", "value": "paid"}, {"column": "note", "operator": "!=", "value": ""},
        ]);
        let start = json!({"entity": "public.orders", "rate": 50, "filters": filters});
        assert_eq!(body("start-backfill", given), start);
        for (given, made) in [
            ("all=true", json!({"all": true})),
            (
                "observer=shop/a&name=x",
                json!({"observer": "shop/a", "name": "x"}),
            ),
            (
                "entity=public.a&key=7",
                json!({"entity": "public.a", "key": "7"}),
            ),
        ] {
            assert_eq!(body("invalidate-caches", given), made);
        }
        assert_eq!(body("reset-breakers", "all=true"), json!({"all": true}));
        let one = json!({"observer": "shop/a", "action": "post"});
        assert_eq!(body("reset-breakers", "observer=shop/a&action=post"), one);
    }

    #[test]
    fn what_is_not_understood_or_left_out_never_means_all() {
        for (act, query) in [
            ("drop-dead-letters", ""),
            ("drop-dead-letters", "observer=shop/a"),
            ("drop-dead-letters", "all=true&obsrver=shop/a"),
            ("drop-dead-letters", "all=true&observer=a&observer=b"),
            ("drop-dead-letters", "all=false"),
            ("drop-dead-letters", "id=1&all=true"),
            ("drop-dead-letters", "id=1&id=2"),
            ("drop-dead-letters", "id=x"),
            ("drop-dead-letters", "all=true&seen=now"),
            ("cancel-jobs", "all=true&state=scheduled"),
            ("cancel-jobs", "action=post"),
            ("cancel-backfill", ""),
            ("cancel-backfill", "all=true"),
            ("start-backfill", "rate=5"),
            ("start-backfill", "entity=a&rate=fast"),
            ("start-backfill", "entity=a&value2=x"),
            ("invalidate-caches", ""),
            ("invalidate-caches", "observer=&name=x"),
            ("invalidate-caches", "all=true&entity=a"),
            ("invalidate-caches", "observer=a&entity=b"),
            ("invalidate-caches", "all=true&key=7"),
            ("reset-breakers", ""),
            ("reset-breakers", "action=post"),
            ("reset-breakers", "all=true&action=post"),
        ] {
            assert!(wanted(act, query).is_err(), "{act}?{query}");
        }
    }

    #[test]
    fn what_came_after_it_was_seen_is_not_touched() {
        let until = |query: &str| wanted("drop-dead-letters", query).unwrap().until();
        let seen = "2026-11-30T22:00:00.123456Z";
        assert_eq!(until("all=true"), seen);
        assert_eq!(until("all=true&until=2027-01-01T00:00:00Z"), seen);
        assert_eq!(
            until("all=true&until=2026-01-01T00:00:00Z"),
            "2026-01-01T00:00:00Z"
        );
        // Sent later than seen, and with a time that is yet to come.
        let earlier = "2026-11-30T21:00:00.000000Z";
        assert_eq!(until(&format!("all=true&seen={earlier}")), earlier);
        assert_eq!(until("all=true&seen=2030-01-01T00:00:00Z"), seen);
        let again = wanted(
            "drop-dead-letters",
            &format!("all=true&key=7&seen={earlier}"),
        );
        let again = again.unwrap().hidden().link("");
        assert_eq!(
            again,
            "?all=true&key=7&seen=2026-11-30T21%3A00%3A00.000000Z"
        );
    }

    #[test]
    fn only_what_is_final_and_for_all_without_a_filter_wants_a_word() {
        let word = |act, query| wanted(act, query).unwrap().word();
        assert_eq!(word("drop-dead-letters", "all=true"), Some("drop"));
        assert_eq!(word("cancel-jobs", "all=true"), Some("cancel"));
        assert_eq!(word("drop-dead-letters", "all=true&key=7"), None);
        assert_eq!(word("drop-dead-letters", "id=7"), None);
        assert_eq!(word("redrive-dead-letters", "all=true"), None);
        assert_eq!(word("invalidate-caches", "all=true"), None);
    }
}
