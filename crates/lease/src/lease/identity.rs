//! Identity of a lease holder. Two runs of a program never share an identity, not even in one pod:
//! a restarted container must not mistake its predecessor's Lease for its own.

use std::fmt;

/// Holder identity that one process writes into its Leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// Creates a new identity for this process: the pod's name and uid, and a random boot ID.
    #[must_use]
    pub fn new(pod: &str, uid: &str) -> Self {
        Self::with_boot_id(pod, uid, rand::random())
    }

    /// Creates the identity of the process that drew the boot ID `boot`.
    #[must_use]
    pub fn with_boot_id(pod: &str, uid: &str, boot: u64) -> Self {
        Self(format!("{pod}_{uid}_{boot:016x}"))
    }

    /// Wraps an identity that was created before.
    pub(crate) fn from_existing(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Returns the identity as it is written into Leases.
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
