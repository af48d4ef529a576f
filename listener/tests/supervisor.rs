//! The supervisor with the failure policy of a pod, which retries what a process that runs files would end
//! with.

use crds::config::ListenerConfig;
use observer_listener::coordination::membership::Coordination;
use observer_listener::coordination::process;
use observer_listener::migrate::migrate;
use observer_listener::runtime::config_source::{ConfigSource, FailurePolicy};
use observer_listener::runtime::error::RunError;
use observer_listener::runtime::job_worker::WorkerMode;
use observer_listener::runtime::plan::RuntimePlan;
use observer_listener::runtime::supervisor::{self, ProcessOptions};
use observer_listener::server::{AppState, MetricsAccess};
use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::reload::loaded;
use crate::support::listener::{Config, observer};
use crate::support::probe::{free_address, get, ready, ready_with};
use crate::support::told::keys_of;
use crate::support::{TestDb, empty_database, eventually_or};

/// Plans that the test sends, with the failure policy of a pod.
struct Plans(mpsc::Receiver<RuntimePlan>);

impl ConfigSource for Plans {
    async fn next(&mut self, _: &AppState) -> RuntimePlan {
        match self.0.recv().await {
            Some(plan) => plan,
            None => std::future::pending().await,
        }
    }

    fn coordination(&self, _: &RuntimePlan) -> Coordination {
        Coordination::Database
    }

    fn worker_mode(&self, _: &ListenerConfig) -> WorkerMode {
        WorkerMode::Embedded
    }

    fn failure_policy(&self) -> FailurePolicy {
        FailurePolicy::Retry
    }
}

/// A supervisor that runs the plans it is sent.
struct Pod {
    address: String,
    plans: mpsc::Sender<RuntimePlan>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Pod {
    fn start() -> Self {
        let (address, stop) = (free_address(), CancellationToken::new());
        let (plans, received) = mpsc::channel(1);
        let options = ProcessOptions {
            listener: "default/test".to_owned(),
            member: process::member(),
            listen: Some(address.parse().unwrap()),
            api_listen: None,
            console: false,
            metrics: None,
            metrics_access: MetricsAccess::default(),
        };
        let running = tokio::spawn(supervisor::run(Plans(received), options, stop.clone()));
        Self {
            address,
            plans,
            stop,
            running,
        }
    }

    /// Stops it, which is to go well.
    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn plan(url: &str, sink: &Sink) -> RuntimePlan {
    let observers = observer("a", "public.orders", &sink.url("/a"), "");
    let (listener, observers) = loaded(&Config::new(url, "", &observers));
    RuntimePlan::new(listener.into(), observers)
}

/// Waits until `/status` has a problem of this reason.
async fn reported(address: &str, reason: &str) {
    let problem = async || -> Option<Value> {
        let (_, text) = get(address, "/status").await?;
        let report: Value = serde_json::from_str(&text).ok()?;
        Some(report["problem"]["reason"].clone())
    };
    eventually_or(
        async || (problem().await? == reason).then_some(()),
        async || format!("the problem is {reason}: {:?}", problem().await),
    )
    .await;
}

async fn insert_order(db: &TestDb) {
    db.run(
        "create table orders (id int primary key); select observer.track('orders');
         insert into orders values (1)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_failure_is_reported_until_it_is_repaired() {
    let (db, sink) = (
        empty_database().await,
        Sink::start(Behaviour::Ok).await.unwrap(),
    );
    let pod = Pod::start();

    // A port at which no server answers: a plan with another is not to wait for the next attempt.
    let unreachable = format!("postgres://nobody@{}/none", free_address());
    pod.plans.send(plan(&unreachable, &sink)).await.unwrap();
    reported(&pod.address, "DatabaseUnreachable").await;
    pod.plans.send(plan(&db.url, &sink)).await.unwrap();
    reported(&pod.address, "SchemaMissing").await;
    ready_with(&pod.address, 503, "observer-listener migrate").await;

    migrate(&db.pool).await.unwrap();
    ready(&pod.address, 200).await;
    insert_order(&db).await;
    assert_eq!(keys_of(&sink, "/a", 1).await, ["1"]);
    pod.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_during_an_outage_is_no_failure_of_a_pod() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let pod = Pod::start();
    let unreachable = format!("postgres://nobody@{}/none", free_address());
    pod.plans.send(plan(&unreachable, &sink)).await.unwrap();
    reported(&pod.address, "DatabaseUnreachable").await;
    pod.stop().await;
}
