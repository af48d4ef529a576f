//! Parameters of a query or of a form.

use form_urlencoded::{Serializer, parse};

/// Names and values, in order. A name may be given several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Parses a query or the body of a form. Names without a value are left out: a form sends all of its fields.
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        let pairs = parse(encoded).filter(|(_, value)| !value.is_empty());
        Self(
            pairs
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// Returns the first value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let own = self.0.iter().find(|(one, _)| one == name);
        own.map(|(_, value)| value.as_str())
    }

    /// Returns all values of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.0.iter().filter(move |(one, _)| one == name);
        own.map(|(_, value)| value.as_str())
    }

    /// Returns all names and values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the parameters of these names alone.
    pub(crate) fn only(&self, names: &[&str]) -> Self {
        let kept = self
            .0
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()));
        Self(kept.cloned().collect())
    }

    /// Returns these parameters with one value of a name, or with none.
    pub(crate) fn with(&self, name: &str, value: Option<&str>) -> Self {
        let mut pairs: Vec<_> = self
            .0
            .iter()
            .filter(|(one, _)| one != name)
            .cloned()
            .collect();
        pairs.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        Self(pairs)
    }

    /// Returns these parameters with one value more.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns a link to a path with these parameters.
    pub(crate) fn link(&self, path: &str) -> String {
        if self.0.is_empty() {
            return path.to_owned();
        }
        format!("{path}?{}", self.encode())
    }

    /// Returns these parameters as a query, which is always ASCII.
    pub(crate) fn encode(&self) -> String {
        Serializer::new(String::new())
            .extend_pairs(self.pairs())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_encoded_again() {
        let all = Params::parse(b"q=a%3D1+%26&empty=&state=x&state=y");
        assert_eq!(all.get("q"), Some("a=1 &"));
        assert_eq!(all.get("empty"), None);
        assert_eq!(all.all("state").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(all.link("/p"), "/p?q=a%3D1+%26&state=x&state=y");
        let other = all.with("q", None).with("state", Some("z"));
        assert_eq!(other.link("/p"), "/p?state=z");
        assert_eq!(all.only(&["none"]).link("/p"), "/p");
    }
}
