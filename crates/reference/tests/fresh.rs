//! The committed pages match what the code generates.

use observer_reference::{pages, root};

#[test]
fn generated_pages_are_fresh() {
    for page in pages().unwrap() {
        let kept = std::fs::read_to_string(root().join(page.path)).unwrap_or_default();
        let differs = page
            .text
            .lines()
            .zip(kept.lines().chain(std::iter::repeat("")))
            .find(|(new, old)| new != old);
        assert!(
            page.text == kept,
            "{} is stale, first in {differs:?}: run `make generate` and commit it",
            page.path
        );
    }
}
