//! Query parameters: what an endpoint takes, in one place for requests and for the `OpenAPI` document.

use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::problem::Problem;

/// A parameter of an endpoint.
#[derive(Debug)]
pub(super) struct Parameter {
    /// Name.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) about: &'static str,
    /// What its values are.
    pub(super) kind: Kind,
}

/// What values of a parameter are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Text of up to so many characters, without NUL characters.
    Text(usize),
    /// Whole number: the smallest, the largest, and the default.
    Integer(i64, i64, Option<i64>),
    /// Time, as RFC 3339 writes it.
    Time,
    /// `true` or `false`.
    Flag,
    /// One of these.
    Choice(Names),
    /// Some of these: repeated, or with commas.
    Choices(Names),
}

/// Returns the names of what can be chosen.
type Names = fn() -> Vec<&'static str>;

/// Values of a request's parameters, all of them valid.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(Vec<(&'static str, String)>);

impl Parameter {
    /// Returns the parameter of the `OpenAPI` document.
    pub(super) fn document(&self, place: &str) -> Value {
        let mut parameter = json!({
            "name": self.name,
            "in": place,
            "description": self.about,
            "schema": self.kind.schema(),
        });
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    }
}

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Text(longest) => json!({
                "type": "string", "minLength": 1, "maxLength": longest, "pattern": "^[^\u{0}]*$",
            }),
            Self::Integer(least, most, default) => {
                let mut schema = json!({ "type": "integer", "minimum": least, "maximum": most });
                if let Some(default) = default {
                    schema["default"] = default.into();
                }
                schema
            }
            Self::Time => json!({ "type": "string", "format": "date-time" }),
            Self::Flag => json!({ "type": "boolean", "default": false }),
            Self::Choice(names) => json!({ "type": "string", "enum": names() }),
            Self::Choices(names) => json!({
                "type": "array", "minItems": 1, "items": { "type": "string", "enum": names() },
            }),
        }
    }

    /// Says what is wrong with a value, if something is.
    fn check(self, value: &str) -> Result<(), String> {
        let one_of = |choices: &[&str]| format!("must be one of {}", choices.join(", "));
        match self {
            Self::Text(_) if value.contains('\0') => Err("holds a NUL character (%00)".to_owned()),
            Self::Text(_) if value.is_empty() => {
                Err("must not be empty; leave it out instead".to_owned())
            }
            Self::Text(longest) if value.chars().count() > longest => {
                Err(format!("must be at most {longest} characters"))
            }
            Self::Integer(least, most, _) => match value.parse::<i64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(()),
                _ => Err(format!("must be {least} to {most}")),
            },
            Self::Time if DateTime::parse_from_rfc3339(value).is_err() => {
                Err("must be a time as 2026-03-01T12:00:00Z".to_owned())
            }
            Self::Flag if !["true", "false"].contains(&value) => {
                Err("must be true or false".to_owned())
            }
            Self::Choice(names) if !names().contains(&value) => Err(one_of(&names())),
            Self::Choices(names) if !value.split(',').all(|one| names().contains(&one)) => {
                Err(one_of(&names()))
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether a query string is text, which a parser of forms would make of it silently.
fn is_utf8(query: &str) -> bool {
    percent_decode_str(query).decode_utf8().is_ok()
}

impl Values {
    /// Parses a query string. Everything in it must be a parameter of the endpoint, and valid.
    pub(super) fn parse(query: &str, parameters: &'static [Parameter]) -> Result<Self, Problem> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        if !is_utf8(query) {
            return Err(Problem::bad_request(
                "a parameter is not UTF-8 that is percent-encoded",
            ));
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(parameter) = parameters.iter().find(|one| one.name == name) else {
                let name: String = name.chars().take(80).collect();
                let known: Vec<&str> = parameters.iter().map(|one| one.name).collect();
                let known = if known.is_empty() {
                    "none is known here".to_owned()
                } else {
                    format!("known here: {}", known.join(", "))
                };
                return Err(Problem::bad_request(format!(
                    "unknown parameter `{name}`; {known}"
                )));
            };
            let name = parameter.name;
            let repeated = values.iter().any(|(other, _)| *other == name);
            if repeated && !matches!(parameter.kind, Kind::Choices(_)) {
                return Err(Problem::bad_request(format!("{name} is given twice")));
            }
            if let Err(wrong) = parameter.kind.check(&value) {
                return Err(Problem::bad_request(format!("{name} {wrong}")));
            }
            values.push((name, value.into_owned()));
        }
        for parameter in parameters {
            let Kind::Integer(_, _, Some(default)) = parameter.kind else {
                continue;
            };
            if values.iter().all(|(name, _)| *name != parameter.name) {
                values.push((parameter.name, default.to_string()));
            }
        }
        Ok(Self(values))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(other, _)| *other == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// Returns a text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// Returns a number, which is there if it has a default.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }

    /// Returns a number that is not negative.
    pub(super) fn size(&self, name: &str) -> u32 {
        self.integer(name)
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or_default()
    }

    /// Returns a time.
    pub(super) fn time(&self, name: &str) -> Option<DateTime<Utc>> {
        let time = DateTime::parse_from_rfc3339(self.get(name)?).ok()?;
        Some(time.to_utc())
    }

    /// Returns whether a flag is set.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Returns all choices.
    pub(super) fn choices(&self, name: &str) -> Vec<&str> {
        let values = self.0.iter().filter(|(other, _)| *other == name);
        values.flat_map(|(_, value)| value.split(',')).collect()
    }

    /// Returns all that was given but these, in one order, as text that stands for nothing else.
    pub(super) fn canonical(&self, without: &[&str]) -> String {
        let kept = self.0.iter().filter(|(name, _)| !without.contains(name));
        let mut kept: Vec<&(&str, String)> = kept.collect();
        kept.sort_unstable();
        json!(kept).to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const ALL: &[Parameter] = &[
        Parameter {
            name: "q",
            about: "",
            kind: Kind::Text(5),
        },
        Parameter {
            name: "limit",
            about: "",
            kind: Kind::Integer(0, 10, Some(3)),
        },
        Parameter {
            name: "from",
            about: "",
            kind: Kind::Time,
        },
        Parameter {
            name: "facets",
            about: "",
            kind: Kind::Flag,
        },
        Parameter {
            name: "operation",
            about: "",
            kind: Kind::Choices(|| vec!["Insert", "Update"]),
        },
        Parameter {
            name: "sort",
            about: "",
            kind: Kind::Choice(|| vec!["newest", "oldest"]),
        },
    ];

    #[test]
    fn valid_parameters_are_read_and_defaults_are_there() {
        let values = Values::parse(
            "q=a%20%C3%A9&operation=Insert&from=2026-01-01T00:00:00%2B01:00&operation=Update,Insert&facets=true",
            ALL,
        )
        .unwrap();
        assert_eq!(values.text("q").as_deref(), Some("a é"));
        assert_eq!(values.choices("operation"), ["Insert", "Update", "Insert"]);
        assert_eq!((values.size("limit"), values.flag("facets")), (3, true));
        let from = values.time("from").unwrap();
        assert_eq!(from.to_rfc3339(), "2025-12-31T23:00:00+00:00");
        let other = Values::parse("facets=true&sort=oldest&limit=7", ALL).unwrap();
        assert_eq!(
            other.canonical(&["limit", "facets"]),
            "[[\"sort\",\"oldest\"]]"
        );
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (query, named) in [
            ("Q=1", "unknown parameter `Q`; known here: q, limit"),
            ("q=1&q=2", "q is given twice"),
            ("q=", "q must not be empty"),
            ("q=123456", "q must be at most 5 characters"),
            ("q=%00", "q holds a NUL"),
            ("q=%ff", "not UTF-8"),
            ("%ed%a0%80=1", "not UTF-8"),
            ("q", "q must not be empty"),
            ("limit=-1", "limit must be 0 to 10"),
            ("limit=99999999999999999999", "limit must be 0 to 10"),
            ("limit=+1", "limit must be 0 to 10"),
            ("from=2026-02-30T00:00:00Z", "from must be a time"),
            ("limit=11", "limit must be 0 to 10"),
            ("limit=1e1", "limit must be 0 to 10"),
            ("from=today", "from must be a time"),
            ("facets=yes", "facets must be true or false"),
            ("operation=Insert,Upsert", "operation must be one of Insert"),
            ("sort=", "sort must be one of newest, oldest"),
        ] {
            let problem = format!("{:?}", Values::parse(query, ALL).unwrap_err());
            assert!(problem.contains(named), "{query}: {problem}");
        }
        let none = format!("{:?}", Values::parse("a=1", &[]).unwrap_err());
        assert!(none.contains("none is known here"), "{none}");
    }
}
