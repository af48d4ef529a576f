//! Five hundred listeners on a control plane whose pods nobody schedules: what they cost the
//! operator and the API server, to get there and at rest. The operator runs as a process here.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::no_database;
use crate::support::figures::{figure, seconds};
use crate::support::room::{Room, scenario};
use crate::support::wait::until;
use crate::support::{figures, image, installation, repository, resources};

/// Listeners, each with an observer.
const LISTENERS: usize = 500;

/// Requests under way at once while they are made.
const ABREAST: usize = 16;

/// Longest until all of them are as they will stay.
const STEADY: Duration = Duration::from_secs(400);

/// How long the rest is watched.
const REST: Duration = Duration::from_mins(1);

/// Most memory of the operator, in KiB. The goal of 60 MB is for a release build; the pages of code
/// and data of the unoptimised one that is tested are half as much again.
const MEMORY: u64 = 90 * 1024;

/// Verbs that change something.
const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];

/// The operator as a process of this machine; ends with the value.
struct Operator {
    child: Child,
    metrics: String,
}

impl Operator {
    fn start(room: &Room) -> Result<Self> {
        let program = std::env::var_os("OBSERVER_E2E_OPERATOR")
            .map_or_else(|| repository("target/debug/observer-operator"), Into::into);
        let log = std::fs::File::create(figures::folder().join("operator.log"))?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(&program)
            .arg("run")
            .env("KUBECONFIG", &room.cluster.kubeconfig)
            .env("POD_NAMESPACE", &room.namespace)
            .env("POD_NAME", "operator")
            .env("POD_UID", "00000000-0000-0000-0000-000000000000")
            .env("OBSERVER_LISTENER_IMAGE", image())
            .env("OBSERVER_LISTEN", address.to_string())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let metrics = format!("http://{address}/metrics");
        Ok(Self { child, metrics })
    }

    /// Reconciles so far, by their kind and what came of them.
    async fn reconciles(&self) -> Result<BTreeMap<String, u64>> {
        let text = reqwest::get(&self.metrics).await?.text().await?;
        let mut found = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("observer_operator_reconciles_total{")
                && let Some((labels, count)) = rest.split_once("} ")
            {
                found.insert(labels.to_owned(), count.parse()?);
            }
        }
        Ok(found)
    }

    /// A line of its /proc status, in KiB.
    fn memory(&self, line: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).context("the operator does not run")?;
        let value = status
            .lines()
            .find_map(|found| found.strip_prefix(line)?.split_whitespace().next());
        Ok(value.context("no such line")?.parse()?)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests that the API server has answered, by verb and resource.
type Requests = BTreeMap<(String, String), u64>;

async fn requests(room: &Room) -> Result<Requests> {
    let request = Request::get("/metrics").body(Vec::new())?;
    let text = room.cluster.client.request_text(request).await?;
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut found = Requests::new();
    for line in text.lines() {
        let Some(labels) = line.strip_prefix("apiserver_request_total{") else {
            continue;
        };
        let (Some(verb), Some(resource), Some((_, count))) = (
            label(labels, ",verb"),
            label(labels, ",resource"),
            labels.rsplit_once(' '),
        ) else {
            continue;
        };
        let subresource = label(labels, ",subresource").filter(|name| !name.is_empty());
        let resource = subresource.map_or(resource.clone(), |name| format!("{resource}/{name}"));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number that is written as a float"
        )]
        let count = count.parse::<f64>()? as u64;
        *found.entry((verb, resource)).or_default() += count;
    }
    ensure!(!found.is_empty(), "the API server counts no requests");
    Ok(found)
}

/// What came between two counts, without the Leases that are renewed all the time.
fn between(before: &Requests, after: &Requests, verbs: &[&str]) -> Requests {
    after
        .iter()
        .filter(|((verb, resource), _)| verbs.contains(&verb.as_str()) && resource != "leases")
        .map(|(what, count)| (what.clone(), count - before.get(what).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn listed(requests: &Requests) -> String {
    let parts: Vec<String> = requests
        .iter()
        .map(|((verb, resource), count)| format!("{verb} {resource} {count}"))
        .collect();
    parts.join(", ")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn control_plane_bears_five_hundred_listeners() {
    scenario("scale", async |room| {
        installation::defined(&room.cluster).await?;
        no_database(room).await?;
        let operator = Operator::start(room)?;
        let before = requests(room).await?;
        let start = Instant::now();
        make(room).await?;
        figure(&format!(
            "{LISTENERS} listeners and observers made in {}",
            seconds(start.elapsed())
        ));
        settled(room).await?;
        let steady = start.elapsed();
        let after = requests(room).await?;
        let applied = between(&before, &after, &["APPLY", "PATCH"]);
        let total: u64 = applied.values().sum();
        figure(&format!(
            "  steady after {} from the first; {:.1} writes for a listener with its observer ({}); \
             operator {} MB, at most {} MB",
            seconds(steady),
            per_listener(total),
            listed(&applied),
            operator.memory("VmRSS:")? / 1024,
            operator.memory("VmHWM:")? / 1024,
        ));
        figure(&format!("  reconciles: {:?}", operator.reconciles().await?));
        rests(room).await?;
        figure(&format!("  reconciles: {:?}", operator.reconciles().await?));
        let (now, most) = (operator.memory("VmRSS:")?, operator.memory("VmHWM:")?);
        figure(&format!(
            "  operator at rest {} MB, at most {} MB (goal: 60 MB)",
            now / 1024,
            most / 1024
        ));
        ensure!(most < MEMORY, "the operator took {most} KiB");
        all_go(room).await
    })
    .await;
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn per_listener(total: u64) -> f64 {
    total as f64 / LISTENERS as f64
}

async fn make(room: &Room) -> Result<()> {
    let (listeners, observers) = (room.api::<ObserverListener>(), room.api::<Observer>());
    stream::iter(0..LISTENERS)
        .map(|number| {
            let (listeners, observers) = (&listeners, &observers);
            async move {
                let name = format!("l{number}");
                let mut listener = resources::listener(&name, 1);
                listener["spec"]["observerSelector"] = json!({"matchLabels": {"app": name}});
                listener["spec"]["podTemplate"] =
                    json!({"nodeSelector": {"example.com/none": "x"}});
                let mut observer = resources::observer(&name, "http://sink");
                observer["metadata"]["labels"] = json!({"app": name});
                observer["spec"]["actions"] = json!([{"name": "note", "log": {}}]);
                create(listeners, &listener).await?;
                create(observers, &observer).await
            }
        })
        .buffer_unordered(ABREAST)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

async fn create<K>(api: &Api<K>, value: &Value) -> Result<()>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    let mut value = value.clone();
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    let made: K = serde_json::from_value(value)?;
    api.create(&PostParams::default(), &made).await?;
    Ok(())
}

/// Waits until every listener and observer has a status and a Deployment.
async fn settled(room: &Room) -> Result<()> {
    let all = ListParams::default();
    steady("every listener has all that it should have", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let listeners = room.api::<ObserverListener>().list(&all).await?.items;
        let told = listeners.iter().filter(|listener| {
            let status = listener.status.as_ref();
            status.is_some_and(|status| {
                status.config_hash.is_some() && status.observers.selected == 1
            })
        });
        let deployments = room.api::<Deployment>().list_metadata(&all).await?.items;
        let observers = room.api::<Observer>().list(&all).await?.items;
        let chosen = observers.iter().filter(|observer| {
            let status = observer.status.as_ref();
            status.is_some_and(|status| status.listeners.len() == 1)
        });
        let (told, chosen, made) = (told.count(), chosen.count(), deployments.len());
        ensure!(
            told == LISTENERS && chosen == LISTENERS && made == LISTENERS,
            "{told} listeners and {chosen} observers have a status, {made} have a Deployment"
        );
        Ok(())
    })
    .await
}

/// Waits until all of them are as they will stay; fails where that took longer than it may.
async fn steady(what: &str, look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let ((), took) = until(what, STEADY, look).await?;
    ensure!(took <= STEADY, "{what} only after {}", seconds(took));
    Ok(())
}

/// Watches the rest: nobody writes anything but Leases.
async fn rests(room: &Room) -> Result<()> {
    // Deployments say once, after two minutes, that they do not get on, and so do listeners.
    let deployments = room.api::<Deployment>();
    steady("the cluster has nothing more to say", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let all = deployments.list(&ListParams::default()).await?.items;
        let stuck = all.iter().filter(|deployment| {
            let status = deployment.status.as_ref();
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|one| one.reason.as_deref() == Some("ProgressDeadlineExceeded"))
            })
        });
        let stuck = stuck.count();
        ensure!(stuck == LISTENERS, "{stuck} Deployments have given up");
        let before = requests(room).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let wrote = between(&before, &requests(room).await?, &WRITES);
        ensure!(wrote.is_empty(), "written within 5 s: {}", listed(&wrote));
        Ok(())
    })
    .await?;
    let before = requests(room).await?;
    // A time of rest is what is measured.
    tokio::time::sleep(REST).await;
    let after = requests(room).await?;
    let wrote = between(&before, &after, &WRITES);
    let read = between(&before, &after, &["GET", "LIST", "WATCH"]);
    figure(&format!(
        "  at rest for {} s: {} writes {}; reads: {}",
        REST.as_secs(),
        wrote.values().sum::<u64>(),
        listed(&wrote),
        listed(&read),
    ));
    ensure!(wrote.is_empty(), "written at rest: {}", listed(&wrote));
    Ok(())
}

/// Deletes all of them while the operator is there to let go of them.
async fn all_go(room: &Room) -> Result<()> {
    let listeners = room.api::<ObserverListener>();
    let start = Instant::now();
    listeners
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await?;
    steady("every listener is gone", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let left = listeners
            .list_metadata(&ListParams::default())
            .await?
            .items
            .len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    let took = seconds(start.elapsed());
    figure(&format!("  all deleted in {took}"));
    Ok(())
}
