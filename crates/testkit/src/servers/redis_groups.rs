//! Groups of Redis servers of the program's own: a server and its replica behind a Sentinel, and a Cluster.

use std::process::Stdio;

use tokio::process::Command;

use super::ServerError;
use super::guardian::free_port;
use super::redis::{Options, PrivateRedis, random_password};
use crate::wait::eventually;

/// Name by which the Sentinel knows the server.
pub const MASTER_NAME: &str = "shop";

/// Time without an answer after which a server counts as dead, milliseconds.
const DEAD_AFTER: u32 = 1000;

/// A server, its replica, and a Sentinel; all with one password.
#[derive(Debug)]
pub struct SentinelGroup {
    /// The master at first.
    pub first: PrivateRedis,
    /// Its replica at first.
    pub second: PrivateRedis,
    /// The Sentinel.
    pub sentinel: PrivateRedis,
}

impl SentinelGroup {
    /// Starts them; returns when the Sentinel could fail over.
    pub async fn start() -> Result<Self, ServerError> {
        let password = random_password();
        let options = |settings: Vec<String>| Options {
            settings,
            password: Some(password.clone()),
            ..Options::default()
        };
        let eager = || "repl-diskless-sync-delay 0".to_owned();
        let first = PrivateRedis::start(&options(vec![eager()])).await?;
        let master = first.port();
        let follows = format!("replicaof 127.0.0.1 {master}");
        let second = PrivateRedis::start(&options(vec![eager(), follows])).await?;
        let name = MASTER_NAME;
        let watched = [
            format!("sentinel monitor {name} 127.0.0.1 {master} 1"),
            format!("sentinel auth-pass {name} {password}"),
            format!("sentinel down-after-milliseconds {name} {DEAD_AFTER}"),
            format!("sentinel failover-timeout {name} 5000"),
        ];
        let sentinel = PrivateRedis::start(&Options {
            sentinel: true,
            ..options(watched.into())
        })
        .await?;
        let group = Self {
            first,
            second,
            sentinel,
        };
        group.is_ready().await;
        Ok(group)
    }

    /// Waits until the replica has all and the Sentinel knows it: a failover before would lose writes.
    async fn is_ready(&self) {
        eventually("the Sentinel knows a replica that has all", async || {
            let replication = self.second.ask("INFO replication").await?;
            let replicas = self
                .sentinel
                .ask(&format!("SENTINEL REPLICAS {MASTER_NAME}"))
                .await?;
            let known = replicas.contains(&self.second.port().to_string());
            (known && replication.contains("master_link_status:up")).then_some(())
        })
        .await;
    }

    /// Waits until the replica has all that the master has.
    pub async fn replica_has_all(&self) {
        eventually("the replica has all", async || {
            have_all(&[&self.first, &self.second], 1).await
        })
        .await;
    }

    /// Has the Sentinel make the replica the master; returns when the former master is a replica.
    pub async fn fail_over(&self) {
        let failover = format!("SENTINEL FAILOVER {MASTER_NAME}");
        let role = async |server: &PrivateRedis, role: &str| {
            let replication = server.ask("INFO replication").await?;
            replication.contains(role).then_some(())
        };
        eventually("the replica is the master", async || {
            if role(&self.second, "role:master").await.is_none() {
                self.sentinel.ask(&failover).await?;
                return None;
            }
            role(&self.first, "role:slave").await
        })
        .await;
    }

    /// URL of the Sentinel, with the login of the servers.
    #[must_use]
    pub fn url(&self) -> String {
        self.sentinel.url()
    }

    /// The password of all.
    #[must_use]
    pub fn password(&self) -> &str {
        self.sentinel.password()
    }
}

/// A Cluster of three masters with a replica each.
#[derive(Debug)]
pub struct ClusterGroup {
    /// The servers.
    pub nodes: Vec<PrivateRedis>,
}

impl ClusterGroup {
    /// Starts it; returns when it is whole.
    pub async fn start() -> Result<Self, ServerError> {
        let password = random_password();
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let bus = free_port().map_err(|source| {
                super::io_error(
                    "find a free port on",
                    std::path::Path::new("127.0.0.1"),
                    source,
                )
            })?;
            let settings = vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {bus}"),
                format!("cluster-node-timeout {DEAD_AFTER}"),
                "repl-diskless-sync-delay 0".to_owned(),
            ];
            let options = Options {
                settings,
                password: Some(password.clone()),
                ..Options::default()
            };
            nodes.push(PrivateRedis::start(&options).await?);
        }
        let addresses = nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()));
        let made = Command::new("redis-cli")
            .args(["--no-auth-warning", "-a", &password, "--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|source| {
                super::io_error("start", std::path::Path::new("redis-cli"), source)
            })?;
        if !made.status.success() {
            return Err(ServerError::Failed {
                program: "redis-cli",
                output: String::from_utf8_lossy(&made.stdout).into_owned(),
            });
        }
        let cluster = Self { nodes };
        cluster.is_ready().await;
        Ok(cluster)
    }

    async fn is_ready(&self) {
        eventually("each node of the Cluster has its place", async || {
            let mut replicas = 0;
            for node in &self.nodes {
                if !node.ask("CLUSTER INFO").await?.contains("cluster_state:ok") {
                    return None;
                }
                let replication = node.ask("INFO replication").await?;
                if replication.contains("role:slave") {
                    replicas += usize::from(replication.contains("master_link_status:up"));
                }
            }
            (replicas == 3).then_some(())
        })
        .await;
    }

    /// The master that has the slot of a key.
    pub async fn master_of(&self, key: &str) -> Option<&PrivateRedis> {
        for node in &self.nodes {
            let Some(answer) = node.ask(&format!("SET {key} 1")).await else {
                continue;
            };
            if !answer.contains("MOVED") && answer.ends_with("+OK\r\n") {
                node.ask(&format!("DEL {key}")).await;
                return Some(node);
            }
        }
        None
    }

    /// Waits until the replica of a master has all that it has.
    pub async fn replicas_have_all(&self, master: &PrivateRedis) {
        let port = format!("master_port:{}\r", master.port());
        eventually("the replica has all", async || {
            let mut group = vec![master];
            for node in &self.nodes {
                if node.ask("INFO replication").await?.contains(&port) {
                    group.push(node);
                }
            }
            have_all(&group, 1).await
        })
        .await;
    }

    /// URL of one of the nodes.
    #[must_use]
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }
}

/// Whether so many replicas have read as much as the master has written.
async fn have_all(servers: &[&PrivateRedis], replicas: usize) -> Option<()> {
    let mut written = None;
    let mut read = Vec::new();
    for server in servers {
        let replication = server.ask("INFO replication").await?;
        let value = |name: &str| {
            let mut lines = replication.lines();
            lines.find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok())
        };
        match value("slave_repl_offset:") {
            Some(offset) => read.push(offset),
            None => written = value("master_repl_offset:"),
        }
    }
    let all = read
        .iter()
        .filter(|offset| Some(**offset) == written)
        .count();
    (all >= replicas).then_some(())
}
