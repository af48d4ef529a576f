//! What docs/getting-started/laptop.md prints, from nothing to a signed webhook.

use serde_json::Value;
use testkit::http_sink::{Options, Sink};
use testkit::page::{Page, Shell, docs};
use testkit::servers::postgres::PrivateServer;
use url::Url;

use crate::support::listener::program;
use crate::support::{binaries, comes};

/// Commands that lead to the webhook. The file beside them is an example of the repository, so saving it is none.
const COMMANDS: usize = 4;

/// The secret that the page's file signs with.
const SIGNING_SECRET: &str = "whsec_cGxhY2Vob2xkZXItcmVwbGFjZS1tZS1iZWZvcmUtdXNl";

const PAGE: &str = "getting-started/laptop.md";

#[test]
fn file_of_the_laptop_page_is_the_example() {
    let example = std::fs::read_to_string(docs("examples/laptop.yaml")).unwrap();
    assert_eq!(Page::read(PAGE, &[]).blocks("yaml"), [example]);
}

#[tokio::test(flavor = "multi_thread")]
async fn laptop_page_leads_to_a_signed_webhook() {
    let sink = Sink::start_with(Options {
        signing_secrets: vec![SIGNING_SECRET.to_owned()],
        ..Options::default()
    });
    let sink = sink.await.unwrap();
    let server = PrivateServer::start(&binaries()).await.unwrap();
    let url = Url::parse(&server.url("shop")).unwrap();
    let (port, password) = (server.port().to_string(), url.password().unwrap());
    let shell = Shell::new(&[
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", url.username()),
        ("PGPASSWORD", password),
        // The port of the page may be another program's here.
        ("OBSERVER_LISTEN", "127.0.0.1:0"),
    ]);
    shell.run("createdb shop").await;
    let built = format!("ln -s {} .cargo/bin/{}", program(), env!("CARGO_PKG_NAME"));
    let install = format!(
        "cargo install --locked --git https://github.com/fraiseql/observers {}",
        env!("CARGO_PKG_NAME")
    );
    let page = Page::read(
        PAGE,
        &[
            // The program is built, from this commit.
            (&install, &built),
            ("postgres://USER:PASSWORD@localhost:5432/shop", url.as_str()),
            ("http://127.0.0.1:8080/orders", &sink.url("/orders")),
        ],
    );
    let [file] = page.blocks("yaml")[..] else {
        panic!("one file is to be saved")
    };
    shell.write("shop.yaml", file);

    let commands = page.commands();
    assert!(commands.len() <= COMMANDS, "{commands:#?}");
    let (run, before) = commands.split_last().unwrap();
    for command in before {
        shell.run(command).await;
    }
    let mut listener = shell.start(run);
    sink.arrived(1).await;
    let received = sink.received().remove(0);
    assert_eq!(received.signed, Some(true), "{received:?}");
    assert_eq!(received.line, "POST /orders");
    let event: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(event["new"]["id"], 1);
    let pid = listener.id().unwrap().to_string();
    shell.run(&format!("kill -TERM {pid}")).await;
    let ended = comes("the end of the listener", listener.wait()).await;
    assert!(ended.unwrap().success());
}
