//! What is said of secrets that stand in a resource in plain sight.

/// Reason of a condition that is well but for these.
pub const SECRETS_INLINE: &str = "SecretsInline";

/// Returns the rest of a message that names the fields.
#[must_use]
pub fn in_plain_sight(fields: &[String]) -> String {
    format!(
        "what looks like a secret stands in it in plain sight, for whoever may view the resource: {}. Move it into a \
         Secret, name that by `secretKeyRef: {{name: SECRET, key: KEY}}`, and renew it at its issuer",
        fields.join(", ")
    )
}
