//! The configuration of `run -f`: files, polled for changes while they are run. What can be run replaces
//! what was run before; what cannot is logged and changes nothing.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crds::config::ListenerConfig;
use observer_listener::admission::action_runtime::ActionRuntimeCache;
use observer_listener::coordination::membership::Coordination;
use observer_listener::lint::lint;
use observer_listener::runtime::config_source::{ConfigSource, FailurePolicy};
use observer_listener::runtime::job_worker::WorkerMode;
use observer_listener::runtime::plan::RuntimePlan;
use observer_listener::server::AppState;
use tokio::signal::unix::Signal;
use tokio::time::sleep;

use super::{CliError, FileArgs, check, files};

/// Interval at which the files are checked for changes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Files that change are loaded once they have been the same for this long, as some are written bit by
/// bit.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Files as the source of a configuration.
#[derive(Debug)]
pub(super) struct FileSource<'a> {
    args: &'a FileArgs,
    worker_mode: WorkerMode,
    loader: Arc<Mutex<FileLoader>>,
    /// The first plan, until it is handed out.
    first: Option<RuntimePlan>,
    listener: Arc<ListenerConfig>,
    /// Fingerprint of the files when they were loaded last.
    fingerprint: u64,
    /// SIGHUP has them checked at once.
    hangup: Signal,
}

impl<'a> FileSource<'a> {
    /// Loads the files. Fails if they cannot be run.
    pub(super) fn open(
        args: &'a FileArgs,
        hangup: Signal,
        worker_mode: WorkerMode,
    ) -> Result<Self, CliError> {
        // What changes while they are loaded is loaded again.
        let fingerprint = fingerprint(args);
        let mut loader = FileLoader::default();
        let first = loader.load(args)?;
        Ok(Self {
            args,
            worker_mode,
            loader: Arc::new(Mutex::new(loader)),
            listener: Arc::clone(&first.listener),
            first: Some(first),
            fingerprint,
            hangup,
        })
    }

    /// Returns the listener of the first plan.
    pub(super) fn listener(&self) -> &ListenerConfig {
        &self.listener
    }

    /// Waits until the files have changed.
    async fn changed(&mut self) {
        // Standard input can be read once.
        let polled = !self.args.files.iter().any(|file| file == Path::new("-"));
        loop {
            tokio::select! {
                () = sleep(POLL_INTERVAL), if polled => {}
                _ = self.hangup.recv() => {
                    tracing::info!(polled, "SIGHUP: changed files are reloaded without it");
                }
            }
            let now = fingerprint(self.args);
            if !polled || now == self.fingerprint {
                continue;
            }
            sleep(SETTLE_TIME).await;
            if now == fingerprint(self.args) {
                self.fingerprint = now;
                return;
            }
        }
    }
}

impl FileSource<'_> {
    /// Loads the files as they are now. Of thousands of observers this takes a while, in which the task has other work.
    async fn load(&self) -> Result<RuntimePlan, CliError> {
        let (args, loader) = (self.args.clone(), Arc::clone(&self.loader));
        let load = move || {
            let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
            loader.load(&args)
        };
        let loading = tokio::task::spawn_blocking(load);
        loading
            .await
            .unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(CliError::Closed),
            })
    }
}

impl ConfigSource for FileSource<'_> {
    async fn next(&mut self, sources: &AppState) -> RuntimePlan {
        if let Some(first) = self.first.take() {
            return first;
        }
        loop {
            self.changed().await;
            let problems = match self.load().await {
                Ok(plan) => return plan,
                Err(CliError::Config(problems)) => problems,
                Err(CliError::Run(error)) => format!("{error:#}"),
                Err(CliError::Closed) => continue,
            };
            sources.metrics.config.rejected.set(1);
            tracing::warn!("configuration rejected, so what was loaded before stays: {problems}");
        }
    }

    fn coordination(&self, _: &RuntimePlan) -> Coordination {
        Coordination::Database
    }

    fn worker_mode(&self, _: &ListenerConfig) -> WorkerMode {
        self.worker_mode
    }

    fn failure_policy(&self) -> FailurePolicy {
        FailurePolicy::Exit
    }
}

/// Loads the files time and again, and keeps what the plans share.
#[derive(Debug, Default)]
struct FileLoader {
    shared: ActionRuntimeCache,
}

impl FileLoader {
    /// Returns the plan of the files as they are now, or everything that is wrong with them.
    fn load(&mut self, args: &FileArgs) -> Result<RuntimePlan, CliError> {
        let loaded = files::load_files(args)?;
        let shared = self.shared.of(&loaded.bundle.listener)?;
        let observers = check::compile(args, &loaded, &shared)?;
        let listener = loaded.bundle.listener;
        for observer in &loaded.bundle.observers {
            for never in lint(observer, &shared) {
                let (observer, path) = (never.observer, never.path);
                tracing::warn!(observer, path, "{}", never.message);
            }
        }
        Ok(RuntimePlan::new(Arc::new(listener), Arc::new(observers)))
    }
}

/// Hashes what the files hold, and which there are.
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

/// Adds a file, or what is in a folder and so many folders below it. What cannot be read counts as
/// absent; loading it reports the error.
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
