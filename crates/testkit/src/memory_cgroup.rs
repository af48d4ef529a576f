//! A memory limit for processes of a test: a cgroup of their own, of version 2 or 1.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

/// Where cgroups are.
const ROOT: &str = "/sys/fs/cgroup";

/// How often its end is tried, and the pause between: the kernel lets go of a process a moment after its end.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A cgroup whose processes have no more memory than this together, and are killed if they need more.
#[derive(Debug)]
pub struct MemoryCgroup {
    folder: PathBuf,
    is_v2: bool,
}

impl MemoryCgroup {
    /// Makes one with a limit in bytes, which root may.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let is_v2 = Path::new(ROOT).join("cgroup.controllers").exists();
        let above = Path::new(ROOT).join(if is_v2 { "" } else { "memory" });
        let folder = above.join(format!("observers-{}", Uuid::new_v4().simple()));
        let made = std::fs::create_dir(&folder);
        made.unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        let made = Self { folder, is_v2 };
        // Without swap, where there is any.
        let (file, swap, with_swap) = if is_v2 {
            ("memory.max", "memory.swap.max", 0)
        } else {
            (
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                limit,
            )
        };
        let set = std::fs::write(made.folder.join(file), limit.to_string());
        set.unwrap_or_else(|error| {
            panic!("cannot set {file} (does the cgroup above delegate memory?): {error}")
        });
        let swap = made.folder.join(swap);
        if swap.exists() {
            let set = std::fs::write(&swap, with_swap.to_string());
            set.unwrap_or_else(|error| panic!("cannot set {}: {error}", swap.display()));
        }
        made
    }

    /// The file into which a process writes its id to be in it.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// How many of its processes were killed for want of memory.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let file = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        let mut lines = text.lines();
        let kills = lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        kills.unwrap_or_else(|| panic!("no oom_kill in {file}: {text:?}"))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}
