//! What all pages have around their content.

use maud::{DOCTYPE, Markup, html};

use crate::BASE;
use crate::assets::{HTMX, ICON, SCRIPT, STYLE};
use crate::routes::path;
use crate::value::text;
use crate::visit::{Caller, Visit};

/// Settings of htmx: no style of its own, no script that stands in a page, and requests to the console alone.
const HTMX_CONFIG: &str = r#"{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,"selfRequestsOnly":true,"historyCacheSize":0,"timeout":30000}"#;

/// A part of the console, as its navigation shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// What is wrong, and how much there is to do.
    Overview,
    /// Observers and circuit breakers.
    Observers,
    /// The history.
    Events,
    /// Events as they are committed.
    Live,
    /// Dead letters.
    DeadLetters,
    /// Jobs.
    Jobs,
    /// Backfills.
    Backfills,
    /// Caches.
    Caches,
    /// What was changed by whom.
    Audit,
}

impl Section {
    const ALL: [Self; 9] = [
        Self::Overview,
        Self::Observers,
        Self::Events,
        Self::Live,
        Self::DeadLetters,
        Self::Jobs,
        Self::Backfills,
        Self::Caches,
        Self::Audit,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Observers => "Observers",
            Self::Events => "Events",
            Self::Live => "Live",
            Self::DeadLetters => "Dead letters",
            Self::Jobs => "Jobs",
            Self::Backfills => "Backfills",
            Self::Caches => "Caches",
            Self::Audit => "Audit",
        }
    }

    /// Returns the path of its list.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Overview => path::OVERVIEW,
            Self::Observers => path::OBSERVERS,
            Self::Events => path::EVENTS,
            Self::Live => path::LIVE,
            Self::DeadLetters => path::DEAD_LETTERS,
            Self::Jobs => path::JOBS,
            Self::Backfills => path::BACKFILLS,
            Self::Caches => path::CACHES,
            Self::Audit => path::AUDIT,
        }
    }

    /// Returns whether those who see one tenant alone may see it.
    const fn is_for_tenants(self) -> bool {
        !matches!(self, Self::Backfills | Self::Caches | Self::Audit)
    }
}

/// Returns a page for somebody who is logged in.
pub(crate) fn page(
    visit: &Visit,
    section: Option<Section>,
    title: &str,
    content: &Markup,
) -> Markup {
    let caller = &visit.caller;
    let header = html! {
        header.top {
            a.brand href=(BASE) { img src=(ICON.path) alt="" width="20" height="20"; (text(&visit.listener)) }
            nav aria-label="Console" { ul {
                @for one in Section::ALL.into_iter().filter(|one| caller.tenant.is_none() || one.is_for_tenants()) {
                    li { a href=(one.path()) aria-current=[(section == Some(one)).then_some("page")] { (one.title()) } }
                }
            } }
            form.who method="post" action=(path::LOGOUT) {
                span { (who(caller)) }
                button type="submit" { "Log out" }
            }
        }
    };
    document(title, &header, content)
}

/// Returns a page for somebody who is not logged in.
pub(crate) fn outside(title: &str, content: &Markup) -> Markup {
    let header = html! {
        header.top { a.brand href=(BASE) { img src=(ICON.path) alt="" width="20" height="20"; "Observers" } }
    };
    document(title, &header, content)
}

fn who(caller: &Caller) -> Markup {
    html! {
        (text(&caller.name))
        @if !caller.operate { " · read only" }
        @if let Some(tenant) = &caller.tenant { " · tenant " (text(tenant)) }
    }
}

fn document(title: &str, header: &Markup, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="htmx-config" content=(HTMX_CONFIG);
                title { (title) " · Observers" }
                link rel="icon" href=(ICON.path) type="image/svg+xml";
                link rel="stylesheet" href=(STYLE.path);
                script src=(HTMX.path) defer {}
                script src=(SCRIPT.path) defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                (header)
                main #main tabindex="-1" {
                    h1 { (title) }
                    (content)
                }
            }
        }
    }
}

/// Returns attributes that renew an element from its own page every few seconds, where there is JavaScript.
/// The element must have this id.
pub(crate) fn renewed(id: &str, link: &str, seconds: u32, content: &Markup) -> Markup {
    html! {
        div id=(id) hx-get=(link) hx-select={ "#" (id) } hx-trigger={ "every " (seconds) "s" } hx-swap="outerHTML" {
            (content)
        }
    }
}

/// Returns the rows of a table, which are renewed in the same way where seconds are given: the table stays where
/// it is scrolled to.
pub(crate) fn renewed_rows(id: &str, link: &str, seconds: Option<u32>, rows: &Markup) -> Markup {
    let trigger = seconds.map(|seconds| format!("every {seconds}s"));
    let link = seconds.map(|_| link);
    html! {
        tbody id=(id) hx-get=[link] hx-select={ "#" (id) } hx-trigger=[trigger] hx-swap="outerHTML" { (rows) }
    }
}
