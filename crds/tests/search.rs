//! Each rule for `spec.search`, by what a user reads when it is broken, and by the rules of the
//! cluster.

use std::time::Duration;

use kube::CustomResourceExt;
use observer_crds::config::{DocumentContent, RedactedColumn, SearchBackend, SearchConfig};
use observer_crds::loader::load;
use observer_crds::manifest::SourceFile;
use observer_crds::v1alpha1::ObserverListener;
use serde_json::json;

use crate::rules::{LISTENER, OBSERVER, breaks_listener, problems};

const URL: &str = "url: {value: 'https://search.internal:9200'}";

#[track_caller]
fn breaks_search(search: &str, expected: &str) {
    breaks_listener(
        &format!("search: {{{search}}}"),
        &format!("spec.search{expected}"),
    );
}

#[track_caller]
fn breaks_server(server: &str, expected: &str) {
    breaks_search(
        &format!("elasticsearch: {{{server}}}"),
        &format!(".elasticsearch{expected}"),
    );
}

fn with(search: &str) -> String {
    let listener = LISTENER.replace("spec:\n", &format!("spec:\n  search: {search}\n"));
    format!("{listener}---{OBSERVER}")
}

fn loaded(search: &str) -> SearchConfig {
    let file = SourceFile {
        path: "f.yaml".into(),
        text: with(search),
    };
    let loaded = load(&[file], &|_, _| None, None).unwrap();
    loaded.bundle.listener.search.unwrap()
}

#[test]
fn search_is_off_unless_asked_for() {
    let file = SourceFile {
        path: "f.yaml".into(),
        text: format!("{LISTENER}---{OBSERVER}"),
    };
    let loaded = load(&[file], &|_, _| None, None).unwrap();
    assert_eq!(loaded.bundle.listener.search, None);
}

#[test]
fn search_has_defaults() {
    let expected = SearchConfig {
        backend: SearchBackend::Postgres,
        retention: Duration::from_hours(720),
        documents: DocumentContent::EventsAndOutcomes,
        redact: Vec::new(),
        max_lag: Duration::from_hours(24),
    };
    assert_eq!(loaded("{postgres: {}}"), expected);
    let SearchBackend::Elasticsearch(server) =
        loaded(&format!("{{elasticsearch: {{{URL}}}}}")).backend
    else {
        panic!("not Elasticsearch");
    };
    assert_eq!(server.index, "observer-events");
    assert_eq!((server.tls, server.login), (None, None));
}

#[test]
fn documents_are_stored_in_exactly_one_place() {
    breaks_search(
        "",
        ": does not say where documents are stored; write `postgres: {}` for the listener's own database, \
         or `elasticsearch: {url: ...}`",
    );
    breaks_search(
        &format!("postgres: {{}}, elasticsearch: {{{URL}}}"),
        ": has both `postgres` and `elasticsearch`; keep one of them",
    );
    breaks_search(
        "postgres: {table: events}",
        ".postgres.table: unknown field; there are none here",
    );
    breaks_search(
        "elastic: {}",
        ".elastic: unknown field; known here: documents, elasticsearch, maxLag, postgres, redact, retention",
    );
}

#[test]
fn search_has_bounds() {
    for (field, expected) in [
        ("retention: 59m", "retention: must be 1h to 87600h"),
        ("retention: 87601h", "retention: must be 1h to 87600h"),
        ("maxLag: 59s", "maxLag: must be 1m to 720h"),
        ("maxLag: 721h", "maxLag: must be 1m to 720h"),
        (
            "retention: 30 days",
            "retention: is not a duration; write whole numbers with units, as in `250ms`, `15s` or `1h30m`",
        ),
        (
            "documents: events",
            "documents: must be one of Events, EventsAndOutcomes; did you mean `Events`?",
        ),
    ] {
        breaks_search(&format!("postgres: {{}}, {field}"), &format!(".{expected}"));
    }
}

#[test]
fn redacted_columns_are_names_that_can_match() {
    for name in ["''", "' card'", "'card '"] {
        let expected = match name {
            "''" => "must not be empty",
            _ => "names no column; write `column` or `schema.table.column`",
        };
        breaks_search(
            &format!("postgres: {{}}, redact: [card, {name}]"),
            &format!(".redact[1]: {expected}"),
        );
    }
    for name in [".card", "card.", "public..card", "public.people."] {
        breaks_search(
            &format!("postgres: {{}}, redact: [{name}]"),
            ".redact[0]: names no column; write `column` or `schema.table.column`",
        );
    }
    breaks_search(
        "postgres: {}, redact: [people.card]",
        ".redact[0]: names no schema, so no table matches; write `schema.table.column` such as \
         `public.people.card`, or `card` for the columns of all tables",
    );
    breaks_search(
        "postgres: {}, redact: [card, public.people.card, card]",
        ".redact[2]: `card` is listed already",
    );
    let redact =
        loaded("{postgres: {}, redact: [card number, public.people.card, shop.order.paid.x]}");
    let column = |entity: Option<&str>, column: &str| RedactedColumn {
        entity: entity.map(str::to_owned),
        column: column.to_owned(),
    };
    assert_eq!(
        redact.redact,
        [
            column(None, "card number"),
            column(Some("public.people"), "card"),
            column(Some("shop.order.paid"), "x"),
        ]
    );
    assert!(redact.redact[0].is_of("public.orders"));
    assert!(redact.redact[1].is_of("public.people") && !redact.redact[1].is_of("public.orders"));
}

#[test]
fn a_search_server_has_a_plain_address() {
    for url in ["search.internal:9200", "ftp://search.internal", "https://"] {
        breaks_server(
            &format!("url: {{value: '{url}'}}"),
            ".url.value: is not the URL of a search server; write https://host:9200",
        );
    }
    breaks_server(
        "url: {value: 'https://elastic:hunter2@search.internal'}",
        ".url: holds a user or password; give them as `username` and `password`",
    );
    breaks_server(
        "url: {value: 'https://search.internal/?pretty'}",
        ".url: holds a query or a fragment; write only the server's address, as https://host:9200",
    );
    breaks_server(
        "url: {value: 'http://search.internal:9200'}, tls: {}",
        ".tls: is of no use, as the URL is not encrypted; make it https://",
    );
    breaks_server(
        &format!("{URL}, tls: {{ca: {{value: nothing}}}}"),
        ".tls.ca.value: holds no CERTIFICATE as PEM; it has a line such as -----BEGIN CERTIFICATE-----",
    );
    breaks_server("index: shop", ".url: is missing; a mapping is required");
}

#[test]
fn an_index_has_a_name_that_the_server_takes() {
    for name in [
        "Shop",
        "_shop",
        "-shop",
        "+shop",
        ".shop",
        "shop*",
        "shop events",
        "a/b",
        "a#b",
        "a:b",
    ] {
        breaks_server(
            &format!("{URL}, index: '{name}'"),
            ".index: must look like ^[a-z0-9][-a-z0-9_]*$",
        );
    }
    let long = "i".repeat(61);
    breaks_server(
        &format!("{URL}, index: {long}"),
        ".index: is too long; at most 60 characters are allowed",
    );
    for name in ["logs-shop", "metrics-shop", "synthetics-a", "traces-a-b"] {
        breaks_server(
            &format!("{URL}, index: {name}"),
            ".index: has a beginning that Elasticsearch keeps for data streams of its own; write another one, \
             such as `observer-events`",
        );
    }
    loaded(&format!("{{elasticsearch: {{{URL}, index: shop-logs_1}}}}"));
}

#[test]
fn a_login_is_whole_and_of_one_kind() {
    for half in ["username: {value: u}", "password: {value: p}"] {
        breaks_server(
            &format!("{URL}, {half}"),
            ": must have both `username` and `password`, or neither",
        );
    }
    breaks_server(
        &format!("{URL}, username: {{value: u}}, password: {{value: p}}, apiKey: {{value: a}}"),
        ": must have `username` and `password`, or `apiKey`, not both",
    );
    breaks_server(
        &format!("{URL}, username: {{value: 'a:b'}}, password: {{value: p}}"),
        ".username.value: holds a colon, which no user's name may",
    );
    breaks_server(
        &format!("{URL}, username: {{value: a}}, password: {{value: ''}}"),
        ".password.value: is empty",
    );
    breaks_server(
        &format!("{URL}, apiKey: {{value: 'VuaCfGcB:ui2lp2axT'}}"),
        ".apiKey.value: is an id and a key; give the encoded form, which Elasticsearch returns as `encoded` \
         and is the base64 of id:key",
    );
    breaks_server(
        &format!("{URL}, apiKey: {{value: 'a b'}}"),
        ".apiKey.value: holds a character that is in no encoded API key",
    );
    breaks_server(
        &format!("{URL}, apiKey: {{secretKeyRef: {{name: gone, key: k}}}}"),
        ".apiKey.secretKeyRef: there is no Secret `gone` in namespace `default`; add a Secret document with \
         key `k` to the file, or run with --secrets-dir DIR and put the value in DIR/gone/k",
    );
}

#[test]
fn no_mistake_tells_a_secret() {
    for server in [
        "url: {value: 'https://elastic:hunter2@search.internal'}",
        "url: {value: 'elastic:hunter2@search.internal'}",
        "url: {value: 'https://a'}, username: {value: 'u:hunter2'}, password: {value: p}",
        "url: {value: 'https://a'}, password: {value: hunter2}",
        "url: {value: 'https://a'}, apiKey: {value: 'id:hunter2'}",
    ] {
        let told = problems(&with(&format!("{{elasticsearch: {{{server}}}}}")));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(!told[0].contains("hunter2"), "{told:?}");
    }
}

/// The messages of the rules that the API server checks.
#[test]
fn the_cluster_has_the_rules_that_it_can_check() {
    let crd = json!(ObserverListener::crd());
    let search = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["search"];
    let rules = |schema: &serde_json::Value| -> Vec<String> {
        let rules = schema["x-kubernetes-validations"].as_array().unwrap();
        rules
            .iter()
            .map(|rule| rule["rule"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        rules(search),
        [
            "has(self.postgres) != has(self.elasticsearch)",
            "!has(self.redact) || self.redact.all(name, name.matches('^[^.]+([.][^.]+[.].*[^.])?$'))",
        ]
    );
    assert_eq!(
        rules(&search["properties"]["elasticsearch"]),
        [
            "has(self.username) == has(self.password)",
            "!(has(self.username) && has(self.apiKey))",
            "!has(self.index) || !self.index.matches('^(logs|metrics|synthetics|traces)-')",
        ]
    );
}
