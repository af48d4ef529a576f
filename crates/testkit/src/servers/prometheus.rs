//! A Prometheus that reads the metrics of a test's processes.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::wait::eventually_or;

/// The program, as Debian's package has it.
const PROGRAM: &str = "/usr/bin/prometheus";

/// A server with its data in a folder of its own.
pub struct Prometheus {
    /// Address of its API, on the loopback address.
    pub address: String,
    folder: tempfile::TempDir,
    _child: Child,
}

impl Prometheus {
    /// Starts it with these rules, and waits until it answers. Every second it reads the metrics of the
    /// addresses, which have these labels, and evaluates the rules.
    pub async fn start(addresses: &[String], labels: &[(&str, &str)], rules: &str) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        drop(socket);
        let folder = tempfile::tempdir().unwrap();
        let labels: serde_json::Map<_, _> = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        // A busy machine may take its time to answer; no longer timeout goes with this interval.
        let config = serde_json::json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{
                "job_name": "processes",
                "static_configs": [{"targets": addresses, "labels": labels}],
            }],
        });
        // JSON is YAML.
        fs::write(folder.path().join("prometheus.yaml"), config.to_string()).unwrap();
        fs::write(folder.path().join("rules.yaml"), rules).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(PROGRAM)
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            .args(["--log.level=warn", "--enable-feature=exemplar-storage"])
            .arg("--web.listen-address")
            .arg(&address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}, of Debian's package prometheus: {error}"));
        let server = Self {
            address,
            folder,
            _child: child,
        };
        eventually_or(
            async || server.is_ready().await.then_some(()),
            async || format!("Prometheus answers; it says:\n{}", server.said()),
        )
        .await;
        server
    }

    /// What it logged.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn is_ready(&self) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect(&self.address).await.ok()?;
            stream
                .write_all(b"GET /-/ready HTTP/1.0\r\n\r\n")
                .await
                .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer.contains("200 OK"))
        };
        asked.await.unwrap_or_default()
    }
}
