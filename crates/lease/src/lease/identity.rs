//! Who holds a Lease. Two runs of a program never have the same name, not even in one pod: a
//! restarted container must not take what its forerunner held for its own.

use std::fmt;

/// The name that one process writes into the Leases it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// A new name for this process: the pod's name and uid, and a part drawn at random.
    #[must_use]
    pub fn new(pod: &str, uid: &str) -> Self {
        Self::with_boot_id(pod, uid, rand::random())
    }

    /// The name of the process that drew `boot`.
    #[must_use]
    pub fn with_boot_id(pod: &str, uid: &str, boot: u64) -> Self {
        Self(format!("{pod}_{uid}_{boot:016x}"))
    }

    /// A name that was drawn before.
    pub(crate) fn from_existing(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_pod_have_different_identities() {
        assert_ne!(
            Identity::new("shop-0", "uid"),
            Identity::new("shop-0", "uid")
        );
        assert_eq!(
            Identity::with_boot_id("shop-0", "uid", 10).as_str(),
            "shop-0_uid_000000000000000a"
        );
    }
}
