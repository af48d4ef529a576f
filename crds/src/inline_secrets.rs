//! Secrets written as plain values in a resource, readable by everyone who may view it.

use serde_json::Value;
use url::Url;

/// Maximum number of fields reported for a resource.
const MOST: usize = 12;

/// Fields that hold nothing but a secret.
const FIELDS: [&str; 8] = [
    "password",
    "apiKey",
    "token",
    "credentials",
    "key",
    "signingSecret",
    "signingSecrets",
    "secret",
];

/// What the name of a header or of a parameter of a URL has in it whose value is a secret.
const WORDS: [&str; 9] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "api-key",
    "apikey",
    "api_key",
    "signature",
];

/// Ends of names that have such a word and hold no secret.
const HARMLESS: [&str; 3] = ["type", "version", "algorithm"];

/// Hosts whose URLs are secrets themselves, with how their paths begin.
const HOSTS: [(&str, &str); 6] = [
    ("hooks.slack.com", "/"),
    ("hooks.slack-gov.com", "/"),
    ("webhook.office.com", "/"),
    ("logic.azure.com", "/"),
    ("api.powerplatform.com", "/"),
    ("discord.com", "/api/webhooks/"),
];

/// Schemes in which a user without a password is a token.
const TOKEN_SCHEMES: [&str; 4] = ["http", "https", "nats", "tls"];

/// Returns the fields of a spec that hold what looks like a secret as a `value`, such as
/// `spec.actions[0].webhook.headers.Authorization`; at most twelve. Values with templates do not count, nor do names of
/// users.
#[must_use]
pub fn inline_secrets(spec: &impl serde::Serialize) -> Vec<String> {
    let mut found = Vec::new();
    let spec = serde_json::to_value(spec).unwrap_or_default();
    collect(&spec, "spec", &mut Vec::new(), &mut found);
    found.truncate(MOST);
    found
}

/// Looks at a value at a path, whose names `names` are, the last one last.
fn collect<'a>(value: &'a Value, path: &str, names: &mut Vec<&'a str>, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let inline = fields.get("value").and_then(Value::as_str);
            if let Some(text) = inline.filter(|_| fields.len() == 1)
                && is_secret(names, text)
            {
                found.push(path.to_owned());
            }
            for (name, value) in fields {
                names.push(name);
                collect(value, &format!("{path}.{name}"), names, found);
                names.pop();
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                collect(item, &format!("{path}[{n}]"), names, found);
            }
        }
        _ => {}
    }
}

fn is_secret(names: &[&str], text: &str) -> bool {
    if text.is_empty() || text.contains("{{") {
        return false;
    }
    match names {
        [.., "headers", name] => is_secret_name(name),
        // The URL alone authorises a post.
        [.., "slack" | "teams", "url"] => true,
        [.., "url"] => is_secret_url(text),
        [.., name] => FIELDS.contains(name),
        [] => false,
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_harmless = HARMLESS.iter().any(|end| name.ends_with(end));
    !is_harmless && (name == "sig" || WORDS.iter().any(|word| name.contains(word)))
}

/// Returns whether a URL has a password, a parameter that is a secret, or a host that knows who calls by the URL alone.
fn is_secret_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    let at_host = |(host, path): &(&str, &str)| {
        let own = url.host_str().unwrap_or_default();
        let is_at = own
            .strip_suffix(*host)
            .is_some_and(|before| before.is_empty() || before.ends_with('.'));
        is_at && url.path().starts_with(*path)
    };
    let is_token = TOKEN_SCHEMES.contains(&url.scheme()) && !url.username().is_empty();
    is_token
        || url.password().is_some_and(|password| !password.is_empty())
        || url.query_pairs().any(|(name, _)| is_secret_name(&name))
        || HOSTS.iter().any(at_host)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_in_plain_sight_are_found_with_their_places() {
        let by_reference = json!({ "secretKeyRef": { "name": "hooks", "key": "token" } });
        let spec = json!({
            "database": { "url": { "value": "postgres://shop:secret@db/shop" } },
            "search": { "elasticsearch": { "url": { "value": "https://search:9200" }, "apiKey": { "value": "abc" } } },
            "actions": [
                { "webhook": {
                    "url": { "value": "https://hooks.example.com/orders?access_token=abc" },
                    "headers": {
                        "Authorization": { "value": "Bearer abc" },
                        "X-Api-Key": by_reference,
                        "X-Tenant": { "value": "shop" },
                        "X-Token": { "value": "{{ new.token }}" },
                    },
                    "signingSecrets": [by_reference, { "value": "whsec_abc" }],
                } },
                { "slack": { "url": { "value": "https://slack.example.com/services/T/B/x" } } },
                { "nats": { "url": { "value": "nats://token@nats:4222" } } },
                { "webhook": { "url": { "value": "https://eu.api.powerplatform.com/hook" } } },
                { "webhook": { "url": { "value": "https://example.com/hook?sv=1&sig=abc" } } },
                { "kafka": { "sasl": { "username": { "value": "shop" }, "password": { "value": "abc" } } } },
            ],
        });
        let mut found = inline_secrets(&spec);
        found.sort();
        let expected = [
            "spec.actions[0].webhook.headers.Authorization",
            "spec.actions[0].webhook.signingSecrets[1]",
            "spec.actions[0].webhook.url",
            "spec.actions[1].slack.url",
            "spec.actions[2].nats.url",
            "spec.actions[3].webhook.url",
            "spec.actions[4].webhook.url",
            "spec.actions[5].kafka.sasl.password",
            "spec.database.url",
            "spec.search.elasticsearch.apiKey",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_everybody_may_read_is_not_told() {
        let spec = json!({
            "database": { "url": { "value": "postgres://shop@db/shop" } },
            "tls": { "ca": { "value": "-----BEGIN CERTIFICATE-----" } },
            "actions": [
                { "webhook": { "url": { "value": "https://hooks.example.com/orders" } } },
                { "webhook": { "url": { "value": "https://nothooks.slack.com.example.com/" } } },
                { "webhook": { "url": { "value": "not a url" } } },
                { "webhook": {
                    "url": { "value": "https://discord.com/channels/1?token_type=bearer" },
                    "headers": { "X-Signature-Version": { "value": "2" } },
                } },
                { "redis": { "key": "orders", "token": { "value": "" } } },
            ],
        });
        assert_eq!(inline_secrets(&spec), Vec::<String>::new());
        assert_eq!(
            inline_secrets(&json!({ "token": { "value": 1 } })),
            Vec::<String>::new()
        );
    }

    #[test]
    fn few_places_are_told_of_many() {
        let one = json!({ "password": { "value": "abc" } });
        let spec = json!({ "actions": vec![one; 100] });
        assert_eq!(inline_secrets(&spec).len(), MOST);
    }
}
