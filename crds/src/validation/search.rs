//! Validation of search: the rules that its schema cannot say.

use super::tls;
use super::url::url;
use crate::config::{
    ElasticsearchConfig, Redacted, RedactedColumn, SearchBackend, SearchConfig, SearchLogin,
    ServerUrl,
};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{ElasticsearchSearch, Search};
use crate::validation::context::ValidationContext;

const AT: &str = "/spec/search";
const SHORTEST_RETENTION: HumanDuration = HumanDuration::from_secs(3600);
const LONGEST_RETENTION: HumanDuration = HumanDuration::from_secs(87_600 * 3600);
const SHORTEST_LAG: HumanDuration = HumanDuration::from_secs(60);
const LONGEST_LAG: HumanDuration = HumanDuration::from_secs(720 * 3600);

/// Validates the search of a listener and returns its configuration.
pub(crate) fn check(search: &Search, context: &mut ValidationContext<'_>) -> SearchConfig {
    let backend = match (&search.postgres, &search.elasticsearch) {
        (Some(_), None) => SearchBackend::Postgres,
        (None, Some(server)) => SearchBackend::Elasticsearch(elasticsearch(server, context)),
        (None, None) => {
            context.missing_field(
                AT,
                &["postgres", "elasticsearch"],
                "names no place; write `postgres: {}` to store documents in the listener's own database, or \
                 `elasticsearch: {url: ...}`",
            );
            SearchBackend::Postgres
        }
        (Some(_), Some(_)) => {
            context.error(AT, "must have `postgres` or `elasticsearch`, not both");
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

/// Returns the columns; the last part of a name with dots is the column, the rest the entity.
fn redact(names: &[String], context: &mut ValidationContext<'_>) -> Vec<RedactedColumn> {
    let mut columns = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let (entity, column) = match name.rsplit_once('.') {
            Some((entity, column)) => (Some(entity), column),
            None => (None, name.as_str()),
        };
        if column.is_empty() || entity.is_some_and(str::is_empty) {
            let at = format!("{AT}/redact/{index}");
            context.error(
                &at,
                "names no column; write `column` or `schema.table.column`",
            );
            continue;
        }
        columns.push(RedactedColumn {
            entity: entity.map(str::to_owned),
            column: column.to_owned(),
        });
    }
    columns
}

fn elasticsearch(
    server: &ElasticsearchSearch,
    context: &mut ValidationContext<'_>,
) -> ElasticsearchConfig {
    let at = field(AT, "elasticsearch");
    let server_url = url(&field(&at, "url"), &server.url, ServerUrl::HTTP, context);
    let parsed = ServerUrl::HTTP.parse(&server_url).map(|(url, _)| url);
    if parsed.is_some_and(|url| !url.username().is_empty() || url.password().is_some()) {
        context.error(
            &field(&at, "url"),
            "holds a user or password; give them as `username` and `password`",
        );
    }
    let mut value = |name: &str, source: &Option<crate::v1alpha1::ValueSource>| {
        let (_, value) = context.resolve(&field(&at, name), source.as_ref()?)?;
        // Secrets read from files often end in a line break.
        Some(Redacted::new(value.reveal().trim_end_matches(['\r', '\n'])))
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
