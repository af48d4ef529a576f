//! Validation of sources: the rules that their schema cannot say.

use std::collections::BTreeSet;

use super::action::kafka::cluster;
use super::context::ValidationContext;
use super::url::database_url;
use crate::config::{
    KafkaSourceConfig, KafkaTopicConfig, Redacted, SourceConfig, SourceTableConfig, TableContents,
    TopicContents, WalSourceConfig,
};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{KafkaSource, Source, SourceTable, WalSource};

/// Validates the source of a listener.
pub(crate) fn check(
    source: &Source,
    log_database: &Redacted,
    context: &mut ValidationContext<'_>,
) -> SourceConfig {
    match (&source.triggers, &source.wal, &source.kafka) {
        (None, None, None) => context.missing_field(
            "/spec/source",
            &["triggers"],
            "names no source; write `triggers: {}`, `wal: {}` or `kafka:`, or leave `source` out",
        ),
        (Some(source), None, None) => {
            let at = "/spec/source/triggers";
            return SourceConfig::Triggers(tables(at, &source.tables, context));
        }
        (None, Some(source), None) => {
            return SourceConfig::Wal(Box::new(wal(source, log_database, context)));
        }
        (None, None, Some(source)) => {
            return SourceConfig::Kafka(Box::new(kafka(source, context)));
        }
        _ => context.error(
            "/spec/source",
            "has more than one of `triggers`, `wal` and `kafka`; keep one of them",
        ),
    }
    SourceConfig::Triggers(Vec::new())
}

fn kafka(source: &KafkaSource, context: &mut ValidationContext<'_>) -> KafkaSourceConfig {
    let at = "/spec/source/kafka";
    let mut known = BTreeSet::new();
    for (number, topic) in source.topics.iter().enumerate() {
        if !known.insert(&topic.topic) {
            let at = format!("{at}/topics/{number}");
            context.error(&at, "is listed before; keep one of them");
        }
        let is_shaped = !topic.key.is_empty() || topic.tenant.is_some();
        if topic.contents == TopicContents::Rows && is_shaped {
            let at = format!("{at}/topics/{number}");
            context.error(
                &at,
                "has `contents: Rows` and `key` or `tenant`; leave these out, as a deletion has no row that they could be \
                 fields of",
            );
        }
    }
    let (brokers, tls, sasl) = cluster(
        at,
        (&source.brokers, source.tls.as_ref(), source.sasl.as_ref()),
        context,
    );
    KafkaSourceConfig {
        name: source.name.clone(),
        brokers,
        tls,
        sasl,
        initial_offset: source.initial_offset,
        on_offset_lost: source.on_offset_lost,
        topics: source
            .topics
            .iter()
            .map(|topic| KafkaTopicConfig {
                topic: topic.topic.clone(),
                contents: topic.contents,
                entity: topic.entity.clone(),
                key: topic.key.clone(),
                tenant: topic.tenant.clone(),
            })
            .collect(),
    }
}

fn wal(
    source: &WalSource,
    log_database: &Redacted,
    context: &mut ValidationContext<'_>,
) -> WalSourceConfig {
    let at = "/spec/source/wal";
    let own = source.database.as_ref().map(|database| {
        let at = field(&field(at, "database"), "url");
        database_url(&at, &database.url, context)
    });
    WalSourceConfig {
        is_log_database: own.as_ref().is_none_or(|url| url == log_database),
        database_url: own.unwrap_or_else(|| log_database.clone()),
        publication: source.publication.clone(),
        slot: source.slot.clone(),
        on_slot_lost: source.on_slot_lost,
        failover: source.failover,
        tables: tables(at, &source.tables, context),
    }
}

fn tables(
    at: &str,
    listed: &[SourceTable],
    context: &mut ValidationContext<'_>,
) -> Vec<SourceTableConfig> {
    let mut known = BTreeSet::new();
    for (number, table) in listed.iter().enumerate() {
        let at = format!("{at}/tables/{number}");
        if !known.insert(&table.table) {
            context.error(&at, "is listed before; keep one of them");
        }
        check_table(&at, table, context);
    }
    listed
        .iter()
        .map(|table| SourceTableConfig {
            table: table.table.clone(),
            contents: table.contents,
            key: table.key.clone(),
            tenant: table.tenant.clone(),
            exclude: table.exclude.clone(),
        })
        .collect()
}

fn check_table(at: &str, table: &SourceTable, context: &mut ValidationContext<'_>) {
    if !table.table.contains('.') {
        context.error(
            &field(at, "table"),
            "names no schema; write it as public.orders",
        );
    }
    let is_shaped = !table.key.is_empty() || table.tenant.is_some() || !table.exclude.is_empty();
    if table.contents == TableContents::EntityChanges && is_shaped {
        context.error(
            at,
            "has `contents: EntityChanges` and `key`, `tenant` or `exclude`; leave these out, as each row of the log \
             names the key and the tenant",
        );
    }
    let carried = table.key.iter().chain(&table.tenant);
    if let Some(column) = carried.clone().find(|one| table.exclude.contains(one)) {
        context.error(
            &field(at, "exclude"),
            format!(
                "names {column}, which is part of the key or the tenant; every event carries both"
            ),
        );
    }
}
