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
    fn images_are_needed_where_nothing_asks_for_them() {
        let of = |text: &str| Condition::compile(text).unwrap().images();
        assert_eq!(of("new.total > 1"), [Side::New]);
        assert_eq!(of("old.a != new['a']"), [Side::Old, Side::New]);
        assert_eq!(of("old != null && old.a == 1"), []);
        assert_eq!(of("has(old.a) ? old.a == 1 : false"), []);
        assert_eq!(of("changed('a')"), []);
    }
}
