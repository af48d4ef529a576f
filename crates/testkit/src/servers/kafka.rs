//! A broker of Kafka.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use tokio::process::{Child, Command};

use crate::wait::Patience;

/// User and password at the listener for those who log in.
pub const LOGIN: (&str, &str) = ("shop", "hunter2-kafka");

/// How long the broker may take to answer, on a machine however busy; one that ends is not waited for.
const DEADLINE: Duration = Duration::from_mins(10);

/// A broker that nobody need log in at, and on another port by TLS for those who do.
pub struct Kafka {
    /// Port without TLS or login.
    pub port: u16,
    /// Port with TLS and login.
    pub tls_port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl Kafka {
    /// With the certificate and the key of the broker, and the authority of its clients.
    pub async fn start(certificate: &(String, String), ca: &str) -> Self {
        for _ in 0..3 {
            // Another process may have taken a port meanwhile; then it ends at once.
            if let Some(server) = Self::try_start(certificate, ca).await {
                return server;
            }
        }
        panic!("the broker has ended each time")
    }

    async fn try_start((chain, key): &(String, String), ca: &str) -> Option<Self> {
        let ports = [0; 3].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, tls_port, controller] = ports
            .each_ref()
            .map(|socket| socket.local_addr().unwrap().port());
        drop(ports);
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display();
        let mut settings = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{tls_port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://localhost:{tls_port}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
             log.dirs={here}/log\nauto.create.topics.enable=false\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             message.max.bytes=100000\nlog.retention.ms=-1\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_{}=\"{}\";\n",
            LOGIN.0, LOGIN.1
        );
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
            let name = format!("listener.name.sasl_ssl.{mechanism}.sasl.jaas.config");
            writeln!(settings, "{name}={module} required;").unwrap();
        }
        let line = |pem: &str| pem.trim().replace('\n', "\\n");
        writeln!(
            settings,
            "ssl.keystore.type=PEM\nssl.keystore.certificate.chain={}\nssl.keystore.key={}\n\
             ssl.truststore.type=PEM\nssl.truststore.certificates={}\nssl.client.auth=requested",
            line(chain),
            line(key),
            line(ca)
        )
        .unwrap();
        std::fs::write(folder.path().join("settings"), settings).unwrap();
        let mut format = java(&folder, "kafka.tools.StorageTool");
        format.args(["format", "-t", "bXktY2x1c3Rlci1pZC0xMg", "-c", "settings"]);
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let login = format!("{mechanism}=[name={},password={}]", LOGIN.0, LOGIN.1);
            format.args(["--add-scram", &login]);
        }
        let formatted = format.output().await.unwrap();
        assert!(formatted.status.success(), "{formatted:?}");
        let child = run(&folder);
        let mut server = Self {
            port,
            tls_port,
            folder,
            child,
        };
        server.answers().await.then_some(server)
    }

    /// Waits until the broker answers, or ends. Returns whether it answers.
    async fn answers(&mut self) -> bool {
        let port = self.port;
        tokio::select! {
            _ = connect(port) => true,
            _ended = self.child.wait() => false,
        }
    }

    /// A client, once the broker answers.
    pub async fn client(&self) -> Client {
        connect(self.port).await
    }

    /// Makes a topic with so many partitions, and waits until it can be written to.
    pub async fn topic(&self, name: &str, partitions: i32) {
        let client = self.client().await;
        let controller = client.controller_client().unwrap();
        controller
            .create_topic(name, partitions, 1, 60_000)
            .await
            .unwrap();
        for partition in 0..partitions {
            let handling = UnknownTopicHandling::Retry;
            client
                .partition_client(name, partition, handling)
                .await
                .unwrap();
        }
    }

    /// Everything that a partition holds.
    pub async fn records(&self, topic: &str, partition: i32) -> Vec<Record> {
        let client = self.client().await;
        let handling = UnknownTopicHandling::Error;
        let partition = client
            .partition_client(topic, partition, handling)
            .await
            .unwrap();
        let end = partition.get_offset(OffsetAt::Latest).await.unwrap();
        let mut records = Vec::new();
        let mut patience = Patience::default();
        while i64::try_from(records.len()).unwrap() < end {
            assert!(patience.lasts(), "{} records of {end}", records.len());
            let from = i64::try_from(records.len()).unwrap();
            let fetched = partition
                .fetch_records(from, 1..1_000_000, 1000)
                .await
                .unwrap();
            records.extend(fetched.0.into_iter().map(|one| one.record));
        }
        records
    }

    /// Kills it.
    pub async fn stop(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again, with the data that it had.
    pub async fn resume(&mut self) {
        self.child = run(&self.folder);
        assert!(self.answers().await, "the broker has ended");
    }
}

async fn connect(port: u16) -> Client {
    ClientBuilder::new(vec![format!("127.0.0.1:{port}")])
        .backoff_config(BackoffConfig {
            max_backoff: Duration::from_millis(200),
            deadline: Some(DEADLINE),
            ..BackoffConfig::default()
        })
        .build()
        .await
        .unwrap()
}

fn run(folder: &tempfile::TempDir) -> Child {
    let mut program = java(folder, "kafka.Kafka");
    program.arg("settings").kill_on_drop(true).spawn().unwrap()
}

fn java(folder: &tempfile::TempDir, class: &str) -> Command {
    let mut program = Command::new("java");
    program
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars().join("*"))
        .arg(class)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    program
}

/// Where `scripts/prepare` has put the broker.
fn jars() -> PathBuf {
    super::prepared("kafka-").expect("no Kafka in the cache: run `make prepare`")
}
