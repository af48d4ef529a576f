//! Where the documents of a history go: the indices that are measured, and the servers behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use crds::config::{DocumentContent, ElasticsearchConfig, Redacted, SearchBackend, SearchConfig};
use search::{Filters, Scope, SearchIndex, SearchRequest, SortOrder};
use sqlx::PgPool;
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};

use crate::process;

/// Identity of the listener that is measured.
pub(crate) const LISTENER: &str = "default/speed";

/// How long a slow server takes for each answer.
const SLOW: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No history.
    Off,
    /// A history in the listener's database.
    Postgres,
    /// A history in Elasticsearch.
    Elasticsearch,
    /// The server is not there.
    Away,
    /// The server answers after seconds.
    Slow,
    /// The server answers that its indices are read-only.
    ReadOnly,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Off,
        Self::Postgres,
        Self::Elasticsearch,
        Self::Away,
        Self::Slow,
        Self::ReadOnly,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "no history",
            Self::Postgres => "Postgres",
            Self::Elasticsearch => "Elasticsearch",
            Self::Away => "Elasticsearch that is away",
            Self::Slow => "Elasticsearch that takes 5 s an answer",
            Self::ReadOnly => "Elasticsearch that is read-only",
        }
    }

    /// Whether all documents are there in the end.
    pub(crate) const fn completes(self) -> bool {
        matches!(self, Self::Postgres | Self::Elasticsearch)
    }
}

/// The search server, if it is there, and what is before it.
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
    /// Starts Elasticsearch, if `scripts/prepare` has put it there.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let kind = SearchServerKind::Elasticsearch9;
        if !kind.is_prepared() {
            eprintln!("Elasticsearch is left out: run `make prepare`");
            return Ok(Self {
                server: None,
                slow: None,
                used: AtomicU32::new(0),
            });
        }
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
        matches!(kind, Kind::Off | Kind::Postgres | Kind::Away) || self.server.is_some()
    }

    /// Seconds of CPU time of the search server so far; 0 without one.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let id = self.server.as_ref().and_then(SearchServer::id);
        id.map_or(Ok(0.0), process::cpu)
    }

    /// A place that nobody has used yet.
    pub(crate) async fn target(&self, kind: Kind) -> anyhow::Result<Target> {
        let url = match (kind, &self.server, &self.slow) {
            (Kind::Elasticsearch | Kind::ReadOnly, Some(server), _) => server.url(),
            (Kind::Slow, _, Some(slow)) => slow.url(),
            (Kind::Away, ..) => {
                let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                format!("http://{}", socket.local_addr()?)
            }
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
            Kind::Postgres => Some("{postgres: {}}".to_owned()),
            _ => Some(format!(
                "{{elasticsearch: {{url: {{value: \"{url}\"}}, index: {name}}}}}"
            )),
        }
    }

    /// The index itself; nothing without a history.
    pub(crate) fn open(&self, pool: &PgPool) -> anyhow::Result<Option<Arc<dyn SearchIndex>>> {
        let backend = match self.kind {
            Kind::Off => return Ok(None),
            Kind::Postgres => SearchBackend::Postgres,
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
    SearchRequest {
        scope: Scope {
            listener: LISTENER.to_owned(),
            tenant: None,
        },
        filters,
        sort: SortOrder::Newest,
        after: None,
        limit,
        facets: false,
        highlight: false,
    }
}

/// Number of documents of the listener; nothing where the index has none yet.
pub(crate) async fn count(index: &dyn SearchIndex) -> anyhow::Result<u64> {
    Ok(index.search(&request(Filters::default(), 0)).await?.total)
}
