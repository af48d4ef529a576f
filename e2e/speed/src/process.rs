//! Processes that are measured: what they cost, and their end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Ticks of a second, as `/proc` counts them on all Linux machines in use.
const TICKS: f64 = 100.0;

/// How long a process may take to end before it is killed.
const GOODBYE: Duration = Duration::from_secs(20);

/// A process, whose output is kept in a file.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: std::path::PathBuf,
}

impl Process {
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| self.told("has ended"))
    }

    /// As [`cpu`] of it.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        cpu(self.pid()?).with_context(|| self.told("may have ended"))
    }

    /// As [`memory`] of it.
    pub(crate) fn memory(&self, field: &str) -> anyhow::Result<f64> {
        memory(self.pid()?, field).with_context(|| self.told("may have ended"))
    }

    /// What went wrong with it, with the end of its output.
    fn told(&self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{} {what}; it said last:\n{}", self.name, lines.join("\n"))
    }

    /// The end of its output, for the message of what was waited for in vain.
    pub(crate) fn said(&self) -> String {
        self.told("was at work")
    }

    /// Asks it to end, and kills it where it does not.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.pid()?.to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await?;
        if tokio::time::timeout(GOODBYE, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }

    /// Kills it: what it has left to do is of no more use.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Seconds of CPU time of a process and of all that it has begun.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<f64> {
    let mut ticks = own_ticks(pid)?;
    for child in children(pid) {
        // One that has just ended is in its parent's sum.
        ticks += cpu(child).unwrap_or(0.0) * TICKS;
    }
    Ok(ticks / TICKS)
}

/// Of the process, and of those children that have ended and were waited for.
fn own_ticks(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("no program in its state")?.1;
    let ticks = fields.split_whitespace().skip(11).take(4);
    let mut sum = 0.0;
    for field in ticks {
        sum += field.parse::<f64>()?;
    }
    Ok(sum)
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// MiB that a process and all that it has begun hold (`VmRSS`), or held at most (`VmHWM`).
fn memory(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let line = line.and_then(|line| line.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let mut mib = kib.context("no size of its memory")?.parse::<f64>()? / 1024.0;
    for child in children(pid) {
        mib += memory(child, field).unwrap_or(0.0);
    }
    Ok(mib)
}

/// Waits until something is so.
pub(crate) async fn until(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !look().await? {
        if Instant::now() >= deadline {
            bail!("waited in vain for {limit:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
