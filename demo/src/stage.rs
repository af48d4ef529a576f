//! The shop, a listener and a receiver at work together, watched until the end.
//!
//! The listener is the real one on `docs/examples/shop.yaml`; only the database, the receiver
//! and its name are put in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use crds::config::{
    ApiConfig, ApiRole, ApiToken, Bundle, ConsoleConfig, ListenerConfig, Redacted, SearchBackend,
    SearchConfig, StartAt,
};
use crds::manifest::SourceFile;
use crds::v1alpha1::{DEFAULT_API_PORT, DocumentContent};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::figures::Figures;
use crate::play::{DemoError, doing};
use crate::receiver;
use crate::screen::Screen;
use crate::shop::{self, SharedTally};
use crate::summary::Outcome;
use crate::tally::{Observer, lock};
use listener::admission::action_runtime::ActionRuntime;
use listener::admission::endpoint_gate::EndpointRegistry;
use listener::coordination::process;
use listener::database;
use listener::dead_letters::admin::{self, DeadLetterFilter};
use listener::observers::Observers;
use listener::runtime::error::RunError;
use listener::runtime::fixed_listener::FixedListener;
use listener::runtime::supervisor::{self, ProcessOptions};
use listener::server::MetricsAccess;
use listener::telemetry::metrics::Metrics;
use testkit::http_sink::{self as sink, Behaviour, Sink};

const EXAMPLE: &str = include_str!("../../docs/examples/shop.yaml");

/// The listener's identity. In a namespace of its own, so that it is no other's, should the same
/// example run for real in the same database.
pub(crate) const LISTENER: &str = "observer-demo/shop";

/// Attempts out of a thousand that the receiver answers with 503.
const FAILING: u16 = 60;

/// How long the history is kept, which is longer than the demo.
const HISTORY: Duration = Duration::from_hours(24);

/// Between two looks at the figures, where lines replace each other and where they do not.
const REDRAW: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_secs(1);

/// How long the listener may take to begin, and in the end to get everything through.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at whether that is so.
const LOOK: Duration = Duration::from_millis(50);

/// Most dead letters that are looked at in the end; more than a demonstration can make.
const MAX_LETTERS: i64 = 100_000;

/// What a play needs.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) url: &'a Redacted,
    pub(crate) pool: &'a PgPool,
    pub(crate) length: Duration,
    pub(crate) seed: u64,
}

/// Everything at work.
struct Cast<'a> {
    pool: &'a PgPool,
    sink: Sink,
    metrics: Metrics,
    tally: SharedTally,
    listener: AbortOnDropHandle<Result<(), RunError>>,
    begun: Instant,
    /// Observers of which a delivery was shown.
    shown: Vec<Observer>,
    letter_shown: bool,
    /// Link to the console, which logs in.
    console: String,
}

impl Stage<'_> {
    /// Plays until the time is over or `stop`.
    pub(crate) async fn play(
        &self,
        screen: &mut Screen,
        stop: &CancellationToken,
    ) -> Result<Outcome, DemoError> {
        let (end_writers, end_listener) = (CancellationToken::new(), CancellationToken::new());
        let mut cast = self.enter(end_listener.clone()).await?;
        cast.listener_ready().await?;
        let options = database::options(self.url)?;
        let mut writers = shop::start_writers(&options, &cast.tally, self.seed, &end_writers)
            .await
            .map_err(doing("open the shop"))?;
        screen.say(&format!(
            "The shop is open; Ctrl-C ends the demo with a summary. Look at it in the console:\n  {}\n",
            cast.console
        ));
        let watched = cast.watch(&mut writers, self.length, screen, stop).await;
        let lasted = cast.begun.elapsed();
        end_writers.cancel();
        let written = async {
            while let Some(ended) = writers.join_next().await {
                ended?.map_err(doing("write to the shop"))?;
            }
            watched
        };
        let settled = match written.await {
            Ok(()) => cast.settle(screen).await,
            error => error,
        };
        end_listener.cancel();
        settled?;
        cast.close(screen, lasted).await
    }

    /// Starts the receiver and the listener.
    async fn enter(&self, end: CancellationToken) -> Result<Cast<'_>, DemoError> {
        let secret = format!("whsec_{}", BASE64.encode(rand::random::<[u8; 32]>()));
        let secret = Redacted::new(secret);
        let sink = Sink::start_with(sink::Options {
            behaviour: Behaviour::FailShare {
                per_mille: FAILING,
                seed: self.seed,
                status: 503,
            },
            signing_secrets: vec![secret.reveal().to_owned()],
            ..sink::Options::default()
        })
        .await
        .map_err(DemoError::Sink)?;
        let mut bundle = load(self.url, &sink, &secret)?;
        let token = Redacted::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        add_console(&mut bundle.listener, &token);
        let console = free_address().await.map_err(DemoError::Sink)?;
        let wrong = |error: &dyn std::fmt::Display| DemoError::Example(error.to_string());
        let shared = ActionRuntime::new(&bundle.listener.egress, &EndpointRegistry::default())
            .map_err(|error| wrong(&error))?;
        let observers = Observers::compile(&bundle.observers, &shared).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            DemoError::Example(texts.join("\n"))
        })?;
        let metrics = Metrics::new(LISTENER)?;
        let options = ProcessOptions {
            listener: LISTENER.to_owned(),
            member: process::member(),
            listen: None,
            api_listen: Some(console),
            console: false,
            metrics: Some(metrics.clone()),
            metrics_access: MetricsAccess::default(),
        };
        let observers = watch::channel(Arc::new(observers)).1;
        let source = FixedListener::new(bundle.listener, observers);
        let listener = tokio::spawn(supervisor::run(source, options, end));
        Ok(Cast {
            pool: self.pool,
            sink,
            metrics,
            tally: SharedTally::default(),
            listener: AbortOnDropHandle::new(listener),
            begun: Instant::now(),
            shown: Vec::new(),
            letter_shown: false,
            console: format!("http://{console}/console/login#token={}", token.reveal()),
        })
    }
}

/// Adds a history and a console to the listener, which the example leaves out.
fn add_console(listener: &mut ListenerConfig, token: &Redacted) {
    listener.search = Some(SearchConfig {
        backend: SearchBackend::Postgres,
        retention: HISTORY,
        documents: DocumentContent::EventsAndOutcomes,
        redact: Vec::new(),
        max_lag: HISTORY,
    });
    listener.api = Some(ApiConfig {
        tokens: vec![ApiToken {
            name: "demo".to_owned(),
            token: token.clone(),
            role: ApiRole::Operate,
            tenant: None,
        }],
        kubernetes: false,
        console: Some(ConsoleConfig::default()),
    });
}

/// Returns the usual address of the HTTP API, or another of this machine if that is taken.
async fn free_address() -> io::Result<SocketAddr> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_API_PORT));
    let socket = match TcpListener::bind(usual).await {
        Ok(socket) => socket,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
    };
    socket.local_addr()
}

/// The example, with what its Secrets would hold.
fn load(url: &Redacted, sink: &Sink, signing_secret: &Redacted) -> Result<Bundle, DemoError> {
    let secret = |name: &str, key: &str| match (name, key) {
        ("shop-db", "url") => Some(url.clone()),
        ("shop-hooks", "orders-url") => Some(Redacted::new(sink.url("/orders"))),
        ("shop-hooks", "audit-url") => Some(Redacted::new(sink.url("/audit"))),
        ("shop-hooks", "signing-secret") => Some(signing_secret.clone()),
        _ => None,
    };
    let file = SourceFile {
        path: "shop.yaml".to_owned(),
        text: EXAMPLE.to_owned(),
    };
    let loaded = crds::loader::load(&[file], &secret, None)
        .map_err(|report| DemoError::Example(report.to_string()))?;
    let mut bundle = loaded.bundle;
    if let Some((namespace, name)) = LISTENER.split_once('/') {
        namespace.clone_into(&mut bundle.listener.namespace);
        name.clone_into(&mut bundle.listener.name);
    }
    // The log may hold what happened in a shop before.
    bundle.listener.start_at = StartAt::Now;
    Ok(bundle)
}

impl Cast<'_> {
    /// Waits until the listener has its place in the log: from there on it misses nothing.
    async fn listener_ready(&mut self) -> Result<(), DemoError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let claimed: bool = sqlx::query_scalar(
                "select exists (select from observer.checkpoint where listener = $1)
                    and not exists (select from observer.checkpoint where listener = $1 and holder = '')",
            )
            .bind(LISTENER)
            .fetch_one(self.pool)
            .await
            .map_err(doing("look for the listener's checkpoint"))?;
            if claimed {
                self.begun = Instant::now();
                return Ok(());
            }
            tokio::select! {
                ended = &mut self.listener => return Err(early(ended)),
                () = tokio::time::sleep_until(deadline) => {
                    return Err(DemoError::Listener("does not begin"));
                }
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Shows what happens until the end is due.
    async fn watch(
        &mut self,
        writers: &mut JoinSet<Result<(), sqlx::Error>>,
        length: Duration,
        screen: &mut Screen,
        stop: &CancellationToken,
    ) -> Result<(), DemoError> {
        let mut ticks = interval(if screen.is_terminal() { REDRAW } else { LINE });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.reset();
        let over = sleep(length);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = &mut over => return Ok(()),
                ended = &mut self.listener => return Err(early(ended)),
                Some(ended) = writers.join_next() => {
                    ended?.map_err(doing("write to the shop"))?;
                }
                _ = ticks.tick() => self.show(screen).await?,
            }
        }
    }

    /// Takes in what has arrived, and shows the figures.
    async fn show(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        self.take_in(screen);
        let figures = Figures::read(&self.metrics);
        if !self.letter_shown && figures.total().given_up > 0 {
            self.show_letter(screen).await?;
        }
        let tally = lock(&self.tally);
        let since = self.begun.elapsed();
        if screen.is_terminal() {
            screen.draw(&figures.table(since, tally.so_far()));
        } else {
            screen.say(&figures.line(since, tally.so_far()));
        }
        Ok(())
    }

    fn take_in(&mut self, screen: &mut Screen) {
        let mut tally = lock(&self.tally);
        for received in self.sink.take_received() {
            if !received.is_accepted() {
                continue;
            }
            let Some(delivery) = receiver::delivery(&received) else {
                tally.strange();
                continue;
            };
            tally.arrived(delivery, received.at);
            if !self.shown.contains(&delivery.observer) {
                self.shown.push(delivery.observer);
                screen.say(&receiver::sample(&received, delivery.observer));
            }
        }
    }

    async fn show_letter(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        let letters = admin::list(self.pool, &ours(), i64::MAX, 1)
            .await
            .map_err(doing("look for dead letters"))?;
        // It is written with the next checkpoint.
        if let Some(letter) = letters.first() {
            self.letter_shown = true;
            screen.say(&format!(
                "\nA first dead letter, kept until someone redrives or drops it:\n  {} of {} {}: {}\n",
                letter.observer,
                letter.entity,
                letter.key.as_deref().unwrap_or_default(),
                letter.error,
            ));
        }
        Ok(())
    }

    /// Waits until everything is through, but not for ever.
    async fn settle(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.take_in(screen);
            let figures = Figures::read(&self.metrics);
            let through = {
                let tally = lock(&self.tally);
                tally.awaited() == 0
                    && figures.total().given_up >= tally.awaited_letters() as u64
                    && figures.notes() >= tally.so_far().expected_notes
            };
            if through || tokio::time::Instant::now() >= deadline {
                return Ok(());
            }
            tokio::select! {
                ended = &mut self.listener => return Err(early(ended)),
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Returns how many dead letters somebody dropped in the console.
    async fn dropped_by_hand(&self) -> Result<usize, sqlx::Error> {
        let dropped: i64 = sqlx::query_scalar(
            "select coalesce(sum(count), 0)::bigint from observer.audit
             where listener = $1 and operation = 'dropDeadLetters'",
        )
        .bind(LISTENER)
        .fetch_one(self.pool)
        .await?;
        Ok(usize::try_from(dropped).unwrap_or_default())
    }

    /// Waits for the listener's end, and compares.
    async fn close(mut self, screen: &mut Screen, lasted: Duration) -> Result<Outcome, DemoError> {
        (&mut self.listener).await??;
        self.take_in(screen);
        if !self.letter_shown {
            // Too late for the figures that were shown last.
            self.show_letter(screen).await?;
        }
        let look = "look at the dead letters";
        let letters = admin::list(self.pool, &ours(), i64::MAX, MAX_LETTERS)
            .await
            .map_err(doing(look))?;
        for letter in letters {
            let one = admin::DeadLetterFilter {
                ids: Some(vec![letter.id]),
                ..ours()
            };
            let full = admin::show(self.pool, &one).await.map_err(doing(look))?;
            let mut tally = lock(&self.tally);
            match full.as_ref().and_then(receiver::given_up) {
                Some(delivery) => tally.given_up(delivery),
                None => tally.strange(),
            }
        }
        let figures = Figures::read(&self.metrics);
        let dropped = self.dropped_by_hand().await.map_err(doing(look))?;
        let verdict = std::mem::take(&mut *lock(&self.tally)).close(figures.notes(), dropped);
        Ok(Outcome {
            lasted,
            figures,
            verdict,
        })
    }
}

/// The demo's dead letters.
fn ours() -> DeadLetterFilter {
    DeadLetterFilter {
        listener: Some(LISTENER.to_owned()),
        ..DeadLetterFilter::default()
    }
}

/// What an end of the listener means that nobody asked for.
fn early(ended: Result<Result<(), RunError>, tokio::task::JoinError>) -> DemoError {
    match ended {
        Ok(Ok(())) => DemoError::Listener("ended too early"),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    }
}
