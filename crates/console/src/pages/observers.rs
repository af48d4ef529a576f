//! Observers, their actions and their circuit breakers.

use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use crate::acts::{RESET, notice};
use crate::api::segment;
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, optional, text};
use crate::visit::Visit;

/// Observers, as `GET /observers` has them.
#[derive(Debug, Deserialize)]
pub(super) struct ObserverList {
    items: Vec<Observer>,
}

/// An observer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Observer {
    /// `namespace/name`.
    #[serde(rename = "observer")]
    pub(super) name: String,
    entity: String,
    operations: Vec<String>,
    tenant: Option<String>,
    condition: Option<String>,
    actions: Vec<Action>,
}

/// An action of an observer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Action {
    /// Its name.
    #[serde(rename = "action")]
    pub(super) name: String,
    kind: String,
    /// State of its circuit breaker.
    pub(super) circuit: Circuit,
    /// Why that opened.
    pub(super) error: Option<String>,
}

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Circuit {
    /// Attempts go out.
    Closed,
    /// Some go out.
    HalfOpen,
    /// None goes out.
    Open,
}

impl Circuit {
    /// Returns the word for it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Closed => "tag good",
            Self::HalfOpen => "tag warn",
            Self::Open => "tag bad",
        }
    }
}

impl ObserverList {
    /// Returns the observer of a name.
    pub(super) fn find(&self, name: &str) -> Option<&Observer> {
        self.items.iter().find(|one| one.name == name)
    }

    /// Returns how many there are.
    pub(super) const fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns the names of those that are sent rows of a table.
    pub(super) fn reading(&self, entity: &str) -> impl Iterator<Item = &str> {
        let reading = self.items.iter().filter(move |one| {
            one.entity == entity && one.operations.iter().any(|operation| operation == "Read")
        });
        reading.map(|one| one.name.as_str())
    }

    /// Returns all actions.
    pub(super) fn actions(&self) -> impl Iterator<Item = (&Observer, &Action)> {
        let all = self.items.iter();
        all.flat_map(|observer| {
            observer
                .actions
                .iter()
                .map(move |action| (observer, action))
        })
    }
}

/// Lists the observers.
pub(crate) async fn list(visit: Visit) -> Result<Response, Failure> {
    let observers: ObserverList = visit.api.get("/observers", &Params::default()).await?;
    let content = html! {
        (notice(&visit.query))
        @if observers.actions().any(|(_, action)| action.circuit != Circuit::Closed) {
            div.acts { (RESET.button(&visit, &Params::default().and("all", "true"), "Close all circuit breakers")) }
        }
        @if observers.items.is_empty() {
            p.notice { "The listener runs no observer. In a cluster, its own status says which it selects; from files, give the file of an Observer too." }
        }
        @for observer in &observers.items { (card(&visit, observer)) }
    };
    Ok(visit.page(Section::Observers, "Observers", &content))
}

/// Returns what an observer waits for and does.
pub(super) fn card(visit: &Visit, observer: &Observer) -> Markup {
    let own = format!("{}{}", path::OBSERVER, segment(&observer.name));
    html! {
        section.card {
            h2 { a href=(own) { (text(&observer.name)) } }
            dl {
                dt { "Events" } dd { (cell(&observer.entity)) ": " (observer.operations.join(", ")) }
                @if observer.tenant.is_some() { dt { "Tenant" } dd { (optional(observer.tenant.as_deref())) } }
                dt { "Condition" } dd {
                    @match &observer.condition {
                        Some(condition) => { code { (text(condition)) } }
                        None => { span.none { "every one of these" } }
                    }
                }
                dt { "Actions" } dd { @for action in &observer.actions {
                    div { (cell(&action.name)) " · " (action.kind) " · "
                        span class=(action.circuit.class()) { "breaker " (action.circuit.word()) }
                        @if let Some(error) = &action.error { " " span.bad { (cell(error)) } }
                        @if action.circuit != Circuit::Closed { " " (reset(visit, observer, action)) }
                    }
                } }
            }
        }
    }
}

fn reset(visit: &Visit, observer: &Observer, action: &Action) -> Markup {
    let fields = Params::default()
        .and("observer", &observer.name)
        .and("action", &action.name);
    RESET.button(visit, &fields, "Close its circuit breaker")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::list;
    use crate::pages::fixture::{Answers, shown, visit};

    #[tokio::test]
    async fn breakers_that_are_not_closed_can_be_closed() {
        let action = |name: &str, circuit: &str| json!({"action": name, "kind": "log", "circuit": circuit, "error": null});
        let observer = |actions| {
            json!({"items": [{"observer": "shop/a", "entity": "e", "operations": ["Insert"], "tenant": null,
                "condition": null, "actions": actions}]})
        };
        let some = observer(json!([action("<x>", "open"), action("y", "closed")]));
        let (visit, _) = visit("", "", "", Answers::both(&some));
        let (_, page) = shown(list(visit.clone()).await.unwrap()).await;
        let one = "/console/acts/reset-breakers?observer=shop%2Fa&amp;action=%3Cx%3E\"";
        let all = "/console/acts/reset-breakers?all=true\"";
        assert!(page.contains(one) && page.contains(all), "{page}");
        assert_eq!(page.matches("reset-breakers").count(), 2, "{page}");

        let mut reader = visit.clone();
        reader.caller.operate = false;
        let mut tenant = visit;
        tenant.caller.tenant = Some("acme".to_owned());
        for visit in [reader, tenant] {
            let (_, page) = shown(list(visit).await.unwrap()).await;
            assert!(!page.contains("reset-breakers"), "{page}");
        }
    }

    #[tokio::test]
    async fn closed_breakers_have_no_button() {
        let action = json!({"action": "x", "kind": "log", "circuit": "closed", "error": null});
        let fine = json!({"items": [{"observer": "shop/a", "entity": "e", "operations": ["Insert"], "tenant": null,
            "condition": null, "actions": [action]}]});
        let (visit, _) = visit("", "", "", Answers::both(&fine));
        let (_, page) = shown(list(visit).await.unwrap()).await;
        assert!(!page.contains("reset-breakers"), "{page}");
    }
}
