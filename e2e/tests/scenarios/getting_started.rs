//! What docs/getting-started/cluster.md prints, from a cluster without an operator to a signed webhook.

use anyhow::{Context, Result, ensure};
use testkit::page::{Page, Shell};

use crate::support::database::{Database, migration};
use crate::support::installation;
use crate::support::repository;
use crate::support::room::{Room, scenario};
use crate::support::sink::{SIGNING, Sink};
use crate::support::wait::{LATE, until};

/// Commands that lead to the webhook, a line of the page's shell each, with the lines that it continues on.
const COMMANDS: usize = 10;

const PAGE: &str = "getting-started/cluster.md";

/// Where the page takes examples from.
const EXAMPLES: &str = "https://raw.githubusercontent.com/fraiseql/observers/main/docs/examples/";

/// What the page installs.
const CHART: &str = "oci://ghcr.io/fraiseql/charts/observer-operator";

/// A shell whose user has this cluster, and in it the scenario's namespace.
async fn shell(room: &Room, database: &Database) -> Result<Shell> {
    let shell = Shell::new(&[
        ("KUBECONFIG", "kubeconfig"),
        ("DATABASE_URL", &database.url),
        ("DATABASE_URL_HERE", &database.url_here),
    ]);
    let kubeconfig = std::fs::read_to_string(&room.cluster.kubeconfig)?;
    shell.write("kubeconfig", &kubeconfig);
    for (name, variable) in [("kubectl", "KUBECTL"), ("helm", "HELM")] {
        if let Some(program) = std::env::var_os(variable) {
            shell.install(name, program.as_ref());
        }
    }
    let namespace = &room.namespace;
    let current = format!("kubectl config set-context --current --namespace {namespace}");
    shell.run(&current).await;
    shell.write("migrate.yaml", &migration()?);
    let example = std::fs::read_to_string(repository("docs/examples/cluster.yaml"))?;
    shell.write("cluster.yaml", &example);
    Ok(shell)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn cluster_page_leads_to_a_signed_webhook() {
    scenario("docs", async |room| {
        let (database, sink) = tokio::try_join!(Database::start(room), Sink::start(room))?;
        let shell = shell(room, &database).await?;
        let chart = installation::chart().join(" ");
        let page = Page::read(
            PAGE,
            &[
                // The chart, the image and the examples are those of this commit.
                (CHART, &chart),
                (EXAMPLES, ""),
                // Where there is no route to pods, `psql` has another way to the server than pods have.
                ("psql \"$DATABASE_URL\"", "psql \"$DATABASE_URL_HERE\""),
                ("https://hooks.example.com/orders", &sink.url("main")),
                // The receiver knew its secrets before.
                ("whsec_$(openssl rand -base64 32)", SIGNING[0]),
            ],
        );
        let commands = page.commands();
        ensure!(commands.len() <= COMMANDS, "{commands:#?}");
        let (install, others) = commands.split_first().context("no commands")?;
        let turn = installation::turn().await?;
        shell.run(install).await;
        drop(turn);
        for command in others {
            shell.run(command).await;
        }
        let (receipt, _) = until("the webhook arrives", LATE, async || {
            let first = sink.since(0).await?.into_iter().next();
            first.context("nothing has arrived")
        })
        .await?;
        ensure!(receipt.secret == Some(0), "not signed: {receipt:?}");
        ensure!(
            receipt.key.as_deref() == Some("1"),
            "another order: {receipt:?}"
        );
        Ok(())
    })
    .await;
}
