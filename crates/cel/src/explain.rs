//! Why a condition does not hold on an event.

use crate::condition::Condition;
use crate::inputs::Inputs;
use crate::source::split;

impl Condition {
    /// Returns the parts, as they are written, that make the condition false on an event: the innermost
    /// ones that `&&` and `||` join. None where it holds, or fails as a whole.
    #[must_use]
    pub fn unmet(&self, inputs: &dyn Inputs) -> Vec<String> {
        let mut unmet = Vec::new();
        if let Ok(false) = self.evaluate(inputs) {
            find_unmet((self.text(), self.known_lookups()), inputs, &mut unmet);
        }
        unmet
    }
}

/// Finds what makes a false expression false.
fn find_unmet((text, lookups): (&str, &[String]), inputs: &dyn Inputs, unmet: &mut Vec<String>) {
    let parts = split(text);
    if parts.len() < 2 {
        unmet.push(
            parts
                .concat()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        );
        return;
    }
    for part in parts {
        // A part that fails alone decides nothing: another of them is false.
        let holds = Condition::compile_with_lookups(part, lookups.to_vec())
            .map(|part| part.evaluate(inputs));
        if let Ok(Ok(false)) = holds {
            find_unmet((part, lookups), inputs, unmet);
        }
    }
}
