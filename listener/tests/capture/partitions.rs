//! Partitioned tables and inheritance: one event a row, under the root's name.

use super::{changes, events};
use crate::support;

const TABLE: &str = "
create table t (id int, place text, v text, primary key (id, place)) partition by list (place);
create table a partition of t for values in ('a');
create table b (v text, place text not null, id int not null);
alter table t attach partition b for values in ('b');
create table c partition of t for values in ('c') partition by range (id);
create table c1 partition of c for values from (0) to (100);
select observer.track('t', key => '{id}')";

#[tokio::test]
async fn by_the_root_or_a_partition_it_is_one_event_of_the_root() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run(
        "insert into t values (1, 'a', 'x'), (2, 'b', 'x'), (3, 'c', 'x');
         insert into b (id, place, v) values (4, 'b', 'x'); insert into c values (5, 'c', 'x');
         update c1 set v = 'y' where id = 5; delete from b where id = 4",
    )
    .await;
    assert_eq!(
        changes(&db).await,
        ["i 1", "i 2", "i 3", "i 4", "i 5", "u 5", "d 4"]
    );
    let entities: String = db
        .value("select string_agg(distinct entity, ' ') from observer.change_log")
        .await;
    assert_eq!(entities, "public.t");
    assert_eq!(
        db.value::<String>("select string_agg(entity, ' ') from observer.tracked")
            .await,
        "public.t"
    );
}

#[tokio::test]
async fn rows_that_move_are_updates_of_the_same_row() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run(
        "insert into t select g, 'a', 'v' || g from generate_series(1, 50) g; truncate observer.change_log;
         update t set place = case id % 3 when 0 then 'a' when 1 then 'b' else 'c' end",
    )
    .await;
    let right: i64 = db
        .value(
            "select count(*) from observer.change_log where operation = 'u' and key = new ->> 'id'
             and old ->> 'v' = new ->> 'v' and old ->> 'id' = new ->> 'id'",
        )
        .await;
    assert_eq!(right, 50);
}

#[tokio::test]
async fn a_move_that_a_trigger_suppresses_is_a_delete() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run(
        "create function skip() returns trigger language plpgsql as 'begin return null; end';
         create trigger skip before insert on b for each row when (new.id = 2) execute function skip();
         insert into t values (1, 'a', 'x'), (2, 'a', 'x'), (3, 'a', 'x'); truncate observer.change_log;
         update t set place = 'b'",
    )
    .await;
    let mut got = events(&db).await;
    got.sort();
    assert_eq!(
        got,
        [
            r#"d public.t 2 {"id":2,"place":"a","v":"x"} -"#,
            r#"u public.t 1 {"id":1,"place":"a","v":"x"} {"id":1,"place":"b","v":"x"}"#,
            r#"u public.t 3 {"id":3,"place":"a","v":"x"} {"id":3,"place":"b","v":"x"}"#,
        ]
    );
}

#[tokio::test]
async fn a_truncate_of_the_whole_is_one_event() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("truncate t").await;
    assert_eq!(changes(&db).await, ["t -"]);
    db.run("truncate b").await;
    assert_eq!(changes(&db).await, ["t -", "t -"]);
    db.run("begin; truncate t; insert into t values (1, 'a'); truncate t; commit")
        .await;
    assert_eq!(changes(&db).await[2..], ["t -", "i 1", "t -"]);
}

#[tokio::test]
async fn partitions_come_and_go() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("create table d partition of t for values in ('d'); insert into t values (1, 'd', 'x')")
        .await;
    db.run("insert into d values (2, 'd', 'x')").await;
    assert_eq!(changes(&db).await, ["i 1"]);
    db.run("select observer.track('t', key => '{id}'); insert into d values (3, 'd', 'x')")
        .await;
    assert_eq!(changes(&db).await, ["i 1", "i 3"]);
    db.run("alter table t detach partition a; insert into a values (4, 'a', 'x')")
        .await;
    assert_eq!(
        events(&db).await[2],
        r#"i public.a 4 - {"id":4,"place":"a","v":"x"}"#
    );
    db.run("select observer.untrack('t'); insert into d values (5, 'd', 'x')")
        .await;
    assert_eq!(changes(&db).await.len(), 3);
}

#[tokio::test]
async fn children_are_logged_under_the_name_that_the_statement_names() {
    let db = support::database().await;
    db.run(
        "create table parent (id int primary key); create table child (extra int) inherits (parent);
         select observer.track('parent'); insert into child values (1, 2); update parent set id = 3",
    )
    .await;
    assert_eq!(
        events(&db).await,
        [
            r#"d public.parent 1 {"id":1} -"#,
            r#"i public.parent 3 - {"id":3}"#
        ]
    );
}
