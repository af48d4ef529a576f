//! A control plane of Kubernetes without nodes, by `e2e/cluster/up`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Set to the kubeconfig of a control plane that is there already.
const KUBECONFIG: &str = "OBSERVER_TEST_KUBECONFIG";

/// A control plane, which ends with this value if it began with it.
pub struct ControlPlane {
    kubeconfig: PathBuf,
    started: Option<TempDir>,
}

impl ControlPlane {
    /// Starts one, unless `OBSERVER_TEST_KUBECONFIG` names that of one that runs already.
    ///
    /// # Panics
    ///
    /// Panics if it does not start.
    #[must_use]
    #[allow(clippy::unwrap_used, reason = "a test may panic")]
    pub fn start() -> Self {
        if let Some(path) = std::env::var_os(KUBECONFIG) {
            return Self {
                kubeconfig: PathBuf::from(path),
                started: None,
            };
        }
        let folder = TempDir::new().unwrap();
        let output = Command::new(script("up"))
            .arg("--control-plane-only")
            .arg(folder.path())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "no control plane");
        let output = String::from_utf8(output.stdout).unwrap();
        Self {
            kubeconfig: PathBuf::from(output.lines().last().unwrap()),
            started: Some(folder),
        }
    }

    /// Path of its kubeconfig, which may do anything in it.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(folder) = &self.started {
            let ended = Command::new(script("down")).arg(folder.path()).status();
            assert!(ended.is_ok_and(|status| status.success()), "it is left");
        }
    }
}

fn script(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/cluster");
    folder.join(name)
}
