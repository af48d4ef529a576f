//! Search servers: Elasticsearch and OpenSearch, of the libraries that `scripts/prepare` has put
//! together.
//!
//! They end with their owner, the end of which closes their standard input; a guardian removes their
//! folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::guardian::{Guardian, PORT_ATTEMPTS, free_port};

/// Until a started server answers, on a machine however busy; one that ends is not waited for.
const START_LIMIT: Duration = Duration::from_mins(10);

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_mins(2);

/// From one look at a starting server until the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Options of Java for tests, and for measurements.
const SMALL: &[&str] = &["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
const LARGE: &[&str] = &["-Xms1g", "-Xmx1g"];

/// `$1` the server's folder. A read ends when the owner does.
const GUARDIAN: &str = r#"
cat >/dev/null
# It may write until it is gone.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1"
    sleep 0.1
    [ -e "$1" ] || break
done
"#;

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchServerKind {
    /// Elasticsearch 7.17, with its module for reindexing.
    Elasticsearch7,
    /// Elasticsearch 8.19, whose modules are not published.
    Elasticsearch8,
    /// Elasticsearch 9, the same.
    Elasticsearch9,
    /// OpenSearch 3, with its module for reindexing.
    OpenSearch3,
}

impl SearchServerKind {
    /// Beginning of its folder's name in the cache, and its class.
    const fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Elasticsearch7 => ("elasticsearch-7.", "Elasticsearch7"),
            Self::Elasticsearch8 => ("elasticsearch-8.", "Elasticsearch"),
            Self::Elasticsearch9 => ("elasticsearch-9.", "Elasticsearch"),
            Self::OpenSearch3 => ("opensearch-3.", "OpenSearch"),
        }
    }

    /// Whether `scripts/prepare` has put it into the cache.
    #[must_use]
    pub fn is_prepared(self) -> bool {
        super::prepared(self.program().0).is_some()
    }

    /// Where `scripts/prepare` has put it.
    fn folder(self) -> PathBuf {
        super::prepared(self.program().0).unwrap_or_else(|| {
            panic!(
                "no {self:?} in the cache: run `make prepare`, which tells why where there is none"
            )
        })
    }
}

/// A running server; killed and removed when dropped, or when the owner's process ends.
pub struct SearchServer {
    /// What it is.
    pub kind: SearchServerKind,
    /// Port on the loopback address; the same after a restart.
    pub port: u16,
    folder: PathBuf,
    settings: Vec<String>,
    java: &'static [&'static str],
    child: Option<Child>,
    _guardian: Guardian,
}

impl SearchServer {
    /// Starts a server without data, with further settings as `name=value`; returns when it answers.
    pub async fn start(kind: SearchServerKind, settings: &[&str]) -> Self {
        Self::start_on(kind, settings, SMALL).await
    }

    /// Starts one with the memory and the compiler that it needs under load.
    pub async fn start_for_load(kind: SearchServerKind, settings: &[&str]) -> Self {
        Self::start_on(kind, settings, LARGE).await
    }

    async fn start_on(
        kind: SearchServerKind,
        settings: &[&str],
        java: &'static [&'static str],
    ) -> Self {
        let temporary = TempDir::with_prefix("observers-search-").unwrap();
        // What it is called by must be there even if it is empty.
        std::fs::create_dir(temporary.path().join("config")).unwrap();
        let guardian = Guardian::watch(GUARDIAN, &[temporary.path()], None).unwrap();
        let mut server = Self {
            kind,
            port: 0,
            // From here on the guardian removes it.
            folder: temporary.keep(),
            settings: settings.iter().map(|one| (*one).to_owned()).collect(),
            java,
            child: None,
            _guardian: guardian,
        };
        for attempt in 1.. {
            server.port = free_port().unwrap();
            match server.try_start().await {
                Ok(()) => break,
                Err(log) => assert!(attempt < PORT_ATTEMPTS, "{kind:?} does not start: {log}"),
            }
        }
        server
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it, as `kill -9` does.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Starts a killed server again, on the same port, with the data that it had; returns when it
    /// answers.
    pub async fn resume(&mut self) {
        if let Err(log) = self.try_start().await {
            panic!("{:?} does not start again: {log}", self.kind);
        }
    }

    /// Id of its process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Resident memory of its process in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        let id = self.child.as_ref().and_then(Child::id).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }

    /// Sends a request past all that is tested; returns the status and the JSON of the response, which
    /// is null where there is none.
    pub async fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let answer = timeout(ANSWER_LIMIT, self.ask(method, path, body)).await;
        answer.unwrap().expect("an answer of the search server")
    }

    /// Sends a request that must succeed.
    pub async fn must(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self.request(method, path, body).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }

    async fn try_start(&mut self) -> Result<(), String> {
        let log = self.folder.join("out");
        let mut child = self.command(&log).spawn().unwrap();
        let began = Instant::now();
        let path = "/_cluster/health?wait_for_status=yellow&timeout=1s";
        loop {
            let answer = timeout(ANSWER_LIMIT, self.ask("GET", path, "")).await;
            if let Ok(Some((200, _))) = answer {
                break;
            }
            let ended = child.try_wait().unwrap();
            if ended.is_some() || began.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let from = log.floor_char_boundary(log.len().saturating_sub(4000));
                return Err(format!("{ended:?} {}", &log[from..]));
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.child = Some(child);
        Ok(())
    }

    fn command(&self, log: &Path) -> Command {
        let program = self.kind.folder();
        let here = self.folder.display();
        // The newer Elasticsearch finds its modules in its home.
        let home = Some(program.join("home")).filter(|home| home.exists());
        let home = home.unwrap_or_else(|| self.folder.clone());
        let libraries = format!("{0}/main:{0}/lib/*", program.display());
        let mut command = Command::new(program.join("java/bin/java"));
        command
            .args(self.java)
            .args(["-cp", &libraries, self.kind.program().1])
            .arg(format!("path.home={}", home.display()))
            .arg(format!("path.data={here}/data"))
            .arg(format!("path.logs={here}/logs"))
            .args(["cluster.name=test", "node.name=test"])
            .args(["network.host=127.0.0.1", "transport.port=0"])
            .arg(format!("http.port={}", self.port))
            .arg("discovery.type=single-node")
            // What this collector has not collected yet would count, and requests be refused for it.
            .arg("indices.breaker.total.use_real_memory=false")
            // Tests fill no disk, and somebody else may have filled it.
            .arg("cluster.routing.allocation.disk.threshold_enabled=false")
            .args(&self.settings);
        let output = std::fs::File::create(log).unwrap();
        command
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            // An interrupt from the terminal is for the owner alone.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Nothing where it does not answer.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let kind = if path.contains("_bulk") {
            "x-ndjson"
        } else {
            "json"
        };
        let request = format!(
            "{method} {path} HTTP/1.0\r\ncontent-type: application/{kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let in_chunks = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if in_chunks {
            joined(body)?
        } else {
            body.to_owned()
        };
        Some((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }
}

/// Joins the chunks of a body, which the newer Elasticsearch sends whatever it is asked by.
fn joined(chunks: &str) -> Option<String> {
    let mut body = String::new();
    let mut rest = chunks;
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length..)?.strip_prefix("\r\n")?;
    }
}
