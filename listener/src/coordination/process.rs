//! Identity of processes of this machine, and which of them have ended: a killed one need not be waited
//! for.

use sha2::{Digest, Sha256};

use super::membership::MemberIdentity;
use crate::text::hex::hex;

/// Identity of a process, unique for all time: the machine's present boot and the process's namespace, its
/// number, and when it started. The number may be reused, with another start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Digest of boot and namespace.
    pub(crate) machine: String,
    number: u32,
    started: u64,
}

impl Process {
    /// Returns this process; nothing if the system does not show it.
    #[must_use]
    pub fn this() -> Option<Self> {
        let number = std::process::id();
        Some(Self {
            machine: machine()?,
            number,
            started: started(number)?,
        })
    }

    /// Returns its name as a part of an identity.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.machine, self.number, self.started)
    }

    /// Returns the process that an identity names, if it was made from one.
    #[must_use]
    pub fn of_identity(identity: &str) -> Option<Self> {
        let mut parts = identity.rsplit('_').nth(1)?.split('-');
        let process = Self {
            machine: parts.next()?.to_owned(),
            number: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(process)
    }
}

/// Returns a check whether the process of an identity is known to have ended: one of this machine that is
/// not there any more. About processes of other machines nothing is known.
pub fn ended() -> impl Fn(&str) -> bool + Send + Sync + 'static {
    let here = machine();
    move |identity| {
        let Some(process) = Process::of_identity(identity) else {
            return false;
        };
        here.as_ref() == Some(&process.machine) && started(process.number) != Some(process.started)
    }
}

/// Returns the name of this machine.
#[must_use]
pub fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "host" } else { host }.to_owned()
}

/// Returns the identity of this start of this process.
#[must_use]
pub fn member() -> MemberIdentity {
    let number = std::process::id();
    let start: u32 = rand::random();
    MemberIdentity {
        name: format!("{}-{number}-{start:08x}", host()),
        uid: Process::this().map_or_else(String::new, |this| this.name()),
    }
}

/// Identifies this boot of this machine, and the namespace of its process numbers.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let digest = Sha256::new()
        .chain_update(boot.trim())
        .chain_update(namespace.as_os_str().as_encoded_bytes())
        .finalize();
    Some(hex(&digest[..6]))
}

/// Returns when a process started, in ticks since the boot; nothing if there is none, or if it is a zombie.
fn started(number: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The program's name is in brackets and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // The twenty-second of all fields.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn identity(process: &Process) -> String {
        lease::Identity::new("a_b", &process.name()).to_string()
    }

    #[test]
    fn process_is_parsed_from_its_identity() {
        let this = Process::this().unwrap();
        assert_eq!(Process::of_identity(&identity(&this)), Some(this));
        assert_eq!(Process::of_identity("shop-1_0b3e-4f_0000"), None);
        assert_eq!(Process::of_identity(""), None);
    }

    #[test]
    fn process_has_ended_when_it_is_gone_or_its_number_reused() {
        let ended = ended();
        let this = Process::this().unwrap();
        assert!(!ended(&identity(&this)));
        let earlier = Process {
            started: this.started - 1,
            ..this.clone()
        };
        assert!(ended(&identity(&earlier)));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let number = child.id();
        let other = Process {
            number,
            started: started(number).unwrap(),
            ..this.clone()
        };
        assert!(!ended(&identity(&other)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ended(&identity(&other)));
        let elsewhere = Process {
            machine: "0123456789ab".to_owned(),
            ..earlier
        };
        assert!(
            !ended(&identity(&elsewhere)),
            "nothing is known of other machines"
        );
    }
}
