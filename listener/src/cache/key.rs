//! Keys of results: digests of all that a result may depend on, so that no part of one can pass for
//! another's and no key holds anything of a request.

use sha2::{Digest, Sha256};

use crate::text::hex::hex;

/// What a cached result is of, beside its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResultOf {
    /// A lookup.
    Lookup,
    /// An action.
    Action,
}

/// Digest of a lookup or an action and its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey([u8; 32]);

impl CacheKey {
    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the key in one life of a log.
    pub(crate) fn within(&self, life: &str) -> Self {
        let key = CacheKeyBuilder::empty().part(&self.0);
        key.part(life.as_bytes()).finish()
    }

    /// Returns it as text.
    pub(crate) fn hex(&self) -> String {
        hex(&self.0)
    }
}

/// Builder of a key.
pub(crate) struct CacheKeyBuilder(Sha256);

impl CacheKeyBuilder {
    /// Begins with nothing.
    pub(crate) fn empty() -> Self {
        Self(Sha256::new())
    }

    /// Begins with what a result is of: the listener, the observer with a digest of its spec, and the name of
    /// its lookup or action.
    pub(crate) fn new(
        listener: &str,
        (observer, spec): (&str, &[u8; 32]),
        (of, name): (ResultOf, &str),
    ) -> Self {
        Self::empty()
            .part(listener.as_bytes())
            .part(observer.as_bytes())
            .part(spec)
            .part(match of {
                ResultOf::Lookup => b"lookup",
                ResultOf::Action => b"action",
            })
            .part(name.as_bytes())
    }

    /// Adds a part, with its length before it.
    pub(crate) fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a part that may be missing, which differs from an empty one.
    pub(crate) fn optional(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.part(&[1]).part(bytes),
            None => self.part(&[0]),
        }
    }

    /// Returns the digest of the parts.
    pub(crate) fn digest(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    pub(crate) fn finish(self) -> CacheKey {
        CacheKey(self.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key_cannot_pass_for_others() {
        let of = |parts: &[Option<&str>]| {
            let parts = parts.iter().map(|part| part.map(str::as_bytes));
            parts
                .fold(CacheKeyBuilder::empty(), CacheKeyBuilder::optional)
                .finish()
        };
        let keys = [
            of(&[Some("ab"), Some("c")]),
            of(&[Some("a"), Some("bc")]),
            of(&[Some("abc")]),
            of(&[Some("abc"), None]),
            of(&[Some("abc"), Some("")]),
            of(&[None, Some("abc")]),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(keys[..n].iter().all(|other| other != key), "{n}");
        }
    }

    #[test]
    fn each_part_of_what_a_result_is_of_makes_another_key() {
        let (one, other) = ([1; 32], [2; 32]);
        let of = |listener, observer, spec, of, name| {
            CacheKeyBuilder::new(listener, (observer, spec), (of, name)).finish()
        };
        let lookup = ResultOf::Lookup;
        let keys = [
            of("shop/main", "shop/a", &one, lookup, "customer"),
            of("shop/other", "shop/a", &one, lookup, "customer"),
            of("shop/main", "shop/b", &one, lookup, "customer"),
            of("shop/main", "shop/a", &other, lookup, "customer"),
            of("shop/main", "shop/a", &one, ResultOf::Action, "customer"),
            of("shop/main", "shop/a", &one, lookup, "price"),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(keys[..n].iter().all(|other| other != key), "{n}");
        }
    }
}
