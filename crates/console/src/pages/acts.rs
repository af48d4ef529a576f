//! Changes, in two steps: a page that says what will happen and to how many, and a form that does it.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::acts_extent::{Extent, extent};
use crate::acts::{Act, Target, Wanted, find, label};
use crate::api::ApiError;
use crate::failure::Failure;
use crate::params::Params;
use crate::value::text;
use crate::visit::{Visit, see_other};

/// Field of the form that holds what is wanted, encoded: browsers change ends of lines in fields.
const FIELDS: &str = "fields";

/// What the API says of changes.
#[derive(Debug, Default, Deserialize)]
struct Reply {
    count: Option<u64>,
    /// Circuit breakers.
    closed: Option<u64>,
    #[serde(default)]
    unanswered: Vec<String>,
}

/// Says what an act will do, with the form that does it.
pub(crate) async fn confirm(visit: Visit) -> Result<Response, Failure> {
    let act = find(&visit.id).ok_or(Failure::NotFound)?;
    match Wanted::parse(act, &visit.query, visit.now) {
        Ok(wanted) => Ok(ask(&visit, &wanted, None).await),
        Err(wrong) => Ok(refuse(&visit, act, wrong)),
    }
}

/// Does it.
pub(crate) async fn run(visit: Visit) -> Result<Response, Failure> {
    let act = find(&visit.id).ok_or(Failure::NotFound)?;
    let fields = visit.form.get(FIELDS).unwrap_or_default();
    let wanted = match Wanted::parse(act, &Params::parse(fields.as_bytes()), visit.now) {
        Ok(wanted) => wanted,
        Err(wrong) => return Ok(refuse(&visit, act, wrong)),
    };
    let typed = visit.form.get("confirm").unwrap_or_default().trim();
    if let Some(word) = wanted
        .word()
        .filter(|word| !typed.eq_ignore_ascii_case(word))
    {
        let error = unfit(format!("Nothing was done: to do it, type the word {word}."));
        return Ok(ask(&visit, &wanted, Some(&error)).await);
    }
    let body = match wanted.body() {
        Ok(body) => body,
        Err(wrong) => return Ok(refuse(&visit, act, wrong)),
    };
    match visit.api.post::<Reply>(act.path, &body).await {
        Ok(reply) => Ok(see_other(&after(&wanted, &reply))),
        Err(error) => Ok(ask(&visit, &wanted, Some(&error)).await),
    }
}

fn unfit(detail: String) -> ApiError {
    ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        detail,
    }
}

/// Returns where the browser goes once it is done.
fn after(wanted: &Wanted, reply: &Reply) -> String {
    let digits = |number: u64| number.to_string();
    let count = reply.count.or(reply.closed).map(digits);
    let unanswered = reply.unanswered.len() as u64;
    let unanswered = Some(unanswered).filter(|count| *count > 0).map(digits);
    list_of(wanted)
        .and("done", wanted.act.name)
        .with("count", count.as_deref())
        .with("unanswered", unanswered.as_deref())
        .link(wanted.act.section.path())
}

/// Returns the filters of the list that the person came from.
fn list_of(wanted: &Wanted) -> Params {
    match wanted.act.target {
        Target::DeadLetters | Target::ScheduledJobs | Target::Jobs => wanted.filters(),
        _ => Params::default(),
    }
}

/// Responds with the page, and with what is wrong.
async fn ask(visit: &Visit, wanted: &Wanted, error: Option<&ApiError>) -> Response {
    match extent(visit, wanted).await {
        Ok(extent) => {
            let page = page(visit, wanted.act, &question(wanted, &extent, error));
            match error {
                Some(error) => (error.status, page).into_response(),
                None => page,
            }
        }
        Err(unknown) => {
            let said = error.unwrap_or(&unknown);
            let content = html! { (problem(&said.detail)) div.acts { (back(wanted)) } };
            (said.status, page(visit, wanted.act, &content)).into_response()
        }
    }
}

fn refuse(visit: &Visit, act: &Act, wrong: String) -> Response {
    let error = unfit(wrong);
    let content = html! {
        (problem(&error.detail))
        p { a.button href=(act.section.path()) { "Back" } }
    };
    (error.status, page(visit, act, &content)).into_response()
}

fn page(visit: &Visit, act: &Act, content: &Markup) -> Response {
    let title = format!("{}: {}", act.verb, act.nouns.1);
    visit.page(act.section, &title, content)
}

fn problem(detail: &str) -> Markup {
    html! { p.problem role="alert" { (text(detail)) } }
}

fn back(wanted: &Wanted) -> Markup {
    let list = list_of(wanted).link(wanted.act.section.path());
    html! { a.button href=(list) { "Back, and change nothing" } }
}

/// Returns what is asked.
fn question(wanted: &Wanted, extent: &Extent, error: Option<&ApiError>) -> Markup {
    let act = wanted.act;
    let is_empty = extent.count == Some(0) && act.target != Target::Breakers;
    let class = if wanted.act.is_final() {
        "danger"
    } else {
        "primary"
    };
    let button = match extent.count {
        Some(count) => format!("{} {}", act.verb, act.of(count)),
        None => format!("{} {}", act.verb, act.nouns.1),
    };
    html! {
        @if let Some(error) = error { (problem(&error.detail)) }
        section.card {
            h2 { (extent.headline) }
            (extent.about)
            @if wanted.is_all() { (filters(wanted)) }
            @if is_empty {
                p { "There is nothing to do." }
            } @else {
                p { (act.effect) }
                p { strong { (act.undo) } }
            }
        }
        @if is_empty {
            div.acts { (back(wanted)) }
        } @else {
            form.card method="post" action=(act.page()) {
                input type="hidden" name=(FIELDS) value=(wanted.hidden().encode());
                @if let Some(word) = wanted.word() {
                    label for="confirm" { "No filter is set. To go on, type the word " strong { (word) } }
                    input #confirm type="text" name="confirm" required autocomplete="off" autocapitalize="off" spellcheck="false";
                }
                div.acts { button class=(class) type="submit" { (button) } (back(wanted)) }
            }
        }
    }
}

/// Says which filters hold.
fn filters(wanted: &Wanted) -> Markup {
    let given = wanted.filters();
    html! {
        @if given.pairs().next().is_none() {
            p.notice { "No filter is set: this is for all " (wanted.act.nouns.1) " that you may see." }
        } @else {
            dl { @for (name, value) in given.pairs() { dt { (label(name)) } dd { (text(value)) } } }
        }
        @match wanted.act.target {
            Target::DeadLetters => { p.hint { "What is given up from " (text(&wanted.until())) " on is not touched." } }
            Target::Jobs | Target::ScheduledJobs => { p.hint { "Jobs that come to match until you confirm are concerned too." } }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::http::header::LOCATION;
    use serde_json::{Value, json};

    use super::*;
    use crate::acts::notice;
    use crate::pages::fixture::{Answers, Asked, shown, visit};

    /// Returns the form that a page sends for some fields.
    fn form(fields: &str, typed: &str) -> String {
        let form = Params::default().and(FIELDS, fields);
        form.and("confirm", typed).encode()
    }

    fn posts(asked: &Asked) -> usize {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .filter(|(uri, _)| uri.starts_with("POST"))
            .count()
    }

    fn said(link: &str) -> String {
        let query = link.split_once('?').unwrap().1;
        notice(&Params::parse(query.as_bytes())).into_string()
    }

    async fn done(act: &str, fields: &str, answer: &Value) -> (String, Asked) {
        let (visit, asked) = visit(act, "", &form(fields, ""), Answers::both(answer));
        let response = run(visit).await.unwrap();
        assert_eq!(response.status(), 303, "{act}");
        let to = response.headers().get(LOCATION).unwrap();
        (to.to_str().unwrap().to_owned(), asked)
    }

    #[tokio::test]
    async fn it_is_said_before_it_is_done() {
        let query = "all=true&observer=%3Cscript%3E&kind=a%0Ab";
        let answer = json!({"items": [], "next": null, "count": 1234});
        let (visit, asked) = visit("drop-dead-letters", query, "", Answers::both(&answer));
        let (status, page) = shown(confirm(visit).await.unwrap()).await;
        assert_eq!(status, 200, "{page}");
        for part in [
            "<h2>Drop 1,234 dead letters</h2>",
            "It cannot be undone.",
            "&lt;script&gt;",
            "from <bdi>2026-11-30T22:00:00.000000Z</bdi> on",
            "method=\"post\" action=\"/console/acts/drop-dead-letters\"",
            "value=\"all=true&amp;observer=%3Cscript%3E&amp;kind=a%0Ab&amp;seen=2026-11-30T22%3A00%3A00.000000Z\"",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(
            !page.contains("<script>") && !page.contains("name=\"confirm\""),
            "{page}"
        );
        let asked = asked.lock().unwrap();
        let (uri, _) = &asked[0];
        assert_eq!(asked.len(), 1);
        let until = "until=2026-11-30T22%3A00%3A00.000000Z&limit=1&count=true";
        let filters = "observer=%3Cscript%3E&kind=a%0Ab";
        assert_eq!(
            *uri,
            format!("GET /api/observers/dead-letters?{filters}&{until}")
        );
    }

    #[tokio::test]
    async fn it_is_done_by_one_request_that_leads_to_the_list() {
        let fields = "all=true&kind=a%0Ab&seen=2026-11-30T21:00:00Z";
        let (to, asked) = done("redrive-dead-letters", fields, &json!({"count": 7})).await;
        assert_eq!(
            to,
            "/console/dead-letters?kind=a%0Ab&done=redrive-dead-letters&count=7"
        );
        let filter = json!({"kind": "a\nb", "until": "2026-11-30T21:00:00.000000Z"});
        let body = json!({"all": true, "filter": filter});
        let uri = "POST /api/observers/dead-letters/redrive".to_owned();
        assert_eq!(*asked.lock().unwrap(), [(uri, body)]);
        let said = said(&to);
        assert!(
            said.contains("role=\"status\">A redrive of 7 dead letters is requested."),
            "{said}"
        );
    }

    #[tokio::test]
    async fn what_was_done_is_said_in_numbers_and_words_of_its_own() {
        let answer = json!({"reset": {}, "closed": 2, "processes": ["a"], "unanswered": ["<b>"]});
        let (to, _) = done("reset-breakers", "observer=shop/a", &answer).await;
        assert_eq!(
            to,
            "/console/observers?done=reset-breakers&count=2&unanswered=1"
        );
        let closed = said(&to);
        assert!(
            closed.contains("2 circuit breakers closed") && closed.contains("1 more process has"),
            "{closed}"
        );
        let (to, _) = done("retry-jobs", "id=a-1", &json!({"count": 0})).await;
        assert!(said(&to).contains("Nothing was changed"), "{to}");
        let (to, _) = done(
            "cancel-backfill",
            "id=3",
            &json!({"id": 3, "state": "Cancelled"}),
        )
        .await;
        assert_eq!(to, "/console/backfills?done=cancel-backfill");
        assert!(said(&to).contains("The backfill is cancelled."));
        assert_eq!(said("?done=%3Cscript%3E&count=1"), "");
        assert!(!said("?done=retry-jobs&count=%3Cscript%3E").contains("script"));
    }

    #[tokio::test]
    async fn what_is_final_for_all_is_done_only_after_its_word() {
        let answer = json!({"items": [], "next": null, "count": 3});
        for (fields, typed, is_done) in [
            ("all=true", "", false),
            ("all=true", "yes", false),
            ("all=true", "Drop ", true),
            ("all=true&key=7", "", true),
        ] {
            let form = form(fields, typed);
            let (visit, asked) = visit("drop-dead-letters", "", &form, Answers::both(&answer));
            let (status, page) = shown(run(visit).await.unwrap()).await;
            assert_eq!(
                (status == 303, posts(&asked)),
                (is_done, is_done.into()),
                "{fields}: {page}"
            );
            assert_eq!(
                page.contains("type the word <strong>drop"),
                !is_done,
                "{page}"
            );
        }
    }

    #[tokio::test]
    async fn refusal_of_the_api_is_shown_with_the_question() {
        let answers = Answers {
            get: (
                StatusCode::OK,
                json!({"items": [], "count": 2, "next": null}),
            ),
            post: (StatusCode::CONFLICT, json!({"detail": "no <b> today"})),
        };
        let (visit, _) = visit(
            "redrive-dead-letters",
            "",
            &form("all=true&key=7", ""),
            answers,
        );
        let (status, page) = shown(run(visit).await.unwrap()).await;
        assert_eq!(status, 409);
        assert!(
            page.contains("role=\"alert\"><bdi>no &lt;b&gt; today"),
            "{page}"
        );
        assert!(page.contains("Redrive 2 dead letters"), "{page}");
    }

    #[tokio::test]
    async fn what_cannot_be_done_has_no_form() {
        let none = json!({"items": [], "next": null, "count": 0});
        for (status, answer, said) in [
            (
                StatusCode::BAD_REQUEST,
                json!({"detail": "since is wrong"}),
                "since is wrong",
            ),
            (StatusCode::OK, none, "There is nothing to do."),
        ] {
            let get = (status, answer);
            let answers = Answers {
                post: get.clone(),
                get,
            };
            let (visit, _) = visit("drop-dead-letters", "all=true&since=x", "", answers);
            let (shown_as, page) = shown(confirm(visit).await.unwrap()).await;
            assert_eq!(shown_as, status.as_u16());
            assert!(
                page.contains(said) && !page.contains("name=\"fields\""),
                "{page}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_asks_the_api_for_nothing() {
        for fields in ["", "all=true&obsrver=a", "id=1&all=true"] {
            let answers = Answers::both(&json!({"count": 1}));
            let (visit, asked) = visit("drop-dead-letters", fields, &form(fields, ""), answers);
            let (status, _) = shown(run(visit.clone()).await.unwrap()).await;
            assert_eq!(status, 422, "{fields}");
            let (status, _) = shown(confirm(visit).await.unwrap()).await;
            assert_eq!(status, 422, "{fields}");
            assert_eq!(*asked.lock().unwrap(), [], "{fields}");
        }
        let (visit, _) = visit("unknown", "", "", Answers::both(&json!({})));
        assert!(matches!(confirm(visit).await, Err(Failure::NotFound)));
    }
}
