//! A control plane, and the operator's program in it.

use std::net::TcpListener;
use std::process::{Child, Command};

use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, CustomResourceExt};
use tempfile::NamedTempFile;
use testkit::servers::control_plane::ControlPlane;
use testkit::wait::STALLED;

use super::room::until;

/// A client of the control plane, in the name of an account if one is given.
pub(crate) async fn client(plane: &ControlPlane, account: Option<(&str, &str)>) -> Client {
    Client::try_from(config(plane, account).await).unwrap()
}

async fn config(plane: &ControlPlane, account: Option<(&str, &str)>) -> Config {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.unwrap();
    config.auth_info.impersonate =
        account.map(|(namespace, name)| format!("system:serviceaccount:{namespace}:{name}"));
    config
}

/// A control plane that the operator can work in.
pub(crate) struct Plane(ControlPlane);

impl Plane {
    pub(crate) fn start() -> Self {
        Self(ControlPlane::start())
    }

    pub(crate) async fn client(&self) -> Client {
        client(&self.0, None).await
    }

    /// A client in the name of an account.
    pub(crate) async fn client_of(&self, namespace: &str, account: &str) -> Client {
        client(&self.0, Some((namespace, account))).await
    }

    /// What makes a client in the name of an account.
    pub(crate) async fn config_of(&self, account: (&str, &str)) -> Config {
        config(&self.0, Some(account)).await
    }

    /// A file by which a program works in the name of an account.
    fn kubeconfig_of(&self, (namespace, account): (&str, &str)) -> NamedTempFile {
        let mut kubeconfig = Kubeconfig::read_from(self.0.kubeconfig()).unwrap();
        for user in &mut kubeconfig.auth_infos {
            let info = user.auth_info.get_or_insert_default();
            info.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
        }
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_yaml_ng::to_string(&kubeconfig).unwrap()).unwrap();
        file
    }

    /// Makes the custom resources known.
    pub(crate) async fn define(&self, client: &Client) {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in [ObserverListener::crd(), Observer::crd()] {
            let name = definition.metadata.name.clone().unwrap();
            let parameters = PatchParams::apply("test").force();
            let patch = Patch::Apply(&definition);
            api.patch(&name, &parameters, &patch).await.unwrap();
            let established = conditions::is_crd_established();
            let waiting = await_condition(api.clone(), &name, established);
            let done = tokio::time::timeout(STALLED, waiting).await;
            done.unwrap().unwrap();
        }
    }

    /// An operator that has ended holds up no other.
    pub(super) async fn lease_is_free(&self, client: &Client, namespace: &str) {
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let lease = api.get("observer-operator").await.unwrap();
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        assert!(holder.is_none_or(|holder| holder.is_empty()));
    }
}

/// The operator at work.
pub(crate) struct Operator {
    child: Child,
    pub(crate) url: String,
    _kubeconfig: Option<NamedTempFile>,
}

impl Operator {
    /// Starts the program and waits until it works: in one namespace or in all, with all rights or with those of an
    /// account (its namespace and its name).
    pub(crate) async fn start(
        plane: &Plane,
        namespace: Option<&str>,
        account: Option<(&str, &str)>,
    ) -> Self {
        let operator = Self::spawn(plane, namespace, account, false);
        until("the operator works", async || {
            operator.metric("observer_operator_leader").await == Some(1.0)
        })
        .await;
        operator
    }

    /// Starts the program, whose metrics may need the right to read them.
    pub(crate) fn spawn(
        plane: &Plane,
        namespace: Option<&str>,
        account: Option<(&str, &str)>,
        authorize_metrics: bool,
    ) -> Self {
        let kubeconfig = account.map(|account| plane.kubeconfig_of(account));
        let path = kubeconfig.as_ref().map(NamedTempFile::path);
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let child = Command::new(env!("CARGO_BIN_EXE_observer-operator"))
            .args(["run", "--image", "example.com/observers:1", "--listen"])
            .arg(address.to_string())
            .args(namespace.map(|name| format!("--namespace={name}")))
            .env("KUBECONFIG", path.unwrap_or(plane.0.kubeconfig()))
            .envs(account.map(|(namespace, _)| ("POD_NAMESPACE", namespace)))
            .env("POD_NAME", format!("test-{}", std::process::id()))
            .env("OBSERVER_LOG_FORMAT", "text")
            // As in the chart.
            .env("OBSERVER_AUTHORIZE_METRICS", authorize_metrics.to_string())
            .spawn()
            .unwrap();
        Self {
            child,
            url: format!("http://{address}"),
            _kubeconfig: kubeconfig,
        }
    }

    /// The sum of all metrics whose names with labels begin so.
    pub(super) async fn metric(&self, name: &str) -> Option<f64> {
        let answer = reqwest::get(format!("{}/metrics", self.url)).await;
        let text = answer.ok()?.text().await.ok()?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop as Kubernetes does, and waits for it to end well.
    pub(crate) fn stop(&mut self) {
        let asked = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(asked.unwrap().success());
        assert!(self.child.wait().unwrap().success(), "it did not end well");
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
