//! Which lookups a template uses.

use cel::names::{did_you_mean, list, shorten};

use crate::tracking::templates::names;

/// Set of lookups of one observer, by their positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lookups(u64);

impl Lookups {
    pub(super) const fn with(self, position: usize) -> Self {
        Self(self.0 | 1 << position)
    }

    pub(super) const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(super) const fn contains(self, position: usize) -> bool {
        self.0 & 1 << position != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |position| self.contains(*position))
    }
}

/// Returns which of the `known` lookups a template uses, or what is wrong with its use of another. One that
/// refers to `enrich` as a whole uses all.
pub(super) fn names_in(source: &str, known: &[String]) -> Result<Lookups, String> {
    let mut used = Lookups::default();
    let all = names(source);
    let mut all: Vec<&String> = all.iter().collect();
    all.sort();
    for name in all {
        let mut path = name.split('.');
        if path.next() != Some("enrich") {
            continue;
        }
        let Some(lookup) = path.next() else {
            if known.is_empty() {
                return Err(
                    "uses `enrich`, and there are no lookups before it in spec.enrich".to_owned(),
                );
            }
            used = (0..known.len()).fold(used, Lookups::with);
            continue;
        };
        match known.iter().position(|one| one == lookup) {
            Some(position) => used = used.with(position),
            None => return Err(unknown(lookup, known)),
        }
    }
    Ok(used)
}

fn unknown(lookup: &str, known: &[String]) -> String {
    let names = || known.iter().map(String::as_str);
    let remedy = match did_you_mean(lookup, names()) {
        Some(near) => format!("did you mean enrich.{near}?"),
        None if known.is_empty() => "there are none before it in spec.enrich".to_owned(),
        None => format!("known here are: {}", list(names())),
    };
    format!("there is no lookup {}; {remedy}", shorten(lookup))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn used(source: &str) -> String {
        let known = ["customer", "price", "stock"].map(str::to_owned);
        match names_in(source, &known) {
            Ok(used) => used
                .iter()
                .map(|n| known[n].as_str())
                .collect::<Vec<_>>()
                .join(" "),
            Err(message) => message,
        }
    }

    #[test]
    fn lookups_are_found_wherever_a_template_uses_them() {
        assert_eq!(used("{{ new.id }}"), "");
        assert_eq!(
            used("{{ enrich.price }} {{ enrich.customer.name }}"),
            "customer price"
        );
        assert_eq!(
            used(
                "{% if enrich.stock %}{% for i in enrich.stock.items %}{{ i }}{% endfor %}{% endif %}"
            ),
            "stock"
        );
        assert_eq!(used("{{ enrich | tojson }}"), "customer price stock");
        assert_eq!(
            used("{% set all = enrich %}{{ all.price }}"),
            "customer price stock"
        );
    }

    #[test]
    fn lookups_that_do_not_exist_are_named() {
        assert!(used("{{ enrich.custmer.name }}").contains("did you mean enrich.customer?"));
        assert!(used("{{ enrich.warehouse }}").contains("known here are: customer, price, stock"));
        let none = names_in("{{ enrich.a }}", &[]).unwrap_err();
        assert!(none.contains("none before it"), "{none}");
    }
}
