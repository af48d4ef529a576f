//! Validation of the HTTP API: the rules that its schema cannot say.

use crate::config::{ApiConfig, ApiToken, ConsoleConfig, Redacted};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Console, HttpApi, ValueSource};
use crate::validation::context::ValidationContext;

const AT: &str = "/spec/api";
const SHORTEST_TOKEN: usize = 16;

/// Validates the HTTP API of a listener and returns its configuration.
pub(crate) fn check(
    api: &HttpApi,
    console: Option<&Console>,
    context: &mut ValidationContext<'_>,
) -> ApiConfig {
    if api.tokens.is_empty() && api.kubernetes.is_none() {
        context.missing_field(
            AT,
            &["tokens", "kubernetes"],
            "admits nobody; give `tokens`, or `kubernetes: {}` in a cluster",
        );
    }
    let mut tokens: Vec<ApiToken> = Vec::with_capacity(api.tokens.len());
    for (index, token) in api.tokens.iter().enumerate() {
        let at = format!("{AT}/tokens/{index}");
        if tokens.iter().any(|other| other.name == token.name) {
            context.error(&field(&at, "name"), "is the name of another token too");
        }
        let value = value(&field(&at, "token"), &token.token, context);
        let same = |other: &&ApiToken| !value.reveal().is_empty() && other.token == value;
        if let Some(other) = tokens.iter().find(same) {
            let message = format!(
                "is the same as that of token `{}`; give each its own",
                other.name
            );
            context.error(&field(&at, "token"), message);
        }
        tokens.push(ApiToken {
            name: token.name.clone(),
            token: value,
            role: token.role,
            tenant: token.tenant.clone(),
        });
    }
    ApiConfig {
        tokens,
        kubernetes: api.kubernetes.is_some(),
        console: console.map(|console| ConsoleConfig {
            read_only: console.read_only,
        }),
    }
}

fn value(at: &str, source: &ValueSource, context: &mut ValidationContext<'_>) -> Redacted {
    let Some((at, token)) = context.resolve(at, source) else {
        return Redacted::default();
    };
    // Secrets read from files often end in a line break.
    let token = token.reveal().trim();
    let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.len() < SHORTEST_TOKEN || !printable {
        context.error(
            &at,
            format!(
                "must be at least {SHORTEST_TOKEN} letters, digits or signs without spaces; make one with \
                 `openssl rand -hex 32`"
            ),
        );
    }
    Redacted::new(token)
}
