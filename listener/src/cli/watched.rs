//! Watch on the files of `run`. A valid change replaces the running configuration; an invalid one is
//! logged and changes nothing.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crds::config::ListenerConfig;
use observer_listener::admission::action_runtime::Kept;
use observer_listener::lint::lint;
use observer_listener::observers::Observers;
use tokio::signal::unix::Signal;
use tokio::time::sleep;

use super::{CliError, FileArgs, check, files};

/// Poll interval of the files.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time for which changed files must stay the same before they are read, as some are written in parts.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Listener and observers to run.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) listener: Arc<ListenerConfig>,
    pub(super) observers: Arc<Observers>,
}

impl Program {
    /// Whether a switch to another program only replaces the observers, which hold the connections of their
    /// actions.
    pub(super) fn is_same_listener(&self, other: &Self) -> bool {
        self.listener.differs_in_egress_at_most(&other.listener)
    }
}

/// Loader of programs, which keeps what they share.
#[derive(Debug, Default)]
pub(super) struct ProgramLoader {
    shared: Kept,
}

impl ProgramLoader {
    /// Loads the program from the files, or returns all their problems.
    pub(super) fn load(&mut self, args: &FileArgs) -> Result<Program, CliError> {
        let loaded = files::load(args)?;
        let listener = loaded.bundle.listener;
        let shared = self.shared.of(&listener)?;
        let observers =
            Observers::compile(&loaded.bundle.observers, &shared).map_err(|problems| {
                let located = problems.into_iter().map(|one| {
                    let source_map = &loaded.source_map;
                    source_map.diagnostic(&one.observer, &one.path, one.message)
                });
                CliError::Config(check::listed(&located.collect::<Vec<_>>()))
            })?;
        for observer in &loaded.bundle.observers {
            for never in lint(observer, &shared) {
                let (observer, path) = (never.observer, never.path);
                tracing::warn!(observer, path, "{}", never.message);
            }
        }
        Ok(Program {
            listener: Arc::new(listener),
            observers: Arc::new(observers),
        })
    }
}

/// Watcher of files.
#[derive(Debug)]
pub(super) struct FileWatcher<'a> {
    args: &'a FileArgs,
    fingerprint: u64,
    /// SIGHUP triggers a poll.
    hangup: Signal,
}

impl<'a> FileWatcher<'a> {
    pub(super) fn new(args: &'a FileArgs, hangup: Signal) -> Self {
        let fingerprint = fingerprint(args);
        Self {
            args,
            fingerprint,
            hangup,
        }
    }

    pub(super) const fn args(&self) -> &'a FileArgs {
        self.args
    }

    /// Waits until the files have changed.
    pub(super) async fn changed(&mut self) {
        // Standard input can only be read once.
        let watched = !self.args.files.iter().any(|file| file == Path::new("-"));
        loop {
            tokio::select! {
                () = sleep(POLL_INTERVAL), if watched => {}
                _ = self.hangup.recv() => {
                    tracing::info!(watched, "SIGHUP: changed files are applied without it");
                }
            }
            let now = fingerprint(self.args);
            if !watched || now == self.fingerprint {
                continue;
            }
            sleep(DEBOUNCE).await;
            if now == fingerprint(self.args) {
                self.fingerprint = now;
                return;
            }
        }
    }
}

/// Hashes the contents and the names of the files.
fn fingerprint(args: &FileArgs) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in &args.files {
        add(path, 1, &mut hasher);
    }
    if let Some(folder) = &args.secrets_dir {
        add(folder, 2, &mut hasher);
    }
    hasher.finish()
}

/// Hashes a file, or a folder down to `depth` levels. What cannot be read counts as missing; loading reports
/// it.
fn add(path: &Path, depth: u8, hasher: &mut DefaultHasher) {
    path.hash(hasher);
    if let Ok(entries) = fs::read_dir(path) {
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|_| depth > 0) {
            add(path, depth - 1, hasher);
        }
    } else {
        fs::read(path).ok().hash(hasher);
    }
}
