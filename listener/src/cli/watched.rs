//! What `run` is told by files, which may change while it runs: what can be run takes the place of what
//! was run before, and what cannot is told and changes nothing.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crds::config::ListenerConfig;
use observer_listener::admission::action_runtime::ActionRuntimeCache;
use observer_listener::lint::lint;
use observer_listener::observers::Observers;
use tokio::signal::unix::Signal;
use tokio::time::sleep;

use super::{CliError, FileArgs, check, files};

/// Time between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);

/// Files that change are read once they have been the same for so long, as some are written bit by bit.
const CALM: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) listener: Arc<ListenerConfig>,
    pub(super) observers: Arc<Observers>,
}

impl Program {
    /// Whether another one only needs its observers to take the place of this one's, which hold the
    /// connections by which actions go out.
    pub(super) fn is_same_listener(&self, other: &Self) -> bool {
        self.listener.differs_in_egress_at_most(&other.listener)
    }
}

/// Loads one program after the other, and keeps what they share.
#[derive(Debug, Default)]
pub(super) struct Loader {
    shared: ActionRuntimeCache,
}

impl Loader {
    /// The program of the files as they are now, or all that is wrong with them.
    pub(super) fn load(&mut self, args: &FileArgs) -> Result<Program, CliError> {
        let loaded = files::load(args)?;
        let listener = loaded.bundle.listener;
        let shared = self.shared.of(&listener)?;
        let observers = Observers::compile(&loaded.bundle.observers, &shared).map_err(|wrong| {
            let located = wrong.into_iter().map(|one| {
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

/// Looks whether files change.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    args: &'a FileArgs,
    seen: u64,
    /// SIGHUP has them looked at once.
    hangup: Signal,
}

impl<'a> Watched<'a> {
    pub(super) fn new(args: &'a FileArgs, hangup: Signal) -> Self {
        let seen = print_of(args);
        Self { args, seen, hangup }
    }

    pub(super) const fn args(&self) -> &'a FileArgs {
        self.args
    }

    /// Waits until they are other files than before.
    pub(super) async fn changed(&mut self) {
        // Standard input can be read once.
        let watched = !self.args.files.iter().any(|file| file == Path::new("-"));
        loop {
            tokio::select! {
                () = sleep(PAUSE), if watched => {}
                _ = self.hangup.recv() => {
                    tracing::info!(watched, "SIGHUP: files that have changed are taken up without it");
                }
            }
            let now = print_of(self.args);
            if !watched || now == self.seen {
                continue;
            }
            sleep(CALM).await;
            if now == print_of(self.args) {
                self.seen = now;
                return;
            }
        }
    }
}

/// Stands for all that the files hold, and for which there are.
fn print_of(args: &FileArgs) -> u64 {
    let mut print = DefaultHasher::new();
    for path in &args.files {
        add(path, 1, &mut print);
    }
    if let Some(folder) = &args.secrets_dir {
        add(folder, 2, &mut print);
    }
    print.finish()
}

/// Adds a file, or what is in a folder and so many folders below it. What cannot be read is as if it
/// were not there, as whoever loads it says.
fn add(path: &Path, depth: u8, print: &mut DefaultHasher) {
    path.hash(print);
    if let Ok(entries) = fs::read_dir(path) {
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|_| depth > 0) {
            add(path, depth - 1, print);
        }
    } else {
        fs::read(path).ok().hash(print);
    }
}
