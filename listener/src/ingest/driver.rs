//! The driver: takes the source over when it is free, reads its slot or its topics, and appends what comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backoff::Backoff;
use crds::config::{SourceConfig, WalSourceConfig};
use crds::pod_status::{PodProblem, SLOT_AT_RISK};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::changes::Changes;
use super::connection::{catalog_pool, check};
use super::error::IngestError;
use super::kafka::{self, KafkaSession};
use super::opening;
use super::pages::PageReader;
use super::setup::{self, Mode};
use super::slot_watch;
use super::store::{SourceClaim, SourceStore};
use super::stream::Stream;
use crate::backfill::{BackfillStore, PageArrivals, PageScope};
use crate::telemetry::backfill_metrics::BackfillMetrics;
use crate::telemetry::source_metrics::SourceMetrics;
use crate::telemetry::status::StatusReporter;

/// Interval of attempts to take over a source that another process reads.
const CLAIM_INTERVAL: Duration = Duration::from_secs(2);

/// Backoff of sessions that fail.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Pause after a failure that a person has to mend.
const PERSON_PAUSE: Duration = Duration::from_secs(10);

/// Renewals of the lease in its duration.
const RENEWALS: u32 = 4;

/// Interval of looks at the slot.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// How long failures that pass by themselves are not told to the operator.
const FAILURE_GRACE: Duration = Duration::from_secs(30);

/// Longest wait for the release of the source at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a source, in turn with the other processes that have it.
pub(crate) struct Ingester {
    /// The source.
    pub(crate) source: SourceConfig,
    /// Connections to the database of the change log.
    pub(crate) log: PgPool,
    /// The listener.
    pub(crate) listener: String,
    /// This process, for people.
    pub(crate) holder: String,
    /// Time after its last write when another process may take over.
    pub(crate) lease: Duration,
    /// Metrics.
    pub(crate) metrics: SourceMetrics,
    /// Metrics of backfills.
    pub(crate) backfill_metrics: BackfillMetrics,
    /// How far rows of backfills are delivered.
    pub(crate) arrivals: Arc<PageArrivals>,
    /// What the operator is told.
    pub(crate) reporter: Arc<StatusReporter>,
}

/// Relations that the catalog was read for.
type Asked = BTreeSet<(u32, Vec<(String, u32)>)>;

/// What one turn leaves to the next.
#[derive(Default)]
struct Turns {
    asked: Asked,
    /// The source's row, on which the listener is recorded.
    store: Option<SourceStore>,
}

impl Ingester {
    /// Reads until `stop`. Failures are logged, counted and tried again.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut backoff, mut turns) = (RETRY, Turns::default());
        let (mut last_error, mut failing_since) = (String::new(), None);
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let result = stop
                .run_until_cancelled(Box::pin(self.turn(&mut turns)))
                .await;
            self.metrics.set_unread();
            let pause = match result {
                None => break,
                Some(Ok(())) => {
                    // Another process has it, and tells of it.
                    self.reporter.set_source(None);
                    failing_since = None;
                    CLAIM_INTERVAL
                }
                Some(Err(IngestError::CatalogOutdated)) => Duration::ZERO,
                Some(Err(error)) => {
                    if begun.elapsed() > RETRY.max() * 4 {
                        backoff.reset();
                        failing_since = None;
                    }
                    let since = *failing_since.get_or_insert(begun);
                    self.report(&error, &mut last_error, (since, &turns));
                    if error.needs_a_person() {
                        PERSON_PAUSE
                    } else {
                        backoff.next_delay()
                    }
                }
            };
            stop.run_until_cancelled(sleep(pause)).await;
        }
        if let Some(store) = turns.store {
            // It expires by itself otherwise.
            let _ = tokio::time::timeout(RELEASE_TIMEOUT, store.release()).await;
        }
    }

    /// Logs a failure once for as long as it stays the same.
    fn report(&self, error: &IngestError, last: &mut String, (since, turns): (Instant, &Turns)) {
        self.metrics
            .failures
            .with_label_values(&[error.reason()])
            .inc();
        let text = error.to_string();
        let source = turns.store.as_ref().map_or("", SourceStore::name);
        if *last == text {
            tracing::debug!(source, "{text}");
        } else if error.needs_a_person() {
            tracing::error!(source, "nothing is read from the source: {text}");
        } else {
            tracing::warn!(source, "the source is not read for now: {text}; retrying");
        }
        if error.needs_a_person() || since.elapsed() >= FAILURE_GRACE {
            self.reporter.set_source(Some(PodProblem {
                reason: error.condition().to_owned(),
                message: text.clone(),
            }));
        }
        *last = text;
    }

    /// Names the source's row, and records the listener on it.
    async fn register(&self) -> Result<SourceStore, IngestError> {
        let name = SourceStore::source_name(&self.log, &self.source).await?;
        let of = (&*name, &*self.listener);
        let store = SourceStore::new(self.log.clone(), of, &self.holder, self.lease);
        store.register().await?;
        Ok(store)
    }

    /// Reads the source if it is free, until that fails.
    async fn turn(&self, turns: &mut Turns) -> Result<(), IngestError> {
        let store = if let Some(store) = &turns.store {
            store.clone()
        } else {
            let store = self.register().await?;
            turns.store.insert(store).clone()
        };
        let Some(claim) = store.claim().await? else {
            store.register_again().await?;
            if let SourceConfig::Kafka(source) = &self.source {
                kafka::check_topics(&self.log, source).await?;
            }
            return Ok(());
        };
        match &self.source {
            // Triggers need nobody to read them.
            SourceConfig::Triggers(_) => Ok(()),
            SourceConfig::Wal(source) => {
                let pool = catalog_pool(&source.database_url)?;
                let result = self.read_wal(source, (&store, &claim), &pool, turns).await;
                pool.close().await;
                result
            }
            SourceConfig::Kafka(source) => {
                let session = KafkaSession {
                    source,
                    log: &self.log,
                    metrics: &self.metrics,
                    reporter: &self.reporter,
                    lease: self.lease,
                    renewal: self.lease / RENEWALS,
                };
                session.read(&store, &claim).await
            }
        }
    }

    async fn read_wal(
        &self,
        source: &WalSourceConfig,
        (store, claim): (&SourceStore, &SourceClaim),
        pool: &PgPool,
        turns: &mut Turns,
    ) -> Result<(), IngestError> {
        check(pool, &source.database_url).await?;
        setup::prepare(pool, source, Mode::UntilRefused).await?;
        setup::check_not_tracked(&self.log, source).await?;
        let catalog = Catalog::read(pool, &source.publication).await?;
        let what = (source, catalog.publication);
        let opened = opening::open(what, (store, claim), &self.metrics);
        let (session, progress) = opened.await?;
        tracing::info!(
            slot = store.name(),
            epoch = claim.epoch,
            from = %progress.confirmed,
            tables = catalog.tables.len(),
            "reading the write-ahead log"
        );
        self.metrics.connected.set(1);
        self.reporter.set_source(None);
        let tables = source.tables.clone();
        let (requests, pages) = mpsc::channel(1);
        let scope = PageScope::Source(store.name().to_owned());
        let holder = self.holder.clone();
        let backfills = BackfillStore::new(self.log.clone(), scope, holder, self.lease);
        let backfilling = PageReader {
            source: source.clone(),
            store: backfills.clone(),
            requests,
            arrivals: Arc::clone(&self.arrivals),
            metrics: self.backfill_metrics.clone(),
        };
        let mut stream = Stream {
            session,
            changes: Changes::new(catalog, tables, progress, std::mem::take(&mut turns.asked)),
            store,
            epoch: claim.epoch,
            saved: progress,
            metrics: &self.metrics,
            saved_at: Instant::now(),
            committed_at: None,
            pages,
            page: None,
            backfills,
            backfill_metrics: &self.backfill_metrics,
        };
        let watching = watch(pool, store.name(), &self.metrics, &self.reporter);
        let result = tokio::select! {
            result = stream.run(self.lease / RENEWALS) => result,
            () = watching => Ok(()),
            () = Box::pin(backfilling.run()) => Ok(()),
        };
        self.metrics.malformed.inc_by(stream.changes.malformed);
        turns.asked = stream.changes.into_asked();
        result
    }
}

/// Reports what the slot holds back. Ends never.
async fn watch(pool: &PgPool, slot: &str, metrics: &SourceMetrics, reporter: &StatusReporter) {
    let mut was_safe = true;
    loop {
        match slot_watch::read(pool, slot).await {
            Ok(Some(found)) => {
                metrics.retained_bytes.set(found.retained_bytes);
                metrics.unread_bytes.set(found.unread_bytes);
                metrics.safe_bytes.set(found.safe_bytes.unwrap_or(-1.0));
                if was_safe != found.is_safe {
                    let at_risk = (!found.is_safe).then(|| PodProblem {
                        reason: SLOT_AT_RISK.to_owned(),
                        message: format!(
                            "the server is about to invalidate the slot {slot}: raise max_slot_wal_keep_size"
                        ),
                    });
                    if let Some(problem) = &at_risk {
                        tracing::error!(slot, "{}", problem.message);
                    }
                    reporter.set_source(at_risk);
                }
                was_safe = found.is_safe;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot look at the slot"),
        }
        sleep(WATCH_INTERVAL).await;
    }
}
