//! The real program as a process of its own, which can be stopped, killed and paused.

use std::cell::RefCell;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The program under test; measurements name a release build by `OBSERVER_TEST_PROGRAM`.
pub(crate) fn program() -> String {
    let built = env!("CARGO_BIN_EXE_observer-listener");
    std::env::var("OBSERVER_TEST_PROGRAM").unwrap_or_else(|_| built.to_owned())
}

use testkit::memory_cgroup::MemoryCgroup;
use testkit::wait::{watched, while_progressing_or};

/// Sets the clock of a process; of Debian's package libfaketime. The loader knows what stands for `$LIB`.
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// Lines of a program's log in the output of a test that fails.
const LAST_LINES: usize = 40;

/// Files that a listener runs from.
pub(crate) struct Config {
    pub(crate) dir: TempDir,
}

impl Config {
    /// A listener `default/test` on a database, with these observers (YAML documents).
    pub(crate) fn new(database_url: &str, listener_spec: &str, observers: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let text = format!(
            "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\nmetadata: {{name: test}}\n\
             spec:\n  database:\n    url: {{value: \"{database_url}\"}}\n  \
             egress: {{allow: [127.0.0.0/8]}}\n{listener_spec}\n---\n{observers}"
        );
        std::fs::write(dir.path().join("observers.yaml"), text).unwrap();
        Self { dir }
    }

    /// Writes another text in the place of one that stands in the file.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path()).unwrap();
        assert!(text.contains(from), "{from} stands in:\n{text}");
        std::fs::write(self.path(), text.replace(from, to)).unwrap();
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("observers.yaml")
    }
}

/// An observer of an entity that posts every event to a URL.
pub(crate) fn observer(name: &str, entity: &str, url: &str, more: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: \"{entity}\", operations: [Insert, Update, Delete, Truncate, Custom]}}\n{more}  \
         actions:\n    - name: post\n      webhook: {{url: {{value: \"{url}\"}}}}\n      \
         retry: {{attempts: 20, initialBackoff: 20ms, maxBackoff: 200ms}}\n---\n"
    )
}

/// Observers with attempts that last for longer than any test waits: no answer comes too late, after
/// which what was accepted would be sent once more.
pub(crate) fn patient(observer: &str) -> String {
    observer.replace("      retry:", "      timeout: 5m\n      retry:")
}

/// A running listener.
pub(crate) struct Process {
    child: Child,
    lines: watch::Receiver<String>,
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts `run` on the files.
    pub(crate) fn run(config: &Config) -> Self {
        Self::start(&["run", "--listen", "off", "-f"], &config.path())
    }

    /// The same, with these variables and an address for its metrics.
    pub(crate) fn run_with(config: &Config, listen: &str, variables: &[(&str, &str)]) -> Self {
        let mut program = Command::new(program());
        program.envs(variables.iter().copied());
        Self::spawn(program, &["run", "--listen", listen, "-f"], &config.path())
    }

    /// The same, to die at a failpoint the `times`th time that it comes there.
    pub(crate) fn run_to(config: &Config, failpoint: &str, times: u32) -> Self {
        let mut program = Command::new(program());
        program.env("OBSERVER_FAILPOINT", format!("{failpoint}:{times}"));
        Self::spawn(program, &["run", "--listen", "off", "-f"], &config.path())
    }

    pub(crate) fn start(args: &[&str], file: &Path) -> Self {
        Self::spawn(Command::new(program()), args, file)
    }

    /// Starts it with a clock that a file sets, by libfaketime.
    pub(crate) fn start_with_clock(args: &[&str], file: &Path, clock: &Path) -> Self {
        let mut program = Command::new(program());
        program
            .env("LD_PRELOAD", FAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Self::spawn(program, args, file)
    }

    /// Starts it in a cgroup.
    pub(crate) fn start_in_cgroup(args: &[&str], file: &Path, cgroup: &MemoryCgroup) -> Self {
        let mut shell = Command::new("sh");
        let enter = "echo $$ >\"$0\" && exec \"$@\"";
        shell.args(["-c", enter]).arg(cgroup.processes());
        shell.arg(program());
        Self::spawn(shell, args, file)
    }

    /// Starts it as a pod of a cluster, on the bundle `shop-bundle` of the listener `shop` in a namespace, with these
    /// arguments and variables.
    pub(crate) fn start_in(
        (kubeconfig, namespace): (&Path, &str),
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut program = Command::new(program());
        program.env("KUBECONFIG", kubeconfig);
        program.args(["run", "--bundle", "shop-bundle", "--listener-name", "shop"]);
        program.args(["--namespace", namespace]).args(args);
        program.envs(variables.iter().copied());
        Self::follow(program)
    }

    fn spawn(mut program: Command, args: &[&str], file: &Path) -> Self {
        program.args(args).arg(file);
        Self::follow(program)
    }

    fn follow(mut program: Command) -> Self {
        let is_set = program
            .as_std()
            .get_envs()
            .any(|(name, _)| name == "RUST_LOG");
        if !is_set {
            program.env("RUST_LOG", "info");
        }
        let mut child = program
            .args(["--log-format", "text"])
            // As in the image.
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (log, lines) = watch::channel(String::new());
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                if std::env::var_os("OBSERVER_TEST_ECHO").is_some() {
                    println!("{line}");
                }
                log.send_modify(|text| {
                    text.push_str(&line);
                    text.push('\n');
                });
            }
        });
        Self {
            child,
            lines,
            reader,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Waits for a text in what it says; panics with all it said if it does not come.
    pub(crate) async fn says(&mut self, text: &str) {
        let said = watched(
            &mut self.lines,
            |lines| lines.contains(text).then_some(()),
            String::len,
            |lines| format!("it should say {text:?}, it said:\n{lines}"),
        );
        let said = said.await.is_some();
        assert!(
            said,
            "it should say {text:?} before it ends, it said:\n{}",
            self.said()
        );
    }

    /// Everything it said so far.
    pub(crate) fn said(&self) -> String {
        self.lines.borrow().clone()
    }

    pub(crate) async fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()
            .await;
        let status = status.unwrap();
        assert!(
            status.success(),
            "kill -{name}: {status}, it said:\n{}",
            self.said()
        );
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, and for the last it says.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        // What it says is where it writes down how it gets on.
        let (child, lines) = (RefCell::new(&mut self.child), &self.lines);
        let look = async || match child.borrow_mut().try_wait() {
            Ok(None) => Err(lines.borrow().len()),
            ended => Ok(ended),
        };
        let ended = while_progressing_or(look, async || {
            format!("it should end, it said:\n{}", *lines.borrow())
        });
        let status = ended.await.map(Option::unwrap);
        // A second wait has nothing more to read.
        if !self.reader.is_finished() {
            (&mut self.reader).await.unwrap();
        }
        status.unwrap()
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) async fn stop(mut self) -> String {
        self.signal("TERM").await;
        self.ends_well().await
    }

    /// Waits for a clean end, and returns what it said.
    pub(crate) async fn ends_well(&mut self) -> String {
        let status = self.ends().await;
        assert!(
            status.success(),
            "a stop should end well: {status}\n{}",
            self.said()
        );
        self.said()
    }

    /// SIGKILL; gives what it said until then.
    pub(crate) async fn kill(mut self) -> String {
        self.child.kill().await.unwrap();
        self.said()
    }
}

impl Drop for Process {
    /// A test that fails tells what its programs said last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<_> = said.lines().rev().take(LAST_LINES).collect();
            println!("process {:?} said last:", self.child.id());
            for line in lines.into_iter().rev() {
                println!("  {line}");
            }
        }
    }
}
