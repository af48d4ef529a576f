//! What a condition looks at: columns of its table, and images.

use std::collections::BTreeSet;

use crate::condition::Condition;
use crate::inputs::Side;
use crate::tree::{Function, Kind, Node, Variable};

/// What the parts of a condition look at.
#[derive(Default)]
struct Looks<'n> {
    columns: BTreeSet<&'n str>,
    /// Columns that it asks for before it looks at them.
    asked: BTreeSet<&'n str>,
    /// Images in which it looks for a field, as (old, new), and those that it asks for.
    needed: [bool; 2],
    guarded: [bool; 2],
}

impl Condition {
    /// The columns of the row without which it fails, in order; those that it asks for with `has`
    /// are not among them.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        let mut looks = Looks::default();
        looks.add(self.root());
        looks.columns.difference(&looks.asked).copied().collect()
    }

    /// The lookups whose results it looks at, in order.
    #[must_use]
    pub fn lookups(&self) -> Vec<&str> {
        let mut used = BTreeSet::new();
        let mut parts = vec![self.root()];
        while let Some(node) = parts.pop() {
            match &node.kind {
                Kind::Field { of, name } | Kind::Has { of, name } if is_enrich(of) => {
                    used.insert(name.as_str());
                }
                // As in `enrich[new.kind]`, which may be any.
                Kind::Variable(Variable::Enrich) => {
                    used.extend(self.known_lookups().iter().map(String::as_str));
                }
                _ => parts.extend(node.parts()),
            }
        }
        used.into_iter().collect()
    }

    /// The images without which it fails; those that it asks for are not among them.
    #[must_use]
    pub fn images(&self) -> Vec<Side> {
        let mut looks = Looks::default();
        looks.add(self.root());
        let sides = [Side::Old, Side::New].into_iter();
        sides
            .filter(|side| looks.needed[*side as usize] && !looks.guarded[*side as usize])
            .collect()
    }
}

impl<'n> Looks<'n> {
    fn add(&mut self, node: &'n Node) {
        match &node.kind {
            Kind::Field { of, name } => {
                if let Some(side) = side(of) {
                    self.columns.insert(name);
                    self.needed[side as usize] = true;
                    return;
                }
            }
            Kind::Has { of, name } => {
                if let Some(side) = side(of) {
                    self.asked.insert(name);
                    self.guarded[side as usize] = true;
                    return;
                }
            }
            Kind::Index { of, index } => {
                if let (Some(side), Kind::Text(name)) = (side(of), &index.kind) {
                    self.columns.insert(name);
                    self.needed[side as usize] = true;
                    return;
                }
            }
            Kind::Call(
                Function::Changed | Function::ChangedTo | Function::ChangedFrom,
                arguments,
            ) => {
                if let Some(Kind::Text(name)) = arguments.first().map(|first| &first.kind) {
                    self.columns.insert(name);
                }
            }
            // As in `old == null`.
            Kind::Variable(_) => {
                if let Some(side) = side(node) {
                    self.guarded[side as usize] = true;
                }
            }
            _ => {}
        }
        for part in node.parts() {
            self.add(part);
        }
    }
}

/// Which row a part is.
const fn side(node: &Node) -> Option<Side> {
    match node.kind {
        Kind::Variable(Variable::Old) => Some(Side::Old),
        Kind::Variable(Variable::New) => Some(Side::New),
        _ => None,
    }
}

const fn is_enrich(node: &Node) -> bool {
    matches!(node.kind, Kind::Variable(Variable::Enrich))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn columns_are_found_wherever_they_stand() {
        let of = |text: &str| {
            let condition = Condition::compile(text).unwrap();
            condition.columns().join(" ")
        };
        assert_eq!(
            of("new.total > 1 && (old.status == 'x' || !new.paid)"),
            "paid status total"
        );
        assert_eq!(of("changed('status') ? new['a'] == 1 : true"), "a status");
        assert_eq!(
            of("new.items.exists(item, item.price > new.most)"),
            "items most"
        );
        assert_eq!(of("has(new.note) && new.note == 'x'"), "");
        assert_eq!(of("operation == 'Insert'"), "");
    }

    #[test]
    fn lookups_are_found_wherever_they_stand() {
        let of = |text: &str| {
            let known = ["a", "b", "c"].map(str::to_owned).to_vec();
            let condition = Condition::compile_with_lookups(text, known).unwrap();
            condition.lookups().join(" ")
        };
        assert_eq!(of("new.total > 1"), "");
        assert_eq!(of("enrich.b != null && enrich.b.tier == new.tier"), "b");
        assert_eq!(
            of("has(enrich.c) || enrich.a.items.exists(i, i > 1)"),
            "a c"
        );
        assert_eq!(of("enrich[new.kind] == 1"), "a b c");
    }

    #[test]
    fn lookups_that_do_not_exist_are_refused() {
        let known = vec!["customer".to_owned()];
        let error = Condition::compile_with_lookups("enrich.custmer.tier == 'gold'", known);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did you mean `customer`?"), "{error}");
        let error = Condition::compile("enrich.customer == 1").unwrap_err();
        assert!(error.to_string().contains("`spec.enrich`"), "{error}");
    }

    #[test]
    fn images_are_needed_where_nothing_asks_for_them() {
        let of = |text: &str| Condition::compile(text).unwrap().images();
        assert_eq!(of("new.total > 1"), [Side::New]);
        assert_eq!(of("old.a != new['a']"), [Side::Old, Side::New]);
        assert_eq!(of("old != null && old.a == 1"), []);
        assert_eq!(of("has(old.a) ? old.a == 1 : false"), []);
        assert_eq!(of("changed('a')"), []);
    }
}
