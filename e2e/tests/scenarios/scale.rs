//! Many listeners on a control plane whose pods nobody schedules: what they cost the operator and the API server, to get
//! there, at rest, and after a restart of the operator, which runs as a process here.

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
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::no_database;
use crate::support::figures::{figure, seconds};
use crate::support::room::{Room, scenario};
use crate::support::wait::until;
use crate::support::{figures, image, installation, repository, resources};

/// Listeners, each with an observer: few, and four times as many in the same run.
const LISTENERS: [usize; 2] = [500, 2000];

/// Concurrent requests while resources are created.
pub(super) const ABREAST: usize = 16;

/// Longest until all of them are as they will stay, for each hundred: the controllers of Kubernetes make Deployments at
/// a bounded rate.
const STEADY: Duration = Duration::from_secs(80);

/// How long the rest is watched.
const REST: Duration = Duration::from_mins(1);

/// Most memory of the operator with [`LISTENERS`] of each number, in KiB. The goal of 60 MB for 500 is for a release
/// build; the pages of code and data of the unoptimised one that is tested are half as much again.
const MEMORY: [u64; 2] = [90 * 1024, 180 * 1024];

/// Verbs that change something.
const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];

/// Most times that the operator may lose its Lease while everything is deleted.
const MAX_RESTARTS: usize = 5;

/// The operator as a process of this machine; ends with the value.
struct Operator {
    child: Child,
    metrics: String,
}

impl Operator {
    fn start(room: &Room) -> Result<Self> {
        let program = std::env::var_os("OBSERVER_E2E_OPERATOR")
            .map_or_else(|| repository("target/debug/observer-operator"), Into::into);
        let mut log = std::fs::File::options();
        let log = log.create(true).append(true);
        let log = log.open(figures::folder().join("operator.log"))?;
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

    /// Starts it again if it has ended, as the kubelet does: the operator exits when it cannot renew its Lease in time,
    /// for example because the API server is busy. Returns whether it had; fails where it ended for another reason.
    fn restarted(&mut self, room: &Room) -> Result<bool> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(false);
        };
        let log = std::fs::read_to_string(figures::folder().join("operator.log"))?;
        let last = log.lines().last().unwrap_or_default();
        ensure!(
            status.code() == Some(1) && last == "error: leadership lost",
            "the operator ended ({status}): {last}"
        );
        *self = Self::start(room)?;
        Ok(true)
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
async fn control_plane_bears_two_thousand_listeners() {
    scenario("scale", async |room| {
        installation::defined(&room.cluster).await?;
        no_database(room).await?;
        for (listeners, most) in LISTENERS.into_iter().zip(MEMORY) {
            bears(room, Crowd(listeners), most).await?;
        }
        Ok(())
    })
    .await;
}

/// A number of listeners.
#[derive(Clone, Copy)]
struct Crowd(usize);

async fn bears(room: &Room, crowd: Crowd, most: u64) -> Result<()> {
    let operator = Operator::start(room)?;
    let before = requests(room).await?;
    let start = Instant::now();
    crowd.make(room).await?;
    figure(&format!(
        "{} listeners and observers made in {}",
        crowd.0,
        seconds(start.elapsed())
    ));
    crowd.settled(room).await?;
    let steady = start.elapsed();
    let after = requests(room).await?;
    let applied = between(&before, &after, &["APPLY", "PATCH"]);
    let total: u64 = applied.values().sum();
    figure(&format!(
        "  steady after {} from the first; {:.1} writes for a listener with its observer ({}); \
         operator {} MB, at most {} MB",
        seconds(steady),
        crowd.share(total),
        listed(&applied),
        operator.memory("VmRSS:")? / 1024,
        operator.memory("VmHWM:")? / 1024,
    ));
    figure(&format!("  reconciles: {:?}", operator.reconciles().await?));
    crowd.rests(room).await?;
    figure(&format!("  reconciles: {:?}", operator.reconciles().await?));
    let highest = operator.memory("VmHWM:")?;
    figure(&format!(
        "  operator at rest {} MB, at most {} MB",
        operator.memory("VmRSS:")? / 1024,
        highest / 1024
    ));
    ensure!(highest < most, "the operator took {highest} KiB");
    drop(operator);
    let operator = crowd.looked_at_again(room).await?;
    crowd.all_go(room, operator).await
}

impl Crowd {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn share(self, total: u64) -> f64 {
        total as f64 / self.0 as f64
    }

    /// Longest until something is so for all of them.
    fn patience(self) -> Duration {
        STEADY * u32::try_from(self.0.div_ceil(100)).unwrap_or(u32::MAX)
    }

    /// Waits until all of them are as they will stay; fails where that took longer than it may.
    async fn steady(self, what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let (most, start) = (self.patience(), Instant::now());
        loop {
            // One wait has a bound of its own.
            let waited = until(what, most, &mut look).await;
            let took = start.elapsed();
            if waited.is_err() && took < most {
                continue;
            }
            waited?;
            ensure!(took <= most, "{what} only after {}", seconds(took));
            return Ok(());
        }
    }

    async fn make(self, room: &Room) -> Result<()> {
        let (listeners, observers) = (room.api::<ObserverListener>(), room.api::<Observer>());
        stream::iter(0..self.0)
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

    /// Waits until every listener and observer has a status and a Deployment.
    async fn settled(self, room: &Room) -> Result<()> {
        let all = ListParams::default();
        self.steady("every listener has all that it should have", async || {
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
                told == self.0 && chosen == self.0 && made == self.0,
                "{told} listeners and {chosen} observers have a status, {made} have a Deployment"
            );
            Ok(())
        })
        .await
    }

    /// Watches the rest: nobody writes anything but Leases.
    async fn rests(self, room: &Room) -> Result<()> {
        // Deployments say once, after two minutes, that they do not get on, and so do listeners.
        let deployments = room.api::<Deployment>();
        self.steady("the cluster has nothing more to say", async || {
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
            ensure!(stuck == self.0, "{stuck} Deployments have given up");
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

    /// Starts another operator, and waits until it has looked at all of them. It applies each object once, as it does not
    /// know what the one before applied; none of them changes by that.
    async fn looked_at_again(self, room: &Room) -> Result<Operator> {
        let (before, versions) = (requests(room).await?, versions(room).await?);
        let start = Instant::now();
        let operator = Operator::start(room)?;
        self.steady(
            "the next operator has looked at every listener",
            async || {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let reconciles = operator.reconciles().await?;
                let done = reconciles
                    .iter()
                    .filter(|(labels, _)| labels.contains("ObserverListener"));
                let done: u64 = done.map(|(_, count)| count).sum();
                ensure!(done >= self.0 as u64, "{done} were looked at");
                Ok(())
            },
        )
        .await?;
        let wrote = between(&before, &requests(room).await?, &WRITES);
        figure(&format!(
            "  after a restart of the operator, all looked at within {}; written: {}; operator at most {} MB",
            seconds(start.elapsed()),
            listed(&wrote),
            operator.memory("VmHWM:")? / 1024
        ));
        ensure!(
            self::versions(room).await? == versions,
            "a restart of the operator has changed something"
        );
        Ok(operator)
    }

    /// Deletes all of them while the operator runs, and waits until their objects are gone.
    async fn all_go(self, room: &Room, mut operator: Operator) -> Result<()> {
        let mut restarts = 0;
        let (listeners, observers) = (room.api::<ObserverListener>(), room.api::<Observer>());
        let (all, start) = (ListParams::default(), Instant::now());
        listeners
            .delete_collection(&DeleteParams::default(), &all)
            .await?;
        observers
            .delete_collection(&DeleteParams::default(), &all)
            .await?;
        self.steady("every listener is gone", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            restarts += usize::from(operator.restarted(room)?);
            ensure!(restarts <= MAX_RESTARTS, "{restarts} restarts");
            let left = [
                listeners.list_metadata(&all).await?.items.len(),
                observers.list_metadata(&all).await?.items.len(),
                room.api::<Deployment>()
                    .list_metadata(&all)
                    .await?
                    .items
                    .len(),
            ];
            ensure!(
                left == [0; 3],
                "of listeners, observers and Deployments are left: {left:?}"
            );
            Ok(())
        })
        .await?;
        let took = seconds(start.elapsed());
        figure(&format!(
            "  all deleted in {took}, with {restarts} restarts of the operator"
        ));
        Ok(())
    }
}

/// Versions of all listeners and of their Deployments.
async fn versions(room: &Room) -> Result<BTreeMap<(String, String), Option<String>>> {
    let all = ListParams::default();
    let listeners = room
        .api::<ObserverListener>()
        .list_metadata(&all)
        .await?
        .items;
    let deployments = room.api::<Deployment>().list_metadata(&all).await?.items;
    let of = |kind: &str, meta: ObjectMeta| {
        (
            (kind.to_owned(), meta.name.unwrap_or_default()),
            meta.resource_version,
        )
    };
    let listeners = listeners
        .into_iter()
        .map(|one| of("listener", one.metadata));
    let deployments = deployments
        .into_iter()
        .map(|one| of("deployment", one.metadata));
    Ok(listeners.chain(deployments).collect())
}

pub(super) async fn create<K>(api: &Api<K>, value: &Value) -> Result<()>
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
