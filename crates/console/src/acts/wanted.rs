//! What an act is asked to do, by the query of its page or by its form.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::Act;
use crate::params::Params;

/// Field of the form with the time at which the person saw what it concerns.
const SEEN: &str = "seen";

/// What an act is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The act.
    pub(crate) act: &'static Act,
    /// `id`, `all` and the act's own fields, each at most once.
    pub(super) fields: Params,
    /// When the person saw what it concerns. What came later is not touched where the API can tell.
    pub(super) seen: DateTime<Utc>,
}

impl Wanted {
    /// Parses what was given, or says what is wrong with it.
    pub(crate) fn parse(
        act: &'static Act,
        given: &Params,
        now: DateTime<Utc>,
    ) -> Result<Self, String> {
        let mut known = vec!["id", "all"];
        known.extend(act.fields);
        for (name, _) in given.pairs() {
            // What is not understood may have been meant to narrow it down.
            if !known.contains(&name) && name != SEEN {
                let known = known.join(", ");
                return Err(format!("unknown field `{name}`; known here: {known}"));
            }
            if given.all(name).nth(1).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let fields = given.only(&known);
        if fields.get("id").is_some() && fields.pairs().nth(1).is_some() {
            return Err("give either an id, or all=true with filters".to_owned());
        }
        if fields.get("all").is_some_and(|all| all != "true") {
            return Err("all must be true".to_owned());
        }
        let seen = given.get(SEEN).map(DateTime::parse_from_rfc3339);
        let seen = seen
            .transpose()
            .map_err(|_| "seen must be a time".to_owned())?
            .map_or(now, |seen| seen.to_utc().min(now));
        let wanted = Self { act, fields, seen };
        wanted.body()?;
        Ok(wanted)
    }

    /// Returns the body of the request, or says what is missing.
    pub(crate) fn body(&self) -> Result<Value, String> {
        (self.act.body)(self)
    }

    /// Returns a field.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// Returns whether it is for all that match.
    pub(crate) fn is_all(&self) -> bool {
        self.get("all").is_some()
    }

    /// Returns what narrows it down.
    pub(crate) fn filters(&self) -> Params {
        self.fields.only(self.act.fields)
    }

    /// Returns what is to be typed before it is done.
    pub(crate) fn word(&self) -> Option<&'static str> {
        let is_everything = self.is_all() && self.filters().pairs().next().is_none();
        self.act.word.filter(|_| is_everything)
    }

    /// Returns the time before which things must have come to be concerned.
    pub(crate) fn until(&self) -> String {
        let bound = self.seen.to_rfc3339_opts(SecondsFormat::Micros, true);
        match self.get("until") {
            None => bound,
            Some(given) => match DateTime::parse_from_rfc3339(given) {
                Ok(time) if time > self.seen => bound,
                // The API says what is wrong with it.
                _ => given.to_owned(),
            },
        }
    }

    /// Returns the fields of the form that does it.
    pub(crate) fn hidden(&self) -> Params {
        let seen = self.seen.to_rfc3339_opts(SecondsFormat::Micros, true);
        self.fields.clone().and(SEEN, &seen)
    }
}
