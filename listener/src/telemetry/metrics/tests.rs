#![allow(clippy::unwrap_used, reason = "a test may panic")]

use prometheus::proto::MetricType;

use super::*;

/// Gives every metric with labels a series, so that the registry has it. A new field has to be added here
/// to compile.
fn add_series(metrics: &Metrics) {
    let Metrics {
        registry: _,
        circuits: _,
        activity: _,
        events: _,
        windows: _,
        matches,
        delivery_attempts,
        delivery_attempt_duration,
        delivery_latency,
        dead_letters_written,
        dead_letters,
        dead_letters_oldest_age,
        dead_letters_expired: _,
        deliveries_dropped,
        delivery_attempts_in_flight: _,
        deliveries_pending: _,
        backlog: _,
        lag: _,
        process,
        checkpoint_commits: _,
        shards_owned: _,
        shards_stalled: _,
        config,
        shards,
        database_errors,
        pools: _,
        retention_blocked: _,
        jobs,
        search,
        source,
        backfill: _,
    } = metrics;
    let JobMetrics {
        enqueued,
        executions,
        results_stale: _,
        leases_expired: _,
        in_flight: _,
        queue_delay: _,
        pending,
        by_attempts,
        oldest_age,
    } = jobs;
    add_search_and_source_series(search, source);
    let ShardMetrics {
        claims,
        leases_lost: _,
        checkpoint_fenced: _,
        lease_requests,
    } = shards;
    let ProcessMetrics {
        ready: _,
        clock_offset: _,
        spans_dropped: _,
        logs_dropped: _,
    } = process;
    let ConfigMetrics {
        reloads: _,
        rejected: _,
    } = config;
    claims.with_label_values(&["takeover"]).inc();
    let labels = ["default/shop", "notify", "x"];
    for counters in [
        delivery_attempts,
        dead_letters_written,
        deliveries_dropped,
        executions,
    ] {
        counters.with_label_values(&labels).inc();
    }
    enqueued.with_label_values(&labels[..2]).inc();
    for counters in [matches, lease_requests, database_errors] {
        counters.with_label_values(&labels[..1]).inc();
    }
    for gauges in [dead_letters, pending, by_attempts] {
        gauges.with_label_values(&labels[..2]).inc();
    }
    for gauges in [dead_letters_oldest_age, oldest_age] {
        gauges.with_label_values(&labels[..1]).inc();
    }
    for durations in [delivery_attempt_duration, delivery_latency] {
        durations.observe(&labels[..2], 0.1, None);
    }
}

fn add_search_and_source_series(search: &SearchMetrics, source: &SourceMetrics) {
    let SearchMetrics {
        lag: _,
        buffered: _,
        buffered_bytes: _,
        documents,
        reports_dropped: _,
        errors: _,
        gaps: _,
        checked: _,
        repaired: _,
    } = search;
    let SourceMetrics {
        connected: _,
        changes: _,
        failures,
        malformed: _,
        gaps: _,
        unread_bytes: _,
        delay: _,
        retained_bytes: _,
        safe_bytes: _,
        unread_records: _,
    } = source;
    failures.with_label_values(&["session"]).inc();
    documents.with_label_values(&["written"]).inc();
}

#[test]
fn metric_names_follow_prometheus_practice() {
    let metrics = Metrics::new("default/shop").unwrap();
    add_series(&metrics);
    let families = metrics.registry.gather();
    let own = |name: &str| name.starts_with("observer_");
    let names: Vec<&str> = families
        .iter()
        .map(prometheus::proto::MetricFamily::name)
        .filter(|name| own(name))
        .collect();
    assert_eq!(names.len(), 62, "{names:?}");
    // Those of the process have names and texts of the library's.
    for family in families.iter().filter(|family| own(family.name())) {
        let name = family.name();
        let base = name.strip_suffix("_total");
        let is_counter = family.get_field_type() == MetricType::COUNTER;
        assert_eq!(is_counter, base.is_some(), "{name}");
        // OpenMetrics knows a counter by its name without the suffix.
        assert!(base.is_none_or(|base| !names.contains(&base)), "{name}");
        let times = [
            "lag", "age", "duration", "delay", "blocked", "latency", "offset",
        ];
        let is_time = name.split('_').any(|word| times.contains(&word));
        assert_eq!(is_time, name.ends_with("_seconds"), "{name}");
        let help = family.help();
        assert!(help.starts_with(char::is_uppercase), "{name}: {help}");
    }
}

#[test]
fn series_of_what_is_removed_go_away() {
    let metrics = Metrics::new("default/shop").unwrap();
    add_series(&metrics);
    let other = ["default/other", "notify", "x"];
    metrics.delivery_attempts.with_label_values(&other).inc();
    let text = || String::from_utf8(metrics.render(Format::Text).unwrap()).unwrap();
    let series = |observer: &str| {
        let label = format!("observer=\"{observer}\"");
        text().lines().filter(|line| line.contains(&label)).count()
    };
    assert!(series("default/shop") > 8);
    metrics.retain(&|observer, _| observer == "default/other");
    // What is reported of rows stays until the next report.
    let rows = [
        "dead_letters{",
        "dead_letters_oldest",
        "jobs{",
        "jobs_by",
        "jobs_oldest",
    ];
    let left = |line: &&str| line.contains("observer=\"default/shop\"");
    for line in text().lines().filter(left) {
        let of_rows = rows
            .iter()
            .any(|name| line.starts_with(&format!("observer_{name}")));
        assert!(of_rows, "{line}");
    }
    assert_eq!(series("default/other"), 1);
    metrics.retain(&|_, action| action.is_none_or(|action| action != "notify"));
    assert_eq!(series("default/other"), 0);
}
