//! Where the documents of a history go: the indices that are measured, and the servers behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use crds::config::{DocumentContent, ElasticsearchConfig, Redacted, SearchBackend, SearchConfig};
use search::{Filters, Scope, SearchError, SearchIndex, SearchRequest};
use serde_json::Value;
use sqlx::PgPool;
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};

use crate::process;

/// Identity of the listener that is measured.
pub(crate) const LISTENER: &str = "default/speed";

/// How long a slow server takes for each answer.
const SLOW: Duration = Duration::from_secs(5);

/// Where documents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Backend {
    /// The listener's database
    Postgres,
    /// Elasticsearch 7.17
    Elasticsearch7,
    /// Elasticsearch 8
    Elasticsearch8,
    /// Elasticsearch 9
    Elasticsearch9,
    /// OpenSearch 3
    Opensearch3,
}

impl Backend {
    const fn server(self) -> Option<SearchServerKind> {
        match self {
            Self::Postgres => None,
            Self::Elasticsearch7 => Some(SearchServerKind::Elasticsearch7),
            Self::Elasticsearch8 => Some(SearchServerKind::Elasticsearch8),
            Self::Elasticsearch9 => Some(SearchServerKind::Elasticsearch9),
            Self::Opensearch3 => Some(SearchServerKind::OpenSearch3),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Elasticsearch7 => "Elasticsearch 7",
            Self::Elasticsearch8 => "Elasticsearch 8",
            Self::Elasticsearch9 => "Elasticsearch 9",
            Self::Opensearch3 => "OpenSearch 3",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No history.
    Off,
    /// A history that takes what it is given.
    Healthy(Backend),
    /// The search server is not there.
    Away,
    /// The search server answers after seconds.
    Slow,
    /// The search server answers that its indices are read-only.
    ReadOnly,
}

impl Kind {
    /// Whose cost is measured, all with one server.
    pub(crate) const OF_COST: [Self; 6] = [
        Self::Off,
        Self::Healthy(Backend::Postgres),
        Self::Healthy(Backend::Elasticsearch9),
        Self::Away,
        Self::Slow,
        Self::ReadOnly,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "no history",
            Self::Healthy(backend) => backend.name(),
            Self::Away => "Elasticsearch that is away",
            Self::Slow => "Elasticsearch that takes 5 s an answer",
            Self::ReadOnly => "Elasticsearch that is read-only",
        }
    }

    /// Whether it is one of these backends.
    pub(crate) fn is_of(self, backends: &[Backend]) -> bool {
        match self {
            Self::Off => true,
            Self::Healthy(backend) => backends.contains(&backend),
            Self::Away | Self::Slow | Self::ReadOnly => backends.contains(&Backend::Elasticsearch9),
        }
    }

    /// Whether all documents are there in the end.
    pub(crate) const fn completes(self) -> bool {
        matches!(self, Self::Healthy(_))
    }
}

/// The search server, if there is one, and what is before it.
pub(crate) struct Servers {
    server: Option<SearchServer>,
    slow: Option<FaultProxy>,
    used: AtomicU32,
}

/// Where one measurement's documents go.
pub(crate) struct Target {
    kind: Kind,
    url: String,
    name: String,
}

impl Servers {
    /// Starts the server of a backend, if it has one and `scripts/prepare` has put it there.
    pub(crate) async fn start(backend: Backend) -> anyhow::Result<Self> {
        let prepared = backend.server().filter(|kind| kind.is_prepared());
        let Some(kind) = prepared else {
            return Ok(Self {
                server: None,
                slow: None,
                used: AtomicU32::new(0),
            });
        };
        let server = SearchServer::start_for_load(kind, &[]).await;
        let slow = FaultProxy::before(server.port).await;
        slow.set(Fault::Slow(SLOW));
        Ok(Self {
            server: Some(server),
            slow: Some(slow),
            used: AtomicU32::new(0),
        })
    }

    /// Whether this can be measured.
    pub(crate) fn have(&self, kind: Kind) -> bool {
        let without = [Kind::Off, Kind::Healthy(Backend::Postgres), Kind::Away];
        without.contains(&kind) || self.server.is_some()
    }

    /// Seconds of CPU time of the search server so far; 0 without one.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let id = self.server.as_ref().and_then(SearchServer::id);
        id.map_or(Ok(0.0), process::cpu)
    }

    /// A place that nobody has used yet.
    pub(crate) async fn target(&self, kind: Kind) -> anyhow::Result<Target> {
        let url = match (kind, &self.server, &self.slow) {
            (Kind::Slow, _, Some(slow)) => slow.url(),
            (Kind::Away, ..) => {
                let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                format!("http://{}", socket.local_addr()?)
            }
            (_, Some(server), _) => server.url(),
            _ => String::new(),
        };
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        Ok(Target {
            kind,
            url,
            name: format!("speed{number}"),
        })
    }

    /// Makes all indices of a target read-only, as a full disk does.
    pub(crate) async fn block(&self, target: &Target) -> anyhow::Result<()> {
        let settings = r#"{"index.blocks.read_only_allow_delete": true}"#;
        for index in self.indices(target).await? {
            let server = self.server.as_ref().context("no server")?;
            server
                .must("PUT", &format!("/{index}/_settings"), settings)
                .await;
        }
        Ok(())
    }

    /// Removes the indices of a target.
    pub(crate) async fn forget(&self, target: &Target) -> anyhow::Result<()> {
        for index in self.indices(target).await? {
            let server = self.server.as_ref().context("no server")?;
            server.must("DELETE", &format!("/{index}"), "").await;
        }
        Ok(())
    }

    /// MB that the indices of a target take on disk.
    pub(crate) async fn megabytes(&self, target: &Target) -> anyhow::Result<f64> {
        let mut bytes = 0.0;
        for index in self.indices(target).await? {
            let server = self.server.as_ref().context("no server")?;
            let stats = server
                .must("GET", &format!("/{index}/_stats/store"), "")
                .await;
            let own = stats.pointer("/_all/total/store/size_in_bytes");
            bytes += own.and_then(Value::as_f64).context("no size")?;
        }
        Ok(bytes / 1e6)
    }

    async fn indices(&self, target: &Target) -> anyhow::Result<Vec<String>> {
        let Some(server) = &self.server else {
            return Ok(Vec::new());
        };
        let all = server.must("GET", "/_mapping", "").await;
        let names = all.as_object().context("no indices")?.keys();
        let own = format!("{}-v", target.name);
        let own = names.filter(|name| name.starts_with(&own));
        Ok(own.cloned().collect())
    }
}

impl Target {
    /// As it stands in a listener's spec; nothing without a history.
    pub(crate) fn spec(&self) -> Option<String> {
        let Self { kind, url, name } = self;
        match kind {
            Kind::Off => None,
            Kind::Healthy(Backend::Postgres) => Some("{postgres: {}}".to_owned()),
            _ => Some(format!(
                "{{elasticsearch: {{url: {{value: \"{url}\"}}, index: {name}}}}}"
            )),
        }
    }

    /// The index itself; nothing without a history.
    pub(crate) fn open(&self, pool: &PgPool) -> anyhow::Result<Option<Arc<dyn SearchIndex>>> {
        let backend = match self.kind {
            Kind::Off => return Ok(None),
            Kind::Healthy(Backend::Postgres) => SearchBackend::Postgres,
            _ => SearchBackend::Elasticsearch(ElasticsearchConfig {
                url: Redacted::new(&self.url),
                index: self.name.clone(),
                tls: None,
                login: None,
            }),
        };
        let config = SearchConfig {
            backend,
            retention: Duration::from_hours(720),
            documents: DocumentContent::EventsAndOutcomes,
            redact: Vec::new(),
            max_lag: Duration::from_hours(24),
        };
        Ok(Some(search::open(&config, pool.clone())?))
    }
}

/// A search of the listener's documents, for so many.
pub(crate) fn request(filters: Filters, limit: u32) -> SearchRequest {
    let scope = Scope {
        listener: LISTENER.to_owned(),
        tenant: None,
    };
    SearchRequest::newest(scope, filters, limit)
}

/// Number of documents of the listener; 0 as long as an index is not ready that was just made.
pub(crate) async fn count(index: &dyn SearchIndex) -> anyhow::Result<u64> {
    match index.search(&request(Filters::default(), 0)).await {
        Ok(page) => Ok(page.total),
        Err(SearchError::Unavailable(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
