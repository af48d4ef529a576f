//! Each rule for resource files, by what a user reads when it is broken.

use observer_crds::config::Redacted;
use observer_crds::loader::load;
use observer_crds::manifest::{Diagnostics, SourceFile};

pub(crate) const LISTENER: &str = "
apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata: {name: shop}
spec:
  database:
    url: {value: 'postgres://localhost/shop'}
";

pub(crate) const OBSERVER: &str = "
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: orders, labels: {app: shop}}
spec:
  events: {entity: shop.orders}
  actions:
    - name: notify
      webhook:
        url: {value: 'https://hooks.example.com/x'}
";

const SIGNED: &str = "url: {value: 'https://hooks.example.com/x'}
        signingSecret: {secretKeyRef: {name: hooks, key: key}}";

fn run(text: &str, listener: Option<&str>) -> Result<(), Diagnostics> {
    let file = SourceFile {
        path: "f.yaml".into(),
        text: text.into(),
    };
    load(&[file], &|_, _| None, listener).map(drop)
}

/// Problems without file and line, which other tests look at.
pub(crate) fn problems(text: &str) -> Vec<String> {
    let Err(report) = run(text, None) else {
        return Vec::new();
    };
    report
        .items
        .iter()
        .map(|problem| {
            assert!(problem.line.is_some_and(|line| line > 0) || problem.file.is_empty());
            format!("{}: {}", problem.path, problem.message)
        })
        .collect()
}

/// Breaks the listener or the observer by replacing a piece of it, and wants one problem.
#[track_caller]
fn breaks(piece: &str, with: &str, expected: &str) {
    let good = format!("{LISTENER}---{OBSERVER}");
    assert!(good.contains(piece), "{piece}");
    assert_eq!(problems(&good.replace(piece, with)), [expected]);
}

#[track_caller]
pub(crate) fn breaks_observer(piece: &str, with: &str, expected: &str) {
    breaks(piece, with, &format!("Observer default/orders: {expected}"));
}

#[track_caller]
pub(crate) fn breaks_listener(spec: &str, expected: &str) {
    let expected = format!("ObserverListener default/shop: {expected}");
    breaks(
        "spec:\n  database",
        &format!("spec:\n  {spec}\n  database"),
        &expected,
    );
}

#[track_caller]
fn breaks_action(field: &str, expected: &str) {
    let with = format!("name: notify\n      {field}");
    breaks_observer(
        "name: notify",
        &with,
        &format!("spec.actions[0].{expected}"),
    );
}

#[track_caller]
fn breaks_webhook(field: &str, expected: &str) {
    let with = format!("webhook:\n        {field}");
    breaks_observer(
        "webhook:",
        &with,
        &format!("spec.actions[0].webhook.{expected}"),
    );
}

#[test]
fn batches_are_json_arrays_without_headers_of_events() {
    let url = "url: {value: 'https://hooks.example.com/x'}";
    let with = |more: &str| format!("{url}\n        {more}");
    breaks_observer(
        url,
        &with("batch: {linger: 2m}"),
        "spec.actions[0].webhook.batch.linger: must be 1ms to 1m",
    );
    breaks_observer(
        url,
        &with("batch: {maxEvents: 10}\n        contentType: text/plain"),
        "spec.actions[0].webhook.contentType: is not JSON, but several events make a JSON array; leave out \
         `batch`, or this",
    );
    breaks_observer(
        url,
        &with("batch: {}\n        headers: {X-Order: {value: '{{ new.id }}'}}"),
        "spec.actions[0].webhook.headers.X-Order: holds a template, but one request is for several events with \
         `batch`; put it into `body`",
    );
}

#[test]
fn the_unbroken_files_load() {
    assert_eq!(problems(&format!("{LISTENER}---{OBSERVER}")), [""; 0]);
}

#[test]
fn unknown_fields_are_told_with_the_nearest_known() {
    breaks_listener(
        "shard: 8",
        "spec.shard: unknown field; did you mean `shards`? Known here: api, autoscaling, cache, checkpoint, console, database, deadLetters, deletionPolicy, delivery, egress, identity, \
         lease, networkPolicy, observerNamespaces, observerSelector, podTemplate, queue, redis, replicas, search, shards, source, \
         stalledAfter, startAt",
    );
    breaks_listener(
        "history: {url: {value: x}}",
        "spec.history: unknown field; known here: api, autoscaling, cache, checkpoint, console, database, deadLetters, deletionPolicy, delivery, egress, identity, \
         lease, networkPolicy, observerNamespaces, observerSelector, podTemplate, queue, redis, replicas, search, shards, source, \
         stalledAfter, startAt",
    );
    breaks_webhook(
        "header: {}",
        "header: unknown field; did you mean `headers`? Known here: batch, body, contentType, format, \
         headers, method, signingSecret, signingSecrets, tls, url",
    );
    breaks_observer(
        "labels: {app: shop}",
        "lables: {app: shop}",
        "metadata.lables: unknown field; did you mean `labels`? Known here: annotations, \
         creationTimestamp, deletionGracePeriodSeconds, deletionTimestamp, finalizers, \
         generateName, generation, labels, managedFields, name, namespace, ownerReferences, \
         resourceVersion, selfLink, uid",
    );
}

#[test]
fn wrong_types_are_told_with_what_was_found() {
    breaks_listener(
        "shards: many",
        "spec.shards: expected a whole number, found text",
    );
    breaks_listener(
        "shards: 2.5",
        "spec.shards: expected a whole number, found a number",
    );
    breaks_listener(
        "egress: [10.0.0.0/8]",
        "spec.egress: expected a mapping, found a list",
    );
    breaks_action(
        "timeout: 10",
        "timeout: expected a duration such as `15s`, found a number",
    );
    breaks_webhook(
        "headers: {X-A: {value: yes}}",
        "headers.X-A.value: expected text, found a boolean; put it in quotes",
    );
    breaks_webhook("body:", "body: expected text, found nothing");
    breaks_listener(
        "shards: 0x10",
        "spec.shards: is a number to some readers of YAML and text to others; write a plain \
         decimal number, or text in quotes",
    );
}

#[test]
fn missing_fields_are_named() {
    breaks_observer(
        "entity: shop.orders",
        "",
        "spec.events.entity: is missing; text is required",
    );
    breaks_observer(
        "name: notify",
        "timeout: 1s",
        "spec.actions[0].name: is missing; text is required",
    );
    breaks(
        "url: {value: 'postgres://localhost/shop'}",
        "retention: 2h",
        "ObserverListener default/shop: spec.database.url: is missing; a mapping \
         is required",
    );
}

#[test]
fn there_is_exactly_one_source() {
    breaks_listener(
        "source: {}",
        "spec.source: names no source; write `triggers: {}`, `wal: {}` or `kafka:`, or leave `source` out",
    );
    breaks_listener(
        "source: {trigger: {}}",
        "spec.source.trigger: unknown field; did you mean `triggers`? Known here: kafka, triggers, wal",
    );
    let named = LISTENER.replace("spec:\n", "spec:\n  source: {triggers: {}}\n");
    assert_eq!(problems(&format!("{named}---{OBSERVER}")), [""; 0]);
    breaks_listener(
        "source: {wal: {}, kafka: {brokers: [k], topics: [{topic: a}]}}",
        "spec.source: has more than one of `triggers`, `wal` and `kafka`; keep one of them",
    );
}

#[test]
fn topics_have_what_their_records_can_say() {
    let breaks = |topics: &str, problem: &str| {
        let source = format!("source: {{kafka: {{brokers: [k], topics: [{topics}]}}}}");
        breaks_listener(&source, &format!("spec.source.kafka.{problem}"));
    };
    breaks(
        "{topic: a}, {topic: a}",
        "topics[1]: is listed before; keep one of them",
    );
    breaks(
        "{topic: a, contents: Rows, tenant: org}",
        "topics[0]: has `contents: Rows` and `key` or `tenant`; leave these out, as a deletion has no row that they \
         could be fields of",
    );
    breaks_listener(
        "startAt: Backfill\n  source: {kafka: {brokers: [k], topics: [{topic: a}]}}",
        "spec.startAt: is `Backfill`, and topics have no tables to read; write `initialOffset: Earliest` in \
         spec.source.kafka",
    );
}

#[test]
fn tables_of_triggers_and_of_the_log_have_the_same_rules() {
    let named = |source: &str, tables: &str| {
        let source = format!("spec:\n  source: {{{source}: {{tables: [{tables}]}}}}\n");
        problems(&format!(
            "{}---{OBSERVER}",
            LISTENER.replace("spec:\n", &source)
        ))
    };
    for source in ["triggers", "wal"] {
        let right = "{table: public.a, key: [b, c], tenant: org, exclude: [z]}, \
                     {table: core.log, contents: EntityChanges}";
        assert_eq!(named(source, right), [""; 0]);
        for (tables, problem) in [
            (
                "{table: orders}",
                "[0].table: names no schema; write it as public.orders",
            ),
            (
                "{table: public.a}, {table: public.a}",
                "[1]: is listed before; keep one of them",
            ),
            (
                "{table: core.log, contents: EntityChanges, key: [id]}",
                "[0]: has `contents: EntityChanges` and `key`, `tenant` or `exclude`; leave these out",
            ),
            (
                "{table: public.a, tenant: org, exclude: [org]}",
                "[0].exclude: names org, which is part of the key or the tenant",
            ),
            (
                "{table: public.a, keys: [id]}",
                "[0].keys: unknown field; did you mean `key`?",
            ),
        ] {
            let found = named(source, tables);
            let expected = format!("spec.source.{source}.tables{problem}");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(&expected), "{expected} in {found:?}");
        }
    }
}

#[test]
fn enumerations_list_their_words() {
    breaks_webhook(
        "method: Post",
        "method: must be one of POST, PUT, PATCH, DELETE; did you mean `POST`?",
    );
    breaks_observer(
        "entity: shop.orders",
        "entity: shop.orders, operations: [insert]",
        "spec.events.operations[0]: must be one of Insert, Update, Delete, Truncate, Custom, Read; did you \
         mean `Insert`?",
    );
}

#[test]
fn numbers_and_durations_have_bounds() {
    breaks_listener("shards: 257", "spec.shards: must be 1 to 256");
    breaks_listener("replicas: -1", "spec.replicas: must be 0 to 256");
    breaks_listener(
        "delivery: {maxConcurrency: 0}",
        "spec.delivery.maxConcurrency: must be 1 to 4096",
    );
    breaks_listener(
        "delivery: {drainTimeout: 11m}",
        "spec.delivery.drainTimeout: must be 1ms to 10m",
    );
    breaks_listener(
        "checkpoint: {interval: 0s}",
        "spec.checkpoint.interval: must be 1ms to 1m",
    );
    for span in ["4s", "61m"] {
        breaks_listener(
            &format!("stalledAfter: {span}"),
            "spec.stalledAfter: must be 5s to 1h",
        );
    }
    breaks_action("retry: {attempts: 101}", "retry.attempts: must be 1 to 100");
    breaks_action(
        "timeout: 6m",
        "timeout: must be 1ms to 5m; up to 1h with `mode: Queued`, which makes its attempts off \
         the fast path",
    );
    breaks_action("timeout: 0s", "timeout: must be 1ms to 5m");
    breaks_action("timeout: 2h", "timeout: must be 1ms to 5m");
    breaks_action(
        "mode: Queued\n      timeout: 61m",
        "timeout: must be 1ms to 1h",
    );
    breaks_action(
        "retry: {deadline: 1ms}",
        "retry.deadline: must be 1s to 8760h",
    );
    breaks_action("maxConcurrency: 0", "maxConcurrency: must be 1 to 4096");
    breaks_action(
        "rateLimit: {attempts: 0}",
        "rateLimit.attempts: must be 1 to 1000000",
    );
    breaks_action(
        "rateLimit: {attempts: 1, per: 25h}",
        "rateLimit.per: must be 1ms to 24h",
    );
    for most in [0, 65537] {
        breaks_action(
            &format!("maxConcurrencyTotal: {most}"),
            "maxConcurrencyTotal: must be 1 to 65536",
        );
    }
    breaks_action(
        "retry: {maxBackoff: 25h}",
        "retry.maxBackoff: must be 1ms to 24h",
    );
    breaks_action(
        "retry: {initialBackoff: 1m, maxBackoff: 30s}",
        "retry.initialBackoff: is longer than `maxBackoff` (30s); make it shorter, or raise that",
    );
    breaks_action(
        "timeout: 1 second",
        "timeout: is not a duration; write whole numbers with units, as in `250ms`, `15s` or \
         `1h30m`",
    );
    for (field, bounds) in [
        (
            "maxPollInterval: 0ms",
            "maxPollInterval: must be 1ms to 10s",
        ),
        ("retention: 10ms", "retention: must be 1s to 720h"),
    ] {
        breaks(
            "database:",
            &format!("database:\n    {field}"),
            &format!("ObserverListener default/shop: spec.database.{bounds}"),
        );
    }
}

#[test]
fn the_queue_has_bounds_and_a_place() {
    for (queue, expected) in [
        (
            "workerLeaseDuration: 4s",
            "workerLeaseDuration: must be 5s to 10m",
        ),
        (
            "workerLeaseDuration: 11m",
            "workerLeaseDuration: must be 5s to 10m",
        ),
        (
            "completedJobRetention: 721h",
            "completedJobRetention: must be 0s to 720h",
        ),
        (
            "maxConcurrencyTotal: 0",
            "maxConcurrencyTotal: must be 1 to 65536",
        ),
        (
            "workers: {concurrency: 1025}",
            "workers.concurrency: must be 1 to 1024",
        ),
        (
            "workers: {replicas: 257}",
            "workers.replicas: must be 0 to 256",
        ),
        (
            "backend: postgres",
            "backend: must be one of Postgres, Redis; did you mean `Postgres`?",
        ),
    ] {
        breaks_listener(
            &format!("queue: {{{queue}}}"),
            &format!("spec.queue.{expected}"),
        );
    }
    breaks_action(
        "mode: queued",
        "mode: must be one of Inline, Queued; did you mean `Queued`?",
    );
    breaks_action(
        "mode: queued\n      timeout: 1h",
        "mode: must be one of Inline, Queued; did you mean `Queued`?",
    );
    breaks_action(
        "priority: Urgent",
        "priority: must be one of High, Normal, Low",
    );
}

#[test]
fn jobs_in_redis_need_one() {
    breaks_listener(
        "queue: {backend: Redis}",
        "spec.queue.backend: is Redis, and there is no `spec.redis`; add `redis: {url: ...}`, or keep \
         jobs in Postgres",
    );
    // One that nothing uses is looked at all the same.
    for queue in ["", "\n  queue: {backend: Redis}"] {
        breaks_listener(
            &format!("redis: {{url: {{value: 'http://:hunter2@localhost'}}}}{queue}"),
            "spec.redis.url.value: is not the URL of a Redis server; write \
             redis://user:password@host:6379/0, or rediss:// for TLS",
        );
        breaks_listener(
            &format!("redis: {{}}{queue}"),
            "spec.redis.url: is missing; a mapping is required",
        );
    }
    for (redis, expected) in [
        (
            "url: {value: 'rediss://localhost/#insecure'}",
            "url: ends in a fragment, as `#insecure`; trust the server's own authority with \
             `tls: {ca: ...}` instead",
        ),
        (
            "url: {value: 'redis://localhost/1'}, cluster: {}",
            "url: names a database, and a Cluster has only database 0; end the URL after the port",
        ),
        (
            "url: {value: 'redis://localhost'}, cluster: {nodes: ['a']}",
            "cluster.nodes[0]: is not an address; write host:port, and an address of IPv6 in brackets",
        ),
        (
            "url: {value: 'redis://localhost'}, cluster: {nodes: ['a:1', 'b:0']}",
            "cluster.nodes[1]: has port 0, at which no server can be reached; write the port of the server",
        ),
        (
            "url: {value: 'redis://localhost:0'}",
            "url.value: has port 0, at which no server can be reached; write the port of the server",
        ),
        (
            "url: {value: 'redis://localhost'}, sentinel: {nodes: ['a:1', 'u@b:2']}",
            "sentinel.nodes[1]: is not an address; write host:port, and an address of IPv6 in brackets",
        ),
        (
            "url: {value: 'redis://localhost'}, sentinel: {username: {value: a}}",
            "sentinel: has a `username` and no `password`; give both, the password alone, or neither",
        ),
        (
            "url: {value: 'redis://localhost'}, sentinel: {masterName: 'a b'}",
            "sentinel.masterName: must look like ^[A-Za-z0-9._-]+$",
        ),
    ] {
        breaks_listener(
            &format!("redis: {{{redis}}}"),
            &format!("spec.redis.{expected}"),
        );
    }
    breaks_listener(
        "redis: {url: {value: 'redis://localhost'}, sentinel: {}, cluster: {}}",
        "spec.redis: has both `sentinel` and `cluster`; keep one of them",
    );
    let with = "spec:\n  redis: {url: {value: 'rediss://localhost'}, \
                sentinel: {nodes: ['[::1]:26379']}}\n  database";
    let good = format!("{LISTENER}---{OBSERVER}").replace("spec:\n  database", with);
    assert_eq!(problems(&good), [""; 0]);
}

#[test]
fn names_are_labels_and_unique() {
    let rule = "is not a proper name; use 1 to 63 lower case letters, digits and `-`, with a \
                letter or digit at both ends";
    breaks(
        "name: orders,",
        "name: Orders,",
        &format!("Observer default/Orders: metadata.name: {rule}"),
    );
    breaks_observer(
        "name: notify",
        "name: no_tify",
        &format!("spec.actions[0].name: {rule}"),
    );
    breaks_observer(
        "  actions:\n",
        "  actions:\n    - {name: notify, log: {}}\n",
        "spec.actions[1].name: an action named `notify` is there already; names are unique within \
         an observer",
    );
    assert_eq!(
        problems(&format!("{LISTENER}---{OBSERVER}---{OBSERVER}")),
        [
            "Observer default/orders: metadata.name: the same Observer is there already, at f.yaml:11; keep one of them"
        ]
    );
    assert_eq!(
        problems(&format!("{LISTENER}---{LISTENER}---{OBSERVER}")),
        [
            "ObserverListener default/shop: metadata.name: the same ObserverListener is there already, at f.yaml:4; keep one of them"
        ]
    );
    let secret = "\napiVersion: v1\nkind: Secret\nmetadata: {name: a.b}\n";
    assert_eq!(
        problems(&format!("{LISTENER}---{OBSERVER}---{secret}---{secret}")),
        [
            "Secret default/a.b: metadata.name: the same Secret is there already, at f.yaml:21; keep one of them"
        ]
    );
}

#[test]
fn entities_and_operations_make_sense() {
    breaks_observer(
        "entity: shop.orders",
        "entity: ''",
        "spec.events.entity: must not be empty",
    );
    breaks_observer(
        "entity: shop.orders",
        "entity: orders",
        "spec.events.entity: names no schema, so no table matches; write schema.table such as \
         `public.orders`, or add `Custom` to `operations` for events of `observer.emit`",
    );
    breaks_observer(
        "entity: shop.orders",
        "entity: shop.orders, operations: [Insert, Update, Insert]",
        "spec.events.operations[2]: `Insert` is listed already",
    );
    breaks_observer(
        "entity: shop.orders",
        "entity: shop.orders, operations: []",
        "spec.events.operations: has too few entries; at least 1 is needed",
    );
}

#[test]
fn an_action_does_exactly_one_thing() {
    let both = "name: notify\n      log: {}";
    let expected = "spec.actions[0]: has both `webhook` and `log`; make two actions of it";
    breaks_observer("name: notify", both, expected);
    breaks_observer(
        "webhook:\n        url: {value: 'https://hooks.example.com/x'}",
        "timeout: 1s",
        "spec.actions[0]: does nothing; give it something to do, such as `webhook` or `log`",
    );
    breaks_observer(
        "webhook:",
        "webhok:",
        "spec.actions[0].webhok: unknown field; did you mean `webhook`? Known here: cache, email, kafka, log, \
         maxConcurrency, maxConcurrencyTotal, mode, name, nats, ordering, postgres, priority, rateLimit, redis, retry, slack, teams, timeout, webhook, when",
    );
}

#[test]
fn a_webhook_goes_to_a_proper_url() {
    for url in [
        "hooks.example.com",
        "ftp://hooks.example.com",
        "/x",
        "https://",
        "mailto:a@b",
    ] {
        breaks_observer(
            "https://hooks.example.com/x",
            url,
            "spec.actions[0].webhook.url.value: is not a URL that a request can be sent to; write \
             https://host/path or http://host/path",
        );
    }
    breaks_observer(
        "https://hooks.example.com/x",
        "https://hooks.example.com/{{ new.id }}",
        "spec.actions[0].webhook.url.value: holds a template, but a URL is used as it is; \
         templates are for what is sent",
    );
    breaks(
        "postgres://localhost/shop",
        "mysql://localhost/shop",
        "ObserverListener default/shop: spec.database.url.value: is not the URL of \
         a Postgres database; write postgres://user:password@host:5432/database",
    );
}

#[test]
fn a_server_has_a_port_above_0() {
    let expected = "has port 0, at which no server can be reached; write the port of the server";
    for url in ["https://hooks.example.com:0/x", "http://10.0.0.1:00"] {
        breaks_observer(
            "https://hooks.example.com/x",
            url,
            &format!("spec.actions[0].webhook.url.value: {expected}"),
        );
    }
    for url in [
        "postgres://localhost:0/shop",
        "postgresql://u:p@[::1]:0/shop",
        "postgres://localhost:5432/shop?port=0",
        "postgres:///shop?host=db&port=00",
    ] {
        breaks(
            "postgres://localhost/shop",
            url,
            &format!("ObserverListener default/shop: spec.database.url.value: {expected}"),
        );
    }
    let webhook = "webhook:\n        url: {value: 'https://hooks.example.com/x'}";
    for (action, name) in [
        (
            "nats:\n        url: {value: 'nats://n:0'}\n        subject: a",
            "nats",
        ),
        (
            "postgres:\n        url: {value: 'postgres://h:0/x'}\n        statement: select 1",
            "postgres",
        ),
    ] {
        breaks_observer(
            webhook,
            action,
            &format!("spec.actions[0].{name}.url.value: {expected}"),
        );
    }
    let good = format!("{LISTENER}---{OBSERVER}");
    let parameter = good.replace("localhost/shop", "localhost/shop?port=6432");
    assert_eq!(problems(&parameter), [""; 0]);
}

#[test]
fn kafka_passwords_need_tls() {
    let webhook = "webhook:\n        url: {value: 'https://hooks.example.com/x'}";
    let kafka = |brokers: &str, more: &str| {
        format!("kafka:\n        brokers: [{brokers}]\n        topic: orders\n        {more}")
    };
    for broker in [
        "'https://kafka'",
        "'kafka:0'",
        "'kafka:99999'",
        "'[::1]:9092'",
        "'a b'",
        "''",
        "'user@kafka:9092'",
    ] {
        breaks_observer(
            webhook,
            &kafka(&format!("k:1, {broker}"), ""),
            "spec.actions[0].kafka.brokers[1]: is no broker; write its name or IPv4 address and its port, as \
             kafka.example.com:9092",
        );
    }
    breaks_observer(
        webhook,
        &kafka("", ""),
        "spec.actions[0].kafka.brokers: has too few entries; at least 1 is needed",
    );
    let login = "username: {value: shop}, password: {value: x}";
    breaks_observer(
        webhook,
        &kafka("k:1", &format!("sasl: {{mechanism: Plain, {login}}}")),
        "spec.actions[0].kafka.sasl.mechanism: would send the password in the clear; give `tls`, or make it \
         ScramSha512 or ScramSha256",
    );
    let encrypted = format!("tls: {{}}\n        sasl: {{mechanism: Plain, {login}}}");
    let good = format!("{LISTENER}---{OBSERVER}");
    assert_eq!(
        problems(&good.replace(webhook, &kafka("k, 10.0.0.7", &encrypted))),
        [""; 0]
    );
    breaks_observer(
        webhook,
        &kafka("k:1", "batch: {linger: 2m}"),
        "spec.actions[0].kafka.batch.linger: must be 1ms to 1m",
    );
}

#[test]
fn tls_settings_are_for_what_is_encrypted() {
    let webhook = "webhook:\n        url: {value: 'https://hooks.example.com/x'}";
    for (action, expected) in [
        (
            "redis:\n        url: {value: 'redis://r'}\n        tls: {}\n        delete: {keys: [a]}",
            "redis.tls: is of no use, as the URL is not encrypted; make it rediss://",
        ),
        (
            "nats:\n        url: {value: 'nats://n'}\n        tls: {}\n        subject: a",
            "nats.tls: is of no use, as the URL is not encrypted; make it tls://",
        ),
        (
            "postgres:\n        tls: {}\n        statement: select 1",
            "postgres.tls: is for a server at `url`; the listener's own database is reached by `spec.egress.ownDatabase.url`",
        ),
    ] {
        breaks_observer(webhook, action, &format!("spec.actions[0].{expected}"));
    }
}

#[test]
fn headers_are_proper_and_not_the_deliverys_own() {
    for name in [
        "Webhook-Id",
        "webhook-anything",
        "Content-Length",
        "HOST",
        "connection",
        "Transfer-Encoding",
        "traceparent",
    ] {
        breaks_webhook(
            &format!("headers: {{{name}: {{value: x}}}}"),
            &format!("headers.{name}: is set by the delivery itself; leave it out"),
        );
    }
    breaks_webhook(
        "headers: {Content-Type: {value: text/plain}}",
        "headers.Content-Type: is set from `contentType`; give it there",
    );
    breaks_webhook(
        "headers: {X_(a): {value: x}}",
        "headers.…: is not a header's name; use letters, digits and `-`, as in `X-Shop`",
    );
    breaks_webhook(
        "headers: {X-A: {value: x}, x-a: {value: z}}",
        "headers.x-a: is there already in other letter case; keep one of them",
    );
    breaks_webhook(
        "headers: {X-A: {value: \"x\\ny\"}}",
        "headers.X-A.value: holds a line break or another control character; write one line",
    );
    breaks_webhook(
        "contentType: json",
        "contentType: is not a content type; write one such as `application/json`",
    );
}

#[test]
fn a_value_is_given_in_exactly_one_way() {
    breaks_observer(
        "{value: 'https://hooks.example.com/x'}",
        "{}",
        "spec.actions[0].webhook.url: needs `value: TEXT` or `secretKeyRef: {name: SECRET, key: \
         KEY}`",
    );
    breaks_observer(
        "{value: 'https://hooks.example.com/x'}",
        "{value: 'https://hooks.example.com/x', secretKeyRef: {name: a, key: b}}",
        "spec.actions[0].webhook.url: has both `value` and `secretKeyRef`; keep one of them",
    );
    breaks_webhook(
        "signingSecret: {value: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3}
        signingSecrets: [{value: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3}]",
        "signingSecrets: is given beside `signingSecret`; list every secret here and drop the other",
    );
}

#[test]
fn signing_secrets_have_the_shape_of_standard_webhooks() {
    for secret in [
        "hunter2hunter2hunter2",
        "whsec_c2hvcnQ=",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY",
        "whsec_%%%",
    ] {
        breaks_webhook(
            &format!("signingSecret: {{value: '{secret}'}}"),
            "signingSecret.value: is not a signing secret; write `whsec_` and the base64 of 24 to \
             64 random bytes, as `openssl rand -base64 32` prints it",
        );
    }
    let raw = "webhook:\n        signingSecrets: [{value: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3}]";
    assert_eq!(
        problems(&format!("{LISTENER}---{OBSERVER}").replace("webhook:", raw)),
        [""; 0]
    );
}

#[test]
fn egress_takes_ranges_addresses_and_hosts() {
    let good = "egress: {allow: [10.0.0.0/8, 10.1.2.3, 'fd00::/8', '::1', hooks.internal, \
                localhost, '*.svc.cluster.local']}\n  database";
    assert_eq!(
        problems(&format!("{LISTENER}---{OBSERVER}").replace("database", good)),
        [""; 0]
    );
    for entry in [
        "10.0.0.0/33",
        "1.2.3",
        "http://x",
        "x:80",
        "a/b",
        "*",
        "*.",
        "a.*.b",
        "-a",
        "",
    ] {
        breaks_listener(
            &format!("egress: {{allow: ['{entry}']}}"),
            "spec.egress.allow[0]: is neither an address range (`10.0.0.0/8`), an address \
             (`10.1.2.3`), a host (`hooks.internal`) nor all hosts below a name \
             (`*.svc.cluster.local`); leave out scheme, port and path",
        );
    }
    breaks_listener(
        "egress: {proxy: {url: {value: 'http://p:3128'}, noProxy: [x:80]}}",
        "spec.egress.proxy.noProxy[0]: is neither an address range (`10.0.0.0/8`), an address (`10.1.2.3`), a \
         host (`hooks.internal`) nor all hosts below a name (`*.svc.cluster.local`); leave out scheme, port and \
         path",
    );
    breaks_listener(
        "egress: {proxy: {url: {value: 'socks5://p:1080'}}}",
        "spec.egress.proxy.url.value: is not the URL of a proxy; write http://user:password@proxy.internal:3128, \
         or https://",
    );
    breaks_listener(
        "egress: {ownDatabase: {url: {value: 'mysql://u@h/d'}}}",
        "spec.egress.ownDatabase.url.value: is not the URL of a Postgres database; write \
         postgres://user:password@host:5432/database",
    );
    breaks_listener(
        "egress: {allow: [10.1.2.3/8]}",
        "spec.egress.allow[0]: names an address within a range; write the range as 10.0.0.0/8",
    );
}

#[test]
fn a_limit_is_for_a_host_and_limits_something() {
    let good = "egress: {limits: [{host: api.example.com, maxConcurrency: 4}, {host: '*.example.com', \
                rateLimit: {attempts: 10}}, {host: '::1', maxConcurrency: 1}, {host: '*', maxConcurrency: 64}]}\n  database";
    assert_eq!(
        problems(&format!("{LISTENER}---{OBSERVER}").replace("database", good)),
        [""; 0]
    );
    for host in ["10.0.0.0/8", "http://x", "x:80", "*.", "1.2.3"] {
        breaks_listener(
            &format!("egress: {{limits: [{{host: '{host}', maxConcurrency: 1}}]}}"),
            "spec.egress.limits[0].host: is neither a host (`hooks.example.com`), an address (`10.1.2.3`), all \
             hosts below a name (`*.example.com`) nor `*` for each one; leave out scheme, port and path",
        );
    }
    breaks_listener(
        "egress: {limits: [{host: a.example.com}]}",
        "spec.egress.limits[0]: limits nothing; give `maxConcurrency`, `rateLimit` or both",
    );
    breaks_listener(
        "egress: {limits: [{host: a.example.com, maxConcurrency: 1}, {host: A.example.com, maxConcurrency: 2}]}",
        "spec.egress.limits[1].host: has limits already, and the first count; make one entry of both",
    );
    breaks_listener(
        "egress: {limits: [{host: a.example.com, rateLimit: {attempts: 1, per: 48h}}]}",
        "spec.egress.limits[0].rateLimit.per: must be 1ms to 24h",
    );
}

#[test]
fn a_missing_secret_or_key_is_told_with_how_to_supply_it() {
    breaks_observer(
        "url: {value: 'https://hooks.example.com/x'}",
        SIGNED,
        "spec.actions[0].webhook.signingSecret.secretKeyRef: there is no Secret `hooks` in \
         namespace `default`; add a Secret document with key `key` to the file, or run with \
         --secrets-dir DIR and put the value in DIR/hooks/key",
    );
    let secret =
        "\napiVersion: v1\nkind: Secret\nmetadata: {name: hooks}\nstringData: {other: x}\n";
    let text = format!("{LISTENER}---{OBSERVER}---{secret}");
    assert_eq!(
        problems(&text.replace("url: {value: 'https://hooks.example.com/x'}", SIGNED)),
        [
            "Observer default/orders: spec.actions[0].webhook.signingSecret.secretKeyRef: Secret \
          `hooks` has no key `key`; add it to the document, or run with --secrets-dir DIR and put \
          the value in DIR/hooks/key"
        ]
    );
}

#[test]
fn a_reference_cannot_climb_out_of_the_directory_of_secrets() {
    for (name, key) in [
        ("../etc", "passwd"),
        ("a", "../../etc"),
        ("..", "x"),
        ("a", ".."),
        ("a", "/x"),
    ] {
        let text = format!("{LISTENER}---{OBSERVER}").replace(
            "{value: 'https://hooks.example.com/x'}",
            &format!("{{secretKeyRef: {{name: '{name}', key: '{key}'}}}}"),
        );
        let file = SourceFile {
            path: "f.yaml".into(),
            text,
        };
        let asked =
            |name: &str, key: &str| -> Option<Redacted> { panic!("asked for {name}/{key}") };
        let report = load(&[file], &asked, None).unwrap_err();
        assert_eq!(report.items.len(), 1, "{report}");
    }
}

#[test]
fn kinds_and_versions_are_the_known_ones() {
    breaks(
        "kind: Observer\n",
        "kind: Observr\n",
        "Observr default/orders: kind: kind `Observr` is not read here; did you mean `Observer`? \
         Read here: ObserverListener (observers.fraiseql.dev/v1alpha1), Observer \
         (observers.fraiseql.dev/v1alpha1), Namespace (v1), Secret (v1)",
    );
    breaks(
        "kind: Observer\n",
        "kind: ConfigMap\n",
        "ConfigMap default/orders: kind: kind `ConfigMap` is not read here; what is: \
         ObserverListener (observers.fraiseql.dev/v1alpha1), Observer \
         (observers.fraiseql.dev/v1alpha1), Namespace (v1), Secret (v1)",
    );
    breaks(
        "observers.fraiseql.dev/v1alpha1\nkind: Observer\n",
        "observers.fraiseql.dev/v1\nkind: Observer\n",
        "Observer default/orders: apiVersion: must be `observers.fraiseql.dev/v1alpha1` for kind \
         Observer",
    );
    breaks(
        "kind: Observer\n",
        "",
        ": has no `kind`; what is read here: ObserverListener (observers.fraiseql.dev/v1alpha1), \
         Observer (observers.fraiseql.dev/v1alpha1), Namespace (v1), Secret (v1)",
    );
}

#[test]
fn a_selector_says_what_its_operators_need() {
    for (expression, expected) in [
        (
            "{key: a, operator: In}",
            "must name at least one value for In",
        ),
        (
            "{key: a, operator: Exists, values: [b]}",
            "must be left out for Exists",
        ),
    ] {
        let text = format!("{LISTENER}---{OBSERVER}").replace(
            "spec:\n  database",
            &format!("spec:\n  observerSelector: {{matchExpressions: [{expression}]}}\n  database"),
        );
        let at = "ObserverListener default/shop: spec.observerSelector.matchExpressions[0].values";
        assert_eq!(problems(&text)[0], format!("{at}: {expected}"));
    }
}

#[test]
fn a_listener_that_selects_nothing_is_told() {
    breaks_listener(
        "observerSelector: {matchLabels: {app: blog}}",
        "spec.observerSelector: selects none of the 1 observers in namespace `default`; compare \
         their labels",
    );
    breaks(
        "metadata: {name: shop}",
        "metadata: {name: shop, namespace: prod}",
        "ObserverListener prod/shop: spec.observerSelector: reaches none of the observers in the \
         files, as none is in namespace `prod`",
    );
}

#[test]
fn listener_without_active_observers_is_valid() {
    run(LISTENER, None).unwrap();
    let suspended = OBSERVER.replace("spec:\n", "spec:\n  suspend: true\n");
    assert_ne!(suspended, OBSERVER);
    let text = format!("{LISTENER}---{suspended}");
    run(&text, None).unwrap();
}

#[test]
fn one_listener_is_chosen_of_several() {
    let other = LISTENER.replace("name: shop", "name: blog");
    let text = format!("{LISTENER}---{other}---{OBSERVER}");
    assert_eq!(
        problems(&text),
        [": there are several ObserverListeners; name one of them: default/shop, default/blog"]
    );
    run(&text, Some("blog")).unwrap();
    run(&text, Some("default/shop")).unwrap();
    assert_eq!(
        run(&text, Some("cart")).unwrap_err().to_string(),
        "there is no ObserverListener of the name asked for; there are: default/shop, \
         default/blog\n1 problem"
    );
    assert_eq!(
        problems(OBSERVER),
        [": there is no ObserverListener in the files; add one"]
    );
}

#[test]
fn yaml_is_read_strictly() {
    breaks_observer(
        "events: {entity: shop.orders}",
        "events: {entity: shop.orders}\n  events: {entity: shop.carts}",
        "`events` is given twice, first on line 13; keep one of them",
    );
    breaks_observer(
        "entity: shop.orders",
        "entity: !!str shop.orders",
        "spec.events.entity: has a YAML tag, which is not read; write the plain value, text in quotes",
    );
    breaks_observer(
        "events: {entity: shop.orders}",
        "events: &events {entity: shop.orders}\n  tenant: *events",
        "spec.tenant: expected text, found a mapping",
    );
    breaks_observer(
        "events: {entity: shop.orders}",
        "events: {<<: {entity: shop.orders}}",
        "spec.events: holds the merge key `<<`, which is not read; write the fields out",
    );
    breaks_webhook(
        "headers: &h {X-A: *h}",
        "headers.X-A: is an alias of something around it; write it out",
    );
}

/// Problems of a listener with this in its pod template.
fn template(template: &str) -> Vec<String> {
    let text = format!("{LISTENER}  podTemplate: {template}\n---{OBSERVER}");
    let field = |problem: &String| {
        let field = problem.strip_prefix("ObserverListener default/shop: spec.podTemplate.");
        field.unwrap_or(problem).to_owned()
    };
    problems(&text).iter().map(field).collect()
}

#[test]
fn what_users_add_to_the_pods_is_right_in_itself() {
    let env = |env: &str| template(&format!("{{env: [{env}]}}"));
    assert_eq!(template("{priorityClassName: high-1.shop}"), [""; 0]);
    assert_eq!(
        env(
            "{name: A, value: x}, {name: b.c-d, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: EMPTY}"
        ),
        [""; 0]
    );
    for class in ["High", "a_b", "-a", "a..b"] {
        let said = template(&format!("{{priorityClassName: {class}}}"));
        assert_eq!(said.len(), 1, "{class}: {said:?}");
        assert!(said[0].starts_with("priorityClassName: "), "{said:?}");
    }
    for (variables, expected) in [
        (
            "{name: OBSERVER_LISTENER, value: x}",
            "[0].name: is the operator's to set",
        ),
        (
            "{name: OBSERVER_ANY, value: x}",
            "[0].name: is the operator's to set",
        ),
        (
            "{name: POD_IP, value: x}",
            "[0].name: is the operator's to set",
        ),
        ("{name: 1A, value: x}", "[0].name: is no name of a variable"),
        (
            "{name: 'A B', value: x}",
            "[0].name: is no name of a variable",
        ),
        (
            "{name: A, value: x}, {name: A, value: z}",
            "[1].name: is there already",
        ),
        (
            "{name: A, value: x, valueFrom: {secretKeyRef: {name: s, key: k}}}",
            "[0]: has both",
        ),
        (
            "{name: A, valueFrom: {}}",
            "[0].valueFrom: must name one source",
        ),
    ] {
        let said = env(variables);
        assert_eq!(said.len(), 1, "{variables}: {said:?}");
        let expected = format!("env{expected}");
        assert!(said[0].starts_with(&expected), "{said:?}");
    }
}

#[test]
fn an_identity_begins_with_the_namespace() {
    let identity = |namespace: &str, identity: &str| {
        let text = format!("{LISTENER}  identity: {identity}\n---{OBSERVER}");
        problems(&text.replace("{name: ", &format!("{{namespace: {namespace}, name: ")))
    };
    assert_eq!(identity("shop", "shop/orders"), [""; 0]);
    for foreign in ["other/shop", "shop", "shops/shop", "default/shop"] {
        assert_eq!(
            identity("shop", foreign),
            [
                "ObserverListener shop/shop: spec.identity: must begin with the listener's namespace, as `shop/shop` does"
            ],
            "{foreign}"
        );
    }
}

#[test]
fn tokens_of_the_http_api_are_long_and_different() {
    let api = |rest: &str| {
        let good = format!("{LISTENER}  api: {{{rest}}}\n---{OBSERVER}");
        let said = problems(&good);
        said.iter()
            .map(|one| one.replace("ObserverListener default/shop: spec.api", ""))
            .collect::<Vec<_>>()
    };
    let token = |name: &str, value: &str, more: &str| {
        format!("{{name: {name}, token: {{value: {value}}}, role: Read{more}}}")
    };
    let (one, other) = ("0123456789abcdef", "fedcba9876543210");
    let both = |a: &str, b: &str| format!("tokens: [{a}, {b}]");
    let old_and_new = both(
        &token("old", one, ""),
        &token("new", other, ", tenant: acme"),
    );
    assert_eq!(api(&old_and_new), [""; 0]);
    assert_eq!(api("kubernetes: {}"), [""; 0]);
    assert_eq!(
        api("port: 9470"),
        [": admits nobody; give `tokens`, or `kubernetes: {}` in a cluster"]
    );
    assert_eq!(
        api(&both(&token("a", one, ""), &token("a", other, ""))),
        [".tokens[1].name: is the name of another token too"]
    );
    assert_eq!(
        api(&both(&token("a", one, ""), &token("b", one, ""))),
        [".tokens[1].token: is the same as that of token `a`; give each its own"]
    );
    // A Secret that was read from a file ends in a line break, and may be empty.
    let broken = format!("\"{one}\\n\"");
    assert_eq!(
        api(&both(&token("a", one, ""), &token("b", &broken, ""))),
        [".tokens[1].token: is the same as that of token `a`; give each its own"]
    );
    for value in [
        "''",
        "\"\\n\"",
        "\"0123456789 abcdef\"",
        "\"0123456789\\nabcdef\"",
    ] {
        let said = api(&format!("tokens: [{}]", token("a", value, "")));
        assert!(
            said[0].contains("must be at least 16 letters"),
            "{value}: {said:?}"
        );
    }
    let short = api(&format!("tokens: [{}]", token("a", "short", "")));
    assert_eq!(short.len(), 1);
    assert!(
        short[0].starts_with(".tokens[0].token.value: must be at least 16 letters")
            && !short[0].contains("short"),
        "{short:?}"
    );
    let role = token("a", one, "").replace("Read", "Root");
    assert!(api(&format!("tokens: [{role}]"))[0].contains("Operate"));
    assert!(api(&format!("tokens: [{}]", token("a", one, ", tenant: ''")))[0].contains("tenant"));
    assert!(api(&format!("port: 80, tokens: [{}]", token("a", one, "")))[0].contains("port"));
    let many: Vec<String> = (0..17)
        .map(|n| token(&format!("t{n}"), &format!("{one}{n}"), ""))
        .collect();
    assert!(api(&format!("tokens: [{}]", many.join(", ")))[0].contains("16"));
}
