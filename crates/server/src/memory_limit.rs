//! How much memory a container may use.

use std::fs;
use std::path::Path;

/// Where the files of control groups are.
const ROOT: &str = "/sys/fs/cgroup";

/// Returns the memory limit of this process's container in bytes; `None` without one.
pub(crate) fn memory_limit() -> Option<u64> {
    memory_limit_in(Path::new(ROOT))
}

/// A container sees its own group as the root, in either version of control groups.
fn memory_limit_in(root: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    let text = read("memory.max").or_else(|| read("memory/memory.limit_in_bytes"))?;
    // `max`, or in the first version a number that no machine has.
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_versions_are_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(memory_limit_in(root.path()), None);
        fs::create_dir(root.path().join("memory")).unwrap();
        let first = root.path().join("memory/memory.limit_in_bytes");
        fs::write(&first, "9223372036854771712\n").unwrap();
        assert_eq!(memory_limit_in(root.path()), None);
        fs::write(&first, "1048576\n").unwrap();
        assert_eq!(memory_limit_in(root.path()), Some(1 << 20));
        let second = root.path().join("memory.max");
        fs::write(&second, "268435456\n").unwrap();
        assert_eq!(memory_limit_in(root.path()), Some(256 << 20));
        fs::write(&second, "max\n").unwrap();
        assert_eq!(memory_limit_in(root.path()), None);
    }
}
