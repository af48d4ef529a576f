//! Private servers for tests and the demo. They listen on the loopback address,
//! keep their data in a temporary folder, and go when their owner does, however it ends.

pub mod binaries;
#[cfg(feature = "tests")]
pub mod browser;
#[cfg(feature = "tests")]
pub mod control_plane;
#[cfg(feature = "tests")]
pub mod elasticsearch;
mod guardian;
#[cfg(feature = "tests")]
pub mod kafka;
#[cfg(feature = "tests")]
pub mod nats;
#[cfg(feature = "tests")]
pub mod pooler;
pub mod postgres;
#[cfg(feature = "tests")]
pub mod prometheus;
pub mod redis;
#[cfg(feature = "tests")]
pub mod redis_groups;
#[cfg(feature = "tests")]
pub mod smtp;

use std::io;
use std::path::{Path, PathBuf};

use binaries::BinariesError;

/// Why a private server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its programs are missing.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// Its folder cannot be prepared, or a program cannot be started.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// One of its programs failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it printed, and for a failed start the end of the server's log.
        output: String,
    },
}

/// The newest folder with a name that begins so of those that `scripts/prepare` has put into the cache.
#[cfg(feature = "tests")]
fn prepared(beginning: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    let folder = cache.unwrap_or_else(home).join("observers");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut all: Vec<String> = names.filter(|name| name.starts_with(beginning)).collect();
    all.sort_unstable();
    Some(folder.join(all.pop()?))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> ServerError {
    ServerError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
