//! The plugin `kubectl observers`, by a user who has only the Role of its documentation.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{MAIN, Shop};
use crate::support::room::{Room, scenario};
use crate::support::wait::{SOON, until};
use crate::support::writer::Writer;
use crate::support::{installation, repository, resources};

/// Longest that a command may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A user of the plugin.
struct User {
    folder: TempDir,
    namespace: String,
}

/// Returns the Role that the documentation gives to users of the plugin.
fn documented_role() -> Result<Value> {
    let page = std::fs::read_to_string(repository("docs/how-to/kubectl.md"))?;
    let blocks = page.split("```yaml\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let role = blocks.find(|block| block.contains("kind: Role\n"));
    Ok(serde_yaml_ng::from_str(
        role.context("no Role in the page")?,
    )?)
}

impl User {
    /// Makes a user with that Role, and the plugin in a folder of its own.
    async fn make(room: &Room) -> Result<Self> {
        let mut role = documented_role()?;
        role["metadata"] = json!({"name": "operate"});
        room.apply::<Role>(&role).await?;
        room.apply::<ServiceAccount>(&json!({"metadata": {"name": "operator-on-duty"}}))
            .await?;
        let subject = json!({"kind": "ServiceAccount", "name": "operator-on-duty", "namespace": room.namespace});
        room.apply::<RoleBinding>(&json!({
            "metadata": {"name": "operate"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operate"},
            "subjects": [subject],
        }))
        .await?;
        let request = TokenRequest {
            spec: TokenRequestSpec::default(),
            ..TokenRequest::default()
        };
        let accounts = room.api::<ServiceAccount>();
        let made = accounts
            .create_token_request("operator-on-duty", &PostParams::default(), &request)
            .await?;
        let token = made.status.context("no token")?.token;
        let mut config = serde_json::to_value(Kubeconfig::read_from(&room.cluster.kubeconfig)?)?;
        for user in config["users"].as_array_mut().context("no users")? {
            user["user"] = json!({ "token": token });
        }
        let folder = TempDir::new()?;
        std::fs::write(folder.path().join("kubeconfig"), config.to_string())?;
        let program = repository("target/debug/observer-listener").canonicalize()?;
        std::os::unix::fs::symlink(program, folder.path().join("kubectl-observers"))?;
        let namespace = room.namespace.clone();
        Ok(Self { folder, namespace })
    }

    /// Prepares `kubectl observers`, which kubectl finds in the PATH.
    fn observers(&self, args: &[&str]) -> Command {
        let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(PathBuf::from(self.folder.path()));
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)));
        let mut command = Command::new(kubectl);
        command
            .arg("observers")
            .args(args)
            .args(["--namespace", &self.namespace])
            .env("PATH", path.unwrap_or_default())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command, which has to end with this code, and returns all that it printed.
    async fn ends(&self, args: &[&str], code: i32) -> Result<String> {
        let run = self.observers(args).output();
        let output: Output = tokio::time::timeout(PATIENCE, run)
            .await
            .with_context(|| format!("{args:?} hangs"))??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(
            output.status.code() == Some(code),
            "{args:?} ended with {} in place of {code}: {said}",
            output.status
        );
        Ok(said)
    }
}

/// Returns how many processes of this machine, those in pods too, were started with all of these words.
fn processes_with(words: &[&str]) -> usize {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|one| read_words(&one.path()));
    let is_one = |line: &String| {
        words
            .iter()
            .all(|word| line.split('\0').any(|one| one == *word))
    };
    lines.filter(is_one).count()
}

fn read_words(process: &Path) -> Option<String> {
    let words = std::fs::read(process.join("cmdline")).ok()?;
    Some(String::from_utf8_lossy(&words).into_owned())
}

/// Starts `tail` and waits for its first line.
async fn tailing(user: &User) -> Result<Child> {
    let mut child = user.observers(&["tail", "-o", "json"]).spawn()?;
    let out = child.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(out).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    let line = line.context("tail has ended")?;
    let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    ensure!(event["entity"] == "public.kv", "{line}");
    // Read on, so that it never waits for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(child)
}

/// An interrupt of `tail` ends it, and the command in the pod too; so does its death.
async fn interrupts_reach_the_pod(user: &User) -> Result<()> {
    let in_pod = ["/usr/local/bin/observer-listener", "tail"];
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let mut child = tailing(user).await?;
        ensure!(processes_with(&in_pod) == 1, "tail runs in the pod");
        let pid = child.id().context("it has ended")?.to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await?;
        ensure!(sent.success(), "kill {signal}");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await??;
        ensure!(ended.code() == code, "{signal}: {ended}");
        until("tail ends in the pod", SOON, async || {
            ensure!(processes_with(&in_pod) == 0, "it runs on after {signal}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn kubectl_observers_works_with_the_documented_rights() {
    scenario("kubectl", async |room| -> Result<()> {
        installation::installed(&room.cluster).await?;
        let mut shop = Shop::open(room, 1).await?;
        let user = User::make(room).await?;
        let writer = Writer::start(&shop.database.pool, 20);
        shop.more(MAIN, 50).await?;

        let table = user.ends(&["status"], 0).await?;
        ensure!(table.contains("shop") && table.contains("1/1"), "{table}");
        let status = user.ends(&["status", "-l", "shop"], 0).await?;
        ensure!(
            status.contains("/shop: ") && status.contains("1 process"),
            "{status}"
        );
        let events = user
            .ends(&["events", "list", "--limit", "3", "-o", "json"], 0)
            .await?;
        let events: Value = serde_json::from_str(&events).with_context(|| events.clone())?;
        ensure!(
            events.as_array().is_some_and(|all| all.len() == 3),
            "{events}"
        );
        let letters = user.ends(&["dead-letters", "list"], 0).await?;
        ensure!(letters.trim() == "no dead letters", "{letters}");
        let jobs = user
            .ends(&["jobs", "list", "--observer", "mian"], 1)
            .await?;
        ensure!(jobs.contains("no such observer"), "{jobs}");
        let reset = user.ends(&["breaker", "reset", "--all"], 0).await?;
        ensure!(
            reset.trim() == "closed 0 circuit breakers in 1 process",
            "{reset}"
        );
        // Exit codes are those of the commands.
        let none = user.ends(&["dead-letters", "show", "999"], 1).await?;
        ensure!(none.contains("there is no dead letter 999"), "{none}");
        let refused = user.ends(&["dead-letters", "drop", "--all"], 2).await?;
        ensure!(refused.contains("add --yes"), "{refused}");
        interrupts_reach_the_pod(&user).await?;

        let observer = format!("{}/main", room.namespace);
        let suspended = user.ends(&["suspend", "main"], 0).await?;
        ensure!(suspended.contains(&observer), "{suspended}");
        let other = resources::observer("other", &shop.sink.url("other"));
        room.apply::<crds::v1alpha1::Observer>(&other).await?;
        shop.more("/other", 20).await?;
        user.ends(&["resume", "main"], 0).await?;
        shop.more(MAIN, 20).await?;
        writer.stop().await?;

        // The same commands work in the pod itself.
        let pods = room.pods("app.kubernetes.io/instance=shop").await?;
        let pod = pods
            .first()
            .and_then(|pod| pod.metadata.name.clone())
            .context("no pod")?;
        let words = [
            "exec",
            &pod,
            "--namespace",
            &room.namespace,
            "--",
            "observer-listener",
            "status",
        ];
        let status = room.cluster.kubectl(&words).await?;
        ensure!(status.contains("/shop: "), "{status}");
        Ok(())
    })
    .await;
}
