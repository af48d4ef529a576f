//! `kubectl` and `helm`, as a user would run them.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Cluster;

/// Longest that a command may take.
const PATIENCE: Duration = Duration::from_mins(5);

impl Cluster {
    /// Runs kubectl and gives what it printed.
    pub(crate) async fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        self.run("KUBECTL", "kubectl", arguments, "").await
    }

    /// Runs kubectl with something to read.
    pub(crate) async fn kubectl_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: &str,
    ) -> Result<String> {
        self.run("KUBECTL", "kubectl", arguments, input).await
    }

    /// Runs helm and gives what it printed.
    pub(crate) async fn helm<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        self.run("HELM", "helm", arguments, "").await
    }

    async fn run<S: AsRef<OsStr>>(
        &self,
        variable: &str,
        program: &str,
        arguments: &[S],
        input: &str,
    ) -> Result<String> {
        let path = std::env::var_os(variable).unwrap_or_else(|| program.into());
        let mut child = Command::new(&path)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", path.display()))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let said: Vec<_> = arguments
            .iter()
            .map(|part| part.as_ref().to_string_lossy())
            .collect();
        let said = format!("{program} {}", said.join(" "));
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .with_context(|| format!("`{said}` took more than {PATIENCE:?}"))??;
        if !output.status.success() {
            bail!("{said}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
