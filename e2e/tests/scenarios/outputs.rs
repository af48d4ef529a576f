//! What kubectl shows of listeners and observers, kept for the documentation.

use anyhow::{Result, ensure};
use crds::v1alpha1::Observer;
use serde_json::json;

use super::beginning::example;
use crate::support::room::scenario;
use crate::support::wait::{SOON, until};
use crate::support::{figures, installation, resources};

/// The commands, and the files that what they print is kept in.
const COMMANDS: [(&str, &[&str]); 8] = [
    ("get", &["get", "ol,obs"]),
    ("get-wide", &["get", "ol,obs", "-o", "wide"]),
    ("describe-listener", &["describe", "ol", "shop"]),
    ("describe-observer", &["describe", "obs", "order-events"]),
    ("describe-broken-observer", &["describe", "obs", "broken"]),
    ("get-parts", &["get", "deploy,pod,svc,pdb,lease,secret"]),
    ("events", &["get", "events"]),
    ("explain-listener", &["explain", "ol.spec"]),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn kubectl_shows_what_there_is() {
    scenario("shop", async |room| -> Result<()> {
        installation::installed(&room.cluster).await?;
        let _example = example(room).await?;
        let broken = json!({
            "metadata": {"name": "broken", "labels": {"app": "shop"}},
            "spec": {
                "events": {"entity": "public.orders"},
                "when": "new.total > ",
                "actions": [{"name": "note", "log": {}}],
            },
        });
        room.apply::<Observer>(&broken).await?;
        until("the broken observer is told of", SOON, async || {
            let observer = room.api::<Observer>().get("broken").await?;
            resources::condition(&observer, "Programmed", "False")
        })
        .await?;
        let folder = figures::folder().join("outputs");
        std::fs::create_dir_all(&folder)?;
        for (name, command) in COMMANDS {
            let arguments = [command, &["--namespace", &room.namespace]].concat();
            let text = room.cluster.kubectl(&arguments).await?;
            ensure!(
                !text.trim().is_empty(),
                "kubectl {command:?} prints nothing"
            );
            let text = text.replace(&room.namespace, "shop");
            std::fs::write(
                folder.join(format!("{name}.txt")),
                format!("$ kubectl {}\n{text}", command.join(" ")),
            )?;
        }
        Ok(())
    })
    .await;
}
