//! The status message for secrets written as plain values in a resource.

/// Reason of a healthy condition that reports them.
pub const SECRETS_INLINE: &str = "SecretsInline";

/// Returns the part of a condition's message that lists the fields.
#[must_use]
pub fn in_plain_sight(fields: &[String]) -> String {
    format!(
        "fields appear to hold secrets as plain values, readable by everyone who may view the resource: {}. Move each \
         into a Secret, refer to it by `secretKeyRef: {{name: SECRET, key: KEY}}`, and rotate it",
        fields.join(", ")
    )
}
