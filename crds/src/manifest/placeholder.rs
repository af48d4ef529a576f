//! Stand-ins for what does not fit a schema, so that the rest can be read and checked.

use serde_json::{Map, Value};

use crate::manifest::diagnostics::field;

/// What to do about an error, once all are known.
pub(crate) enum Fix {
    /// Take an unknown field away.
    Remove(String),
    /// Put a value that fits in place of one that does not, or take it away if it may be.
    Replace(String),
    /// Put a value where one is missing.
    Add {
        /// The mapping that lacks it.
        object: String,
        /// Its name.
        name: String,
    },
}

/// Makes one field fit.
pub(crate) fn apply_placeholder(schema: &Value, value: &mut Value, fix: Fix) {
    match fix {
        Fix::Remove(pointer) => {
            if let Some((map, name)) = parent(value, &pointer) {
                map.remove(&name);
            }
        }
        Fix::Add { object, name } => {
            let placeholder =
                descend(schema, &field(&object, &name)).map_or(Value::Null, placeholder);
            if let Some(Value::Object(map)) = value.pointer_mut(&object) {
                map.insert(name, placeholder);
            }
        }
        Fix::Replace(pointer) => {
            let (around, name) = pointer.rsplit_once('/').unwrap_or_default();
            let required = descend(schema, around)
                .and_then(|around| around.get("required")?.as_array())
                .is_some_and(|required| required.iter().any(|one| one == name));
            match parent(value, &pointer) {
                // What may be left out is left out; its default fits.
                Some((map, name)) if !required => {
                    map.remove(&name);
                }
                _ => {
                    if let Some(value) = value.pointer_mut(&pointer) {
                        *value = descend(schema, &pointer).map_or(Value::Null, placeholder);
                    }
                }
            }
        }
    }
}

/// The object around a field, and the field's name in it.
fn parent<'a>(value: &'a mut Value, pointer: &str) -> Option<(&'a mut Map<String, Value>, String)> {
    let (around, name) = pointer.rsplit_once('/')?;
    let map = value.pointer_mut(around)?.as_object_mut()?;
    Some((map, name.replace("~1", "/").replace("~0", "~")))
}

/// A value that fits.
fn placeholder(schema: &Value) -> Value {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    if let Some(first) = schema.pointer("/enum/0") {
        return first.clone();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => Value::from(""),
        Some("integer" | "number") => Value::from(0),
        Some("boolean") => Value::from(false),
        Some("array") => Value::Array(Vec::new()),
        Some("object") => {
            let required = schema.get("required").and_then(Value::as_array);
            required
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|name| {
                    let part = schema.get("properties").and_then(|all| all.get(name));
                    (name.to_owned(), part.map_or(Value::Null, placeholder))
                })
                .collect()
        }
        _ => Value::Null,
    }
}

/// The part of a schema that speaks about a field.
pub(crate) fn descend<'a>(schema: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(schema, |schema, step| {
        let step = step.replace("~1", "/").replace("~0", "~");
        let field = schema.get("properties").and_then(|all| all.get(&step));
        field
            .or_else(|| schema.get("items"))
            .or_else(|| schema.get("additionalProperties"))
    })
}
