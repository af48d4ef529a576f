//! Lookups before actions, and the cache of lookups and actions.
//!
//! Each part works off a backlog of rows, each with a key of its own. The keys of one part are the same as
//! those of the part before: so after a first part that makes all requests, one by a process that has just
//! started finds them in Redis, and one more finds them in the process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use testkit::servers::redis::{Options, PrivateRedis};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::figures::real;
use crate::place::{Bench, More, PATIENCE, Place, Setting};
use crate::plan::Plan;
use crate::process::Process;
use crate::subject::Subject;

/// How long a lookup by HTTP and a repeated action take.
const DELAY: Duration = Duration::from_millis(20);

/// Between two looks at the metrics.
const LOOK: Duration = Duration::from_millis(20);

/// Role and password of lookups by SQL.
const LOGIN: &str = "statements";

/// Deliveries of an action at once.
const CONCURRENCY: u32 = 64;

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct EnrichFigures {
    parts: Vec<Part>,
}

/// One part.
#[derive(Debug, Serialize)]
struct Part {
    what: String,
    events: u64,
    per_second: f64,
    /// Microseconds of a request at the median, by how the cache served it; nothing without a cache.
    p50_us: BTreeMap<String, f64>,
    /// How many requests it served so.
    served: BTreeMap<String, u64>,
}

/// Measures all parts.
pub(crate) async fn measure(
    bench: Bench<'_>,
    (plan, rows): (&Plan, u64),
    figures: &mut EnrichFigures,
) -> anyhow::Result<()> {
    let redis = PrivateRedis::start(&Options::default()).await?;
    let source = Source::start().await?;
    let base = Setting {
        lanes: usize::try_from(rows)?,
        ..plan.base()
    };
    let lookup = format!(
        "  enrich:\n    - name: customer\n      http: {{url: {{value: \"{}\"}}, path: \"/{{{{ new.lane }}}}\"}}\n",
        source.url
    );
    let listener = format!(
        "  egress: {{allow: [127.0.0.0/8]}}\n  redis: {{url: {{value: \"{}\"}}}}\n  \
         delivery: {{maxConcurrency: {CONCURRENCY}}}\n",
        redis.url()
    );
    let body = "        body: '{\"new\": {\"bench_id\": {{ new.bench_id }}, \"lane\": {{ new.lane }}}, \
                \"customer\": {{ enrich.customer }}}'\n";
    let more = More {
        listener: listener.clone(),
        webhook: body.to_owned(),
        ..More::default()
    };
    let uncached = More {
        observer: lookup.clone(),
        ..more.clone()
    };
    figures.parts.push(
        alone(
            bench,
            &base,
            (uncached, rows),
            "a lookup of 20 ms, no cache",
        )
        .await?,
    );
    let cached = More {
        observer: lookup + "      cache: {ttl: 1h}\n",
        ..more
    };
    in_parts(bench, &base, (cached, rows), "a lookup of 20 ms", figures).await?;
    let action = More {
        listener,
        webhook: "        body: '{\"refresh\": {{ new.lane }}}'\n".to_owned(),
        ..More::default()
    };
    let mut slow = base.clone();
    slow.behaviour.delay = DELAY;
    figures.parts.push(
        alone(
            bench,
            &slow,
            (action.clone(), rows),
            "an action of 20 ms, no cache",
        )
        .await?,
    );
    let action = More {
        action: "      cache: {ttl: 1h}\n".to_owned(),
        ..action
    };
    in_parts(bench, &slow, (action, rows), "an action of 20 ms", figures).await?;
    sql(bench, &base, rows * 10, figures).await
}

/// One backlog by one process.
async fn alone(
    bench: Bench<'_>,
    base: &Setting,
    (more, rows): (More, u64),
    what: &str,
) -> anyhow::Result<Part> {
    let (setting, address) = served(base, more)?;
    let mut place = Place::new(bench, Subject::Observers, &setting, rows + 1).await?;
    place.ground.fill(1, rows + 1, setting.bytes).await?;
    let process = place.start()?;
    let part = part(&address, (0, rows), &process, what).await?;
    process.kill().await?;
    place.ground.leave().await?;
    Ok(part)
}

/// Three backlogs of the same keys: nothing is cached, it is in Redis, it is in the process.
async fn in_parts(
    bench: Bench<'_>,
    base: &Setting,
    (more, rows): (More, u64),
    what: &str,
    figures: &mut EnrichFigures,
) -> anyhow::Result<()> {
    let (setting, address) = served(base, more)?;
    let mut place = Place::new(bench, Subject::Observers, &setting, 3 * rows + 1).await?;
    place.ground.fill(0, rows, setting.bytes).await?;
    let process = place.start()?;
    let first = part(
        &address,
        (0, rows),
        &process,
        &format!("{what}, for the first time"),
    )
    .await?;
    figures.parts.push(first);
    process.stop().await?;
    place.ground.fill(rows, 2 * rows, setting.bytes).await?;
    let process = place.start()?;
    let second = part(
        &address,
        (0, rows),
        &process,
        &format!("{what}, from Redis"),
    )
    .await?;
    figures.parts.push(second);
    place.ground.fill(2 * rows, 3 * rows, setting.bytes).await?;
    let third = part(
        &address,
        (rows, rows),
        &process,
        &format!("{what}, from the process"),
    )
    .await?;
    figures.parts.push(third);
    process.kill().await?;
    place.ground.leave().await?;
    Ok(())
}

/// A lookup by SQL in the own database, beside the same without.
async fn sql(
    bench: Bench<'_>,
    base: &Setting,
    rows: u64,
    figures: &mut EnrichFigures,
) -> anyhow::Result<()> {
    for looks_up in [false, true] {
        let mut more = More {
            webhook: "        body: '{\"new\": {\"bench_id\": {{ new.bench_id }}, \"lane\": {{ new.lane }}}}'\n"
                .to_owned(),
            ..More::default()
        };
        if looks_up {
            "  enrich:\n    - name: customer\n      postgres: {statement: \"select name from customer where lane = \
             $1::int\", parameters: [\"{{ new.lane }}\"]}\n"
                .clone_into(&mut more.observer);
            more.webhook = more
                .webhook
                .replace("}}}'", "}}, \"name\": {{ enrich.customer.name }}}'");
        }
        let mut own = reqwest::Url::parse(&bench.server.url("speed"))?;
        let login = own.set_username(LOGIN).and(own.set_password(Some(LOGIN)));
        ensure!(login.is_ok(), "a URL of a server takes a login");
        more.listener = format!(
            "  egress: {{allow: [127.0.0.0/8], ownDatabase: {{url: {{value: \"{own}\"}}}}}}\n"
        );
        let (setting, address) = served(base, more)?;
        let mut place = Place::new(bench, Subject::Observers, &setting, rows + 1).await?;
        let lanes = setting.lanes;
        place
            .ground
            .run(&format!(
                "create table customer (lane int primary key, name text not null);
                 insert into customer select n, 'customer ' || n from generate_series(0, {lanes}) n;
                 do $$ begin create role {LOGIN} login password '{LOGIN}';
                 exception when duplicate_object then null; end $$;
                 grant usage on schema observer to {LOGIN};
                 grant execute on function observer.claim_delivery to {LOGIN};
                 grant select on customer to {LOGIN}"
            ))
            .await?;
        place.ground.fill(1, rows + 1, setting.bytes).await?;
        let process = place.start()?;
        let what = if looks_up {
            "a lookup by SQL"
        } else {
            "no lookup"
        };
        figures
            .parts
            .push(part(&address, (0, rows), &process, what).await?);
        process.kill().await?;
        place.ground.leave().await?;
    }
    Ok(())
}

/// The setting with these lines, and where its metrics are.
fn served(base: &Setting, more: More) -> anyhow::Result<(Setting, String)> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = free.local_addr()?.to_string();
    let setting = Setting {
        more: More {
            listen: Some(address.clone()),
            ..more
        },
        ..base.clone()
    };
    Ok((setting, address))
}

/// Waits until so many more deliveries are over than before, and says how fast that went.
async fn part(
    address: &str,
    (before, rows): (u64, u64),
    process: &Process,
    what: &str,
) -> anyhow::Result<Part> {
    let (mut began, mut latest) = (None, (0, Instant::now()));
    let metrics = loop {
        let metrics = scrape(address).await.unwrap_or_default();
        let over = metrics.over().saturating_sub(before);
        if over > latest.0 {
            latest = (over, Instant::now());
            began.get_or_insert((over, Instant::now()));
        }
        if over >= rows {
            break metrics;
        }
        ensure!(
            latest.1.elapsed() < PATIENCE,
            "{over} of {rows}: {}",
            process.said()
        );
        tokio::time::sleep(LOOK).await;
    };
    let (first, began) = began.context("it was over at once")?;
    let took = latest.1.duration_since(began).as_secs_f64();
    let part = Part {
        what: what.to_owned(),
        events: rows,
        per_second: real(rows - first) / took.max(1e-3),
        p50_us: metrics.medians(),
        served: metrics.served(),
    };
    eprintln!(
        "{what}: {:.0}/s, p50 in us {:?}",
        part.per_second, part.p50_us
    );
    Ok(part)
}

/// Lines of metrics: names with labels, and values.
#[derive(Default)]
struct Metrics(Vec<(String, f64)>);

async fn scrape(address: &str) -> anyhow::Result<Metrics> {
    let text = reqwest::get(format!("http://{address}/metrics"))
        .await?
        .text()
        .await?;
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(Metrics(text.lines().filter_map(line).collect()))
}

/// The value of a label.
fn label<'a>(name: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = name.split_once(&format!("{label}=\""))?;
    rest.split('"').next()
}

impl Metrics {
    fn of(&self, name: &str) -> impl Iterator<Item = &(String, f64)> {
        let begin = format!("{name}{{");
        self.0
            .iter()
            .filter(move |(line, _)| line.starts_with(&begin))
    }

    /// Deliveries that are over.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    fn over(&self) -> u64 {
        let all = self.of("observer_delivery_attempts_total");
        let over =
            all.filter(|(line, _)| matches!(label(line, "outcome"), Some("success" | "cached")));
        over.map(|(_, count)| *count as u64).sum()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    fn served(&self) -> BTreeMap<String, u64> {
        let counts = self.of("observer_cache_request_duration_seconds_count");
        let counts = counts.filter(|(_, count)| *count > 0.0);
        counts
            .filter_map(|(line, count)| Some((label(line, "served")?.to_owned(), *count as u64)))
            .collect()
    }

    /// Medians by how requests were served, between the bounds of the histogram's bucket.
    fn medians(&self) -> BTreeMap<String, f64> {
        let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (line, count) in self.of("observer_cache_request_duration_seconds_bucket") {
            if let (Some(how), Some(bound)) = (label(line, "served"), label(line, "le")) {
                let bound = bound.parse().unwrap_or(f64::INFINITY);
                buckets
                    .entry(how.to_owned())
                    .or_default()
                    .push((bound, *count));
            }
        }
        let median = |mut buckets: Vec<(f64, f64)>| {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            let half = buckets.last()?.1 / 2.0;
            let at = buckets
                .iter()
                .position(|(_, count)| *count >= half && half > 0.0)?;
            let (low, below) = match at.checked_sub(1) {
                Some(before) => buckets[before],
                None => (0.0, 0.0),
            };
            let (high, upto) = buckets[at];
            Some((low + (high - low) * (half - below) / (upto - below)) * 1e6)
        };
        buckets
            .into_iter()
            .filter_map(|(how, buckets)| Some((how, median(buckets)?)))
            .collect()
    }
}

impl EnrichFigures {
    /// Adds a table in Markdown.
    pub(crate) fn markdown(&self, out: &mut String) {
        if self.parts.is_empty() {
            return;
        }
        out.push_str(
            "\n| lookups and cache | events | events/s | served (p50 us) |\n|---|---:|---:|---|\n",
        );
        for one in &self.parts {
            let served = one.served.iter().map(|(how, count)| {
                let median = one.p50_us.get(how).copied().unwrap_or(f64::NAN);
                format!("{how}: {count} ({median:.1})")
            });
            let served: Vec<String> = served.collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {} |",
                one.what,
                one.events,
                one.per_second,
                served.join(", ")
            );
        }
    }
}

/// A server that takes its time, and answers with JSON.
struct Source {
    url: String,
    _task: JoinSet<()>,
}

impl Source {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                all.spawn(answer(connection));
            }
        });
        Ok(Self { url, _task: task })
    }
}

/// Answers requests without bodies until the client goes.
async fn answer(mut connection: TcpStream) {
    const RESPONSE: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"name\": \"Ada\"}";
    let mut read = Vec::new();
    loop {
        let mut some = [0; 4096];
        match connection.read(&mut some).await {
            Ok(count @ 1..) => read.extend_from_slice(&some[..count]),
            _ => return,
        }
        while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            read.drain(..end + 4);
            tokio::time::sleep(DELAY).await;
            if connection.write_all(RESPONSE).await.is_err() {
                return;
            }
        }
    }
}
