//! docs/how-to/cloudnative-pg.md: what it prints is what CloudNativePG takes, and a Secret as CloudNativePG makes it
//! serves a listener.
//!
//! There is no image of CloudNativePG's servers here, so a Postgres stands in for its cluster.

use std::path::PathBuf;
use std::process::Stdio;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use testkit::certs::Certs;
use testkit::http_sink::{Behaviour, Sink};
use testkit::page::Page;
use tokio::process::Command;

use crate::api::cluster::Plane;
use crate::support::listener::{Config, Process, observer};
use crate::support::program::command_by;
use crate::support::tls::speak_tls;
use crate::support::{eventually, own_server};

const PAGE: &str = "how-to/cloudnative-pg.md";

/// The version whose definitions the page is checked against.
const MODULE: &str = "github.com/cloudnative-pg/cloudnative-pg@v1.27.1";

/// Documents of the page.
fn documents() -> Vec<Value> {
    let page = Page::read(PAGE, &[]);
    let documents = page.blocks("yaml").into_iter();
    documents
        .map(|text| serde_yaml_ng::from_str(text).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_secret_serves_a_listener_over_verified_tls() {
    let certs = Certs::make();
    let (server, admin) = own_server().await;
    speak_tls(&admin, &certs).await;
    let [cluster, listener, _] = &documents()[..] else {
        panic!("the page has three documents")
    };
    let initdb = &cluster["spec"]["bootstrap"]["initdb"];
    let (owner, database) = (
        initdb["owner"].as_str().unwrap(),
        initdb["database"].as_str().unwrap(),
    );
    let run = async |pool: &sqlx::PgPool, sql: &str| {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(pool)
            .await;
        done.unwrap();
    };
    run(
        &admin,
        "drop schema observer cascade; drop role observer_capture",
    )
    .await;
    run(
        &admin,
        &format!("create role {owner} login password 'p@ss'"),
    )
    .await;
    run(&admin, &format!("create database {database} owner {owner}")).await;
    let inside = testkit::database::pool(&server.url(database)).await;
    for statement in initdb["postInitApplicationSQL"].as_array().unwrap() {
        run(&inside, statement.as_str().unwrap()).await;
    }

    // As its operator builds it, but for the host.
    let uri = format!(
        "postgresql://{owner}:p%40ss@localhost:{}/{database}",
        server.port()
    );
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-pg-app}}\ntype: kubernetes.io/basic-auth\n\
         stringData:\n  username: {owner}\n  user: {owner}\n  password: p@ss\n  dbname: {database}\n  \
         host: localhost\n  port: \"{port}\"\n  uri: {uri}\n  jdbc-uri: jdbc:postgresql://localhost:{port}/{database}\n---\n",
        port = server.port()
    );
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        "",
        "",
        &(observer("hook", "public.orders", &sink.url("/"), "") + &secret),
    );
    let url = serde_json::to_string(&listener["spec"]["database"]["url"]).unwrap();
    config.change("{value: \"\"}", &url);
    let env = listener["spec"]["podTemplate"]["env"].as_array().unwrap();
    assert_eq!(env[0]["value"], "verify-full");
    let from = &env[1]["valueFrom"]["secretKeyRef"];
    assert_eq!(
        (&from["name"], &from["key"]),
        (&"shop-pg-ca".into(), &"ca.crt".into())
    );
    let names = [&env[0], &env[1]].map(|one| one["name"].as_str().unwrap());
    let variables = [(names[0], "verify-full"), (names[1], &*certs.ca)];

    let files = config.path();
    let arguments = ["migrate", "-f", files.to_str().unwrap()];
    let said = command_by(&arguments, &variables).await.ok();
    assert!(
        !said.contains("warning"),
        "the capture role is given: {said}"
    );
    run(&inside, "create table orders (id int primary key)").await;
    run(&inside, &format!("alter table orders owner to {owner}")).await;
    run(&inside, "select observer.track('orders')").await;
    let process = Process::run_with(&config, "off", &variables);
    run(&inside, "insert into orders values (1)").await;
    sink.arrived(1).await;
    let clear: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity a join pg_stat_ssl s using (pid)
         where a.application_name = 'observer-listener' and not s.ssl",
    )
    .fetch_one(&admin)
    .await
    .unwrap();
    assert_eq!(clear, 0, "sessions without TLS");
    process.stop().await;

    let other = Certs::make();
    let variables = [(names[0], "verify-full"), (names[1], &*other.ca)];
    let mut process = Process::run_with(&config, "off", &variables);
    process.says("invalid peer certificate").await;
    process.kill().await;
}

/// The folder of the module, fetched as any other of Go's.
async fn module() -> PathBuf {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Downloaded {
        dir: PathBuf,
    }
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let downloaded: Downloaded = serde_json::from_str(&said).unwrap();
    downloaded.dir
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn printed_resources_are_valid_in_a_control_plane() {
    let plane = Plane::start();
    let client = plane.client().await;
    let file = module()
        .await
        .join("config/crd/bases/postgresql.cnpg.io_clusters.yaml");
    let definition: Value =
        serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    crate::api::cluster::apply(&client, "customresourcedefinitions", definition).await;
    let resource = ApiResource {
        group: "postgresql.cnpg.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "postgresql.cnpg.io/v1".to_owned(),
        kind: "Cluster".to_owned(),
        plural: "clusters".to_owned(),
    };
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    eventually("clusters are served", async || {
        api.list(&kube::api::ListParams::default()).await.ok()
    })
    .await;
    let strict = |object: DynamicObject| {
        let mut parameters = PatchParams::apply("test").dry_run();
        parameters.field_validation = Some(kube::api::ValidationDirective::Strict);
        let api = api.clone();
        async move {
            let name = object.name_any();
            api.patch(&name, &parameters, &Patch::Apply(&object)).await
        }
    };
    let clusters: Vec<DynamicObject> = documents()
        .into_iter()
        .filter(|document| document["kind"] == "Cluster")
        .map(|document| serde_json::from_value(document).unwrap())
        .collect();
    assert_eq!(clusters.len(), 2);
    for cluster in clusters {
        strict(cluster.clone()).await.unwrap();
        let mut wrong = cluster;
        wrong.data["spec"]["noSuchField"] = true.into();
        let refused = strict(wrong).await.unwrap_err().to_string();
        assert!(refused.contains("noSuchField"), "{refused}");
    }
}
