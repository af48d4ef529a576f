//! Validation of search: the rules that its schema cannot say.

use super::tls;
use super::url::url;
use crate::config::{
    ElasticsearchConfig, Redacted, RedactedColumn, SearchBackend, SearchConfig, SearchLogin,
    ServerUrl,
};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{ElasticsearchSearch, Search, ValueSource};
use crate::validation::context::ValidationContext;

const AT: &str = "/spec/search";
const SHORTEST_RETENTION: HumanDuration = HumanDuration::from_secs(3600);
const LONGEST_RETENTION: HumanDuration = HumanDuration::from_secs(87_600 * 3600);
const SHORTEST_LAG: HumanDuration = HumanDuration::from_secs(60);
const LONGEST_LAG: HumanDuration = HumanDuration::from_secs(720 * 3600);

/// Beginnings of names that the templates of Elasticsearch itself claim.
const RESERVED: [&str; 4] = ["logs-", "metrics-", "synthetics-", "traces-"];

/// Validates the search of a listener and returns its configuration.
pub(crate) fn check(search: &Search, context: &mut ValidationContext<'_>) -> SearchConfig {
    let backend = match (&search.postgres, &search.elasticsearch) {
        (Some(_), None) => SearchBackend::Postgres,
        (None, Some(server)) => SearchBackend::Elasticsearch(elasticsearch(server, context)),
        (None, None) => {
            context.missing_field(
                AT,
                &["postgres", "elasticsearch"],
                "does not say where documents are stored; write `postgres: {}` for the listener's own database, or \
                 `elasticsearch: {url: ...}`",
            );
            SearchBackend::Postgres
        }
        (Some(_), Some(_)) => {
            context.error(
                AT,
                "has both `postgres` and `elasticsearch`; keep one of them",
            );
            SearchBackend::Postgres
        }
    };
    let range = |name: &str, value, from, to, context: &mut ValidationContext<'_>| {
        context.check_range(&field(AT, name), value, from, to)
    };
    SearchConfig {
        backend,
        retention: range(
            "retention",
            search.retention,
            SHORTEST_RETENTION,
            LONGEST_RETENTION,
            context,
        ),
        documents: search.documents,
        redact: redact(&search.redact, context),
        max_lag: range("maxLag", search.max_lag, SHORTEST_LAG, LONGEST_LAG, context),
    }
}

/// Returns the columns; the last part of a name with dots is the column, the rest the entity. A name
/// that would match no table is an error, as it would leave a value in the documents.
fn redact(names: &[String], context: &mut ValidationContext<'_>) -> Vec<RedactedColumn> {
    let mut columns: Vec<RedactedColumn> = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let at = format!("{AT}/redact/{index}");
        let (entity, column) = match name.rsplit_once('.') {
            Some((entity, column)) => (Some(entity), column),
            None => (None, name.as_str()),
        };
        let is_blank = |part: &str| part.is_empty() || part.trim() != part;
        let parts = entity.into_iter().flat_map(|entity| entity.split('.'));
        if parts.chain([column]).any(is_blank) {
            let message = "names no column; write `column` or `schema.table.column`";
            context.error(&at, message);
            continue;
        }
        if entity.is_some_and(|entity| !entity.contains('.')) {
            let message = format!(
                "names no schema, so no table matches; write `schema.table.column` such as `public.{name}`, \
                 or `{column}` for the columns of all tables"
            );
            context.error(&at, message);
            continue;
        }
        let redacted = RedactedColumn {
            entity: entity.map(str::to_owned),
            column: column.to_owned(),
        };
        if columns.contains(&redacted) {
            context.error(&at, format!("`{name}` is listed already"));
            continue;
        }
        columns.push(redacted);
    }
    columns
}

/// Reports what the URL of a search server may not have.
fn check_url(at: &str, url: &Redacted, context: &mut ValidationContext<'_>) {
    let Some((url, _)) = ServerUrl::SEARCH.parse(url) else {
        return;
    };
    if !url.username().is_empty() || url.password().is_some() {
        context.error(
            at,
            "holds a user or password; give them as `username` and `password`",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        context.error(
            at,
            "holds a query or a fragment; write only the server's address, as https://host:9200",
        );
    }
}

fn elasticsearch(
    server: &ElasticsearchSearch,
    context: &mut ValidationContext<'_>,
) -> ElasticsearchConfig {
    let at = field(AT, "elasticsearch");
    let server_url = url(&field(&at, "url"), &server.url, ServerUrl::SEARCH, context);
    check_url(&field(&at, "url"), &server_url, context);
    let mut value = |name: &str, source: &Option<ValueSource>| {
        let (at, value) = context.resolve(&field(&at, name), source.as_ref()?)?;
        // Secrets read from files often end in a line break.
        let value = value.reveal().trim_end_matches(['\r', '\n']);
        if let Some(message) = login_mistake(name, value) {
            context.error(&at, message);
        }
        Some(Redacted::new(value))
    };
    let username = value("username", &server.username);
    let password = value("password", &server.password);
    let api_key = value("apiKey", &server.api_key);
    if server.username.is_some() != server.password.is_some() {
        context.error(&at, "must have both `username` and `password`, or neither");
    }
    if server.username.is_some() && server.api_key.is_some() {
        context.error(
            &at,
            "must have `username` and `password`, or `apiKey`, not both",
        );
    }
    if RESERVED.iter().any(|one| server.index.starts_with(one)) {
        context.error(
            &field(&at, "index"),
            "has a beginning that Elasticsearch keeps for data streams of its own; write another one, such as \
             `observer-events`",
        );
    }
    let login = match (username.zip(password), api_key) {
        (Some((user, password)), _) => Some(SearchLogin::Basic(user, password)),
        (None, Some(key)) => Some(SearchLogin::ApiKey(key)),
        (None, None) => None,
    };
    ElasticsearchConfig {
        tls: tls::of_url(&at, server.tls.as_ref(), (&server_url, "https"), context),
        url: server_url,
        index: server.index.clone(),
        login,
    }
}

/// Returns what is wrong with a part of a login, without the value.
fn login_mistake(name: &str, value: &str) -> Option<&'static str> {
    match name {
        _ if value.is_empty() => Some("is empty"),
        // The login is sent as user:password.
        "username" if value.contains(':') => Some("holds a colon, which no user's name may"),
        "apiKey" if value.contains(':') => Some(
            "is an id and a key; give the encoded form, which Elasticsearch returns as `encoded` and is the \
             base64 of id:key",
        ),
        "apiKey" if !value.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some("holds a character that is in no encoded API key")
        }
        _ => None,
    }
}
