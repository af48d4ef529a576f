//! Names of entities that are tables.

/// Joins schema and table as `observer.entity_of` does: each is written as it is, and quoted where it holds a
/// dot or a quotation mark.
pub(crate) fn join(schema: &str, table: &str) -> String {
    let part = |part: &str| {
        if part.contains(['.', '"']) {
            format!("\"{}\"", part.replace('"', "\"\""))
        } else {
            part.to_owned()
        }
    };
    format!("{}.{}", part(schema), part(table))
}
