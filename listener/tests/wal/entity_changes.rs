//! The log of entities that a `FraiseQL` application keeps, by a trigger and by the write-ahead log.

use observer_listener::migrate::migrate;
use serde_json::{Value, json};

use super::rows::logged;
use super::{Source, sink};
use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process, observer};
use crate::support::told::{keys_of, told};

/// As `FraiseQL` 2.19 makes it, but for the default of `id`, a function of newer servers.
const LOG: &str = "
    create schema core;
    create sequence core.seq_entity_change_log;
    create table core.tb_entity_change_log (
        pk_entity_change_log bigint generated always as identity primary key, object_type text not null,
        modification_type text not null, id uuid not null default gen_random_uuid(),
        created_at timestamptz not null default now(), tenant_id uuid, fk_customer_org bigint, fk_contact bigint,
        object_id uuid, object_data jsonb, object_data_before jsonb, updated_fields text[], cascade jsonb,
        duration_ms int, started_at timestamptz, commit_time timestamptz,
        seq bigint default nextval('core.seq_entity_change_log'), actor_type text, acting_for uuid,
        schema_version text, trace_id text, trace_context jsonb, change_status text, extra_metadata jsonb,
        nats_published_at timestamptz, nats_event_id text);
    alter table core.tb_entity_change_log enable row level security";

const ID: &str = "00000000-0000-0000-0000-000000000001";

/// Rows with all that bites.
const ROWS: &str = r#"
    insert into core.tb_entity_change_log (object_type, modification_type, object_id, object_data, object_data_before,
        updated_fields, tenant_id, fk_customer_org, fk_contact, actor_type, trace_id, cascade, extra_metadata) values
    ('Post', 'INSERT', '00000000-0000-0000-0000-000000000001', '{"title": "a", "n": 1e400}', null, null, null, 7, 3,
        'human_user', 'abc', '{"updated": []}', '{"k": null}'),
    ('Post', 'UPDATE', '00000000-0000-0000-0000-000000000001', '{"title": "b \"q\" é"}', '{"title": "a"}',
        '{title,"odd, one"}', '00000000-0000-0000-0000-00000000000f', 7, null, 'ai_agent', null, null, null),
    ('Post', 'DELETE', null, '{}', null, null, null, null, null, null, null, null, null),
    ('Post', 'DELETE', null, '{"title": "c"}', null, null, null, null, null, null, null, null, null),
    ('Post', 'ARCHIVE', null, '[1, 2]', 'null', null, null, null, null, null, null, null, null),
    ('Post', 'NOOP', null, null, null, null, null, null, null, null, null, null, null),
    ('app.Comment', 'CUSTOM', null, '{"x": 1}', '{"x": 0}', null, null, null, null, null, null, null, null),
    ('Odd "name"', 'READ', null, '"text"', null, null, null, null, null, null, null, null, null),
    ('Post', 'INSERT', '00000000-0000-0000-0000-000000000002',
        '{"op": "u", "before": {"a": 1}, "after": {"a": 2}, "source": {}, "ts_ms": 5}', null, '{}', null, null, null, null,
        null, null, null),
    ('Post', 'INSERT', null, '{"op": "d", "before": {"a": 1}, "after": null}', null, null, null, null, null, null, null,
        null, null),
    ('Post', 'INSERT', null, '{"op": "x"}', null, null, null, null, null, null, null, null, null)"#;

fn posts(url: &str) -> String {
    observer(
        "posts",
        "core.Post",
        url,
        "  when: operation != 'Update' || changed('title')\n",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_events_by_a_trigger_and_by_the_log() {
    let source = Source::apart().await;
    migrate(&source.read).await.unwrap();
    source.run(LOG).await;
    source
        .run("select observer.track_entity_changes('core.tb_entity_change_log')")
        .await;
    let sink = sink().await;
    let tables = source
        .spec("      tables: [{table: core.tb_entity_change_log, contents: EntityChanges}]\n");
    let config = Config::new(
        &source.log_url(),
        &format!("{LONG_LEASE}{tables}"),
        &posts(&sink.url("/")),
    );
    let process = Process::run(&config);
    source.is_read().await;
    source.run(ROWS).await;
    source
        .run("update core.tb_entity_change_log set duration_ms = 1; delete from core.tb_entity_change_log where seq = 2")
        .await;
    source.run(ROWS).await;
    let by_trigger = logged(&source.read).await;
    assert_eq!(by_trigger.len(), 22, "of insertions only");
    source.logged(22).await;
    assert_eq!(by_trigger, logged(&source.log).await);
    let verbs: String = by_trigger.iter().take(11).map(|row| &*row.0).collect();
    assert_eq!(verbs, "iuddccccudi");
    // All but the verbs that are no change of a row, and the update without a title.
    let mut keys = keys_of(&sink, "/", 16).await;
    keys.sort();
    let bodies: Vec<Value> = told(&sink).into_iter().map(|one| one.body).collect();
    let update = bodies
        .iter()
        .find(|body| body["operation"] == "Update")
        .unwrap();
    assert_eq!(
        (
            &update["entity"],
            &update["key"],
            &update["tenant"],
            &update["changed"]
        ),
        (
            &json!("core.Post"),
            &json!(ID),
            &json!("00000000-0000-0000-0000-00000000000f"),
            &json!(["title"])
        )
    );
    let change = &update["new"]["_change"];
    assert_eq!(
        (
            &change["verb"],
            &change["actorType"],
            &change["changedFields"]
        ),
        (
            &json!("UPDATE"),
            &json!("ai_agent"),
            &json!(["title", "odd, one"])
        )
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_lost() {
    let source = Source::together().await;
    source.run(LOG).await;
    source
        .run("select observer.track_entity_changes('core.tb_entity_change_log')")
        .await;
    let sink = sink().await;
    let config = Config::new(&source.log_url(), LONG_LEASE, &posts(&sink.url("/")));
    let process = Process::run(&config);
    let mut late = source.read.acquire().await.unwrap();
    let insert = |id: &str| {
        sqlx::AssertSqlSafe(format!(
            "insert into core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
             values ('Post', 'INSERT', '00000000-0000-0000-0000-00000000000{id}', '{{}}')"
        ))
    };
    sqlx::raw_sql("begin").execute(&mut *late).await.unwrap();
    sqlx::raw_sql(insert("1"))
        .execute(&mut *late)
        .await
        .unwrap();
    for id in ["2", "3"] {
        sqlx::raw_sql(insert(id))
            .execute(&source.read)
            .await
            .unwrap();
    }
    keys_of(&sink, "/", 2).await;
    sqlx::raw_sql("commit").execute(&mut *late).await.unwrap();
    assert_eq!(keys_of(&sink, "/", 3).await[2], ID);
    source
        .run("select observer.untrack('core.tb_entity_change_log')")
        .await;
    process.stop().await;
}
