//! A NATS server with streams.

use std::process::Stdio;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions};
use tokio::process::{Child, Command};

use crate::wait::eventually_or;

/// A server with streams, in a folder of its own.
pub struct Nats {
    /// Port on the loopback address.
    pub port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl Nats {
    /// Starts it and waits until it answers.
    pub async fn start() -> Self {
        let server = Self::begin(&[]);
        server.answers().await;
        server
    }

    /// Starts it with more arguments, and does not wait until it answers.
    #[must_use]
    pub fn begin(more: &[String]) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let folder = tempfile::tempdir().unwrap();
        let child = run(port, folder.path(), more);
        Self {
            port,
            folder,
            child,
        }
    }

    /// Its URL with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://shop:hunter2-nats@127.0.0.1:{}", self.port)
    }

    /// A client, once the server answers.
    pub async fn answers(&self) -> Client {
        let connect = async || {
            let options =
                ConnectOptions::with_user_and_password("shop".into(), "hunter2-nats".into());
            options
                .connect(format!("nats://127.0.0.1:{}", self.port))
                .await
        };
        eventually_or(
            async || connect().await.ok(),
            async || format!("an answer of NATS, not {:?}", connect().await.err()),
        )
        .await
    }

    /// Kills it and starts it again, with the data that it had.
    pub async fn restart(&mut self) {
        self.child.kill().await.unwrap();
        self.child = run(self.port, self.folder.path(), &[]);
        self.answers().await;
    }

    /// A stream `orders` of the subjects below `orders`.
    pub async fn stream(&self) -> stream::Stream {
        let context = jetstream::new(self.answers().await);
        let config = stream::Config {
            name: "orders".to_owned(),
            subjects: vec!["orders.>".to_owned()],
            ..stream::Config::default()
        };
        context.get_or_create_stream(config).await.unwrap()
    }
}

fn run(port: u16, folder: &std::path::Path, more: &[String]) -> Child {
    let mut program = Command::new("/usr/sbin/nats-server");
    let port = port.to_string();
    program
        .args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"])
        .arg(folder);
    program.args(["--user", "shop", "--pass", "hunter2-nats"]);
    program.args(more);
    program
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
