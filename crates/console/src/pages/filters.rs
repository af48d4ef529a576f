//! Forms of filters, and what lists say beside them.

use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::acts::{OF_NOTICE, label};
use crate::api::ApiError;
use crate::layout::Section;
use crate::params::Params;
use crate::value::text;
use crate::visit::Visit;

/// A filter of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    /// Name of its parameter.
    pub(super) name: &'static str,
    /// What its values are.
    pub(super) values: Values,
}

/// What values of a filter are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// Text, as this example.
    Text(&'static str),
    /// One of these.
    Choice(&'static [&'static str]),
}

/// Returns the parameters that a list asks the API with: all but what says what was done, so that the API refuses
/// unknown ones.
pub(super) fn asked(visit: &Visit) -> Params {
    let without = |params: Params, name: &&str| params.with(name, None);
    OF_NOTICE.iter().fold(visit.query.clone(), without)
}

/// Returns the filters of a query that are known.
pub(super) fn known(query: &Params, filters: &[Filter]) -> Params {
    let names: Vec<_> = filters.iter().map(|filter| filter.name).collect();
    query.only(&names)
}

/// Returns the form, with the values that it has now.
pub(super) fn form(path: &str, filters: &[Filter], query: &Params) -> Markup {
    html! {
        form.filters method="get" action=(path) role="search" {
            @for filter in filters {
                @let id = format!("filter-{}", filter.name);
                @let value = query.get(filter.name).unwrap_or_default();
                div {
                    label for=(id) { (label(filter.name)) }
                    @match filter.values {
                        Values::Text(example) => {
                            input id=(id) type="text" name=(filter.name) value=(value) placeholder=(example) autocomplete="off";
                        }
                        Values::Choice(all) => {
                            select id=(id) name=(filter.name) {
                                option value="" { "any" }
                                @for one in all { option value=(one) selected[*one == value] { (one) } }
                            }
                        }
                    }
                }
            }
            button.primary type="submit" { "Filter" }
            @if query.pairs().next().is_some() { a.button href=(path) { "Clear" } }
        }
    }
}

/// Responds with a list, or with the form and the reason why there is none.
pub(super) fn page(
    visit: &Visit,
    (section, title): (Section, &str),
    form: &Markup,
    list: Result<Markup, ApiError>,
) -> Response {
    let content = |list: &Markup| html! { (crate::acts::notice(&visit.query)) (form) (list) };
    match list {
        Ok(list) => visit.page(section, title, &content(&list)),
        Err(error) => {
            let problem = html! { p.problem role="alert" { (text(&error.detail)) } };
            let page = visit.page(section, title, &content(&problem));
            (error.status, page).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::http::StatusCode;
    use serde_json::json;

    use crate::pages::fixture::{Answers, shown, visit};
    use crate::pages::{dead_letters, jobs};

    #[tokio::test]
    async fn what_the_api_refuses_is_said_beside_the_form() {
        let refusal = (
            StatusCode::BAD_REQUEST,
            json!({"detail": "unknown parameter `<b>`"}),
        );
        let answers = Answers {
            get: refusal.clone(),
            post: refusal,
        };
        let query = "%3Cb%3E=1&observer=%22%3E%3Cscript%3E&limit=1000&done=x&count=7";
        let (visit, asked) = visit("", query, "", answers);
        let (status, page) = shown(dead_letters::list(visit).await.unwrap()).await;
        assert_eq!(status, 400);
        for part in [
            "role=\"alert\"><bdi>unknown parameter `&lt;b&gt;`",
            "name=\"observer\" value=\"&quot;&gt;&lt;script&gt;\"",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("/console/acts/"), "{page}");
        let asked = asked.lock().unwrap();
        let uri = "GET /api/observers/dead-letters?%3Cb%3E=1&observer=%22%3E%3Cscript%3E&limit=50&count=true";
        assert_eq!(asked[0].0, uri);
    }

    #[tokio::test]
    async fn acts_concern_no_more_than_the_list() {
        let job = json!({"id": "a", "state": "running", "observer": "o", "action": "a", "eventId": "e", "entity": "e",
            "key": null, "tenant": null, "priority": "Normal", "attempts": 0, "enqueuedAt": "2026-11-30T00:00:00Z",
            "scheduledAt": "2026-11-30T00:00:00Z", "worker": null, "error": null});
        let answer = json!({"items": [job], "count": 1});
        for (query, retry, cancel) in [
            ("observer=x", true, true),
            ("observer=x&state=scheduled", true, false),
            ("observer=x&state=running", false, false),
        ] {
            let (visit, _) = visit("", query, "", Answers::both(&answer));
            let (_, page) = shown(jobs::list(visit.clone()).await.unwrap()).await;
            let has = |act: &str| page.contains(&format!("{act}?observer=x&amp;all=true\""));
            assert_eq!(
                (has("retry-jobs"), has("cancel-jobs")),
                (retry, cancel),
                "{query}"
            );

            let mut reader = visit;
            reader.caller.operate = false;
            let (_, page) = shown(jobs::list(reader).await.unwrap()).await;
            assert!(!page.contains("/console/acts/"), "{query}");
        }
    }
}
