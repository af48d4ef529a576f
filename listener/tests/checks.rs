//! `check` refuses what can never work, with the likeliest remedy.

use crate::support::listener::Config;
use crate::support::program::{Ended, command};
use crate::support::{TestDb, database};

const DATABASE: &str = "postgres://127.0.0.1:1/shop";

/// An observer with these lines in its spec.
fn observer(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n{spec}\n---\n"
    )
}

/// An observer with one action.
fn acts(name: &str, action: &str) -> String {
    let on = "  events: {entity: public.orders, operations: [Insert, Update]}";
    observer(
        name,
        &format!("{on}\n  actions:\n    - name: act\n{action}"),
    )
}

/// An observer with a condition.
fn when(name: &str, operations: &str, when: &str) -> String {
    let on = format!("  events: {{entity: public.orders, operations: [{operations}]}}");
    observer(
        name,
        &format!("{on}\n  when: '{when}'\n  actions:\n    - name: act\n      log: {{}}"),
    )
}

async fn check(observers: &[String]) -> Ended {
    let config = Config::new(DATABASE, "", &observers.concat());
    command(&["check", "-f", config.path().to_str().unwrap()]).await
}

/// Asserts that each text stands in what is refused, which has as many problems.
async fn refused(observers: &[String], texts: &[&str]) {
    let ended = check(observers).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    for text in texts {
        assert!(ended.err.contains(text), "{text:?} in {}", ended.said());
    }
    let problems = format!("\n{} problems", texts.len());
    assert!(ended.err.contains(&problems), "{}", ended.said());
}

#[tokio::test]
async fn actions_that_can_never_work_are_refused() {
    let hook = "      webhook: {url: {value: \"https://hooks.example.com/\"}";
    let slack = "      slack: {url: {value: \"https://hooks.slack.com/x\"}";
    let email = "smtp: {host: mail.example.com}, to: [a@example.com], subject: x, text: x}";
    let postgres = "      postgres: {url: {value: \"postgres://db.example.com/x\"}";
    refused(
        &[
            acts("a-filter", &format!("{hook}, body: '{{\"a\": {{{{ new.a|monye }}}}}}'}}")),
            acts("b-body", &format!("{hook}, body: 'Order {{{{ new.id }}}}'}}")),
            acts("c-blocks", &format!("{slack}, blocks: '[{{\"text\": \"x\"}}]'}}")),
            acts("d-from", &format!("      email: {{from: Shop, {email}")),
            acts("e-parameter", &format!("{postgres}, statement: 'select $2', parameters: [\"{{{{ key }}}}\"]}}")),
            acts("f-address", "      webhook: {url: {value: \"http://10.0.0.1/\"}}"),
            acts("f-own", "      postgres: {statement: select 1}"),
            acts("g-old", "      log: {message: '{{ old.a }}'}").replace(", Update", ""),
        ],
        &[
            "default/a-filter: spec.actions[0].webhook.body: line 1: there is no filter monye; did you mean money?",
            "default/b-body: spec.actions[0].webhook.body: never comes out as JSON",
            "default/c-blocks: spec.actions[0].slack.blocks: block 1 has no type",
            "default/d-from: spec.actions[0].email.from: is no address: there is no @ in it",
            "default/e-parameter: spec.actions[0].postgres.statement: uses $2, and there is one parameter, $1",
            "default/f-address: spec.actions[0].webhook.url: egress to 10.0.0.1 is denied (its address is private)",
            "default/f-own: spec.actions[0].postgres: statements in the listener's own database are not allowed",
            "default/g-old: spec.actions[0].log.message: there is no `old` in events of Insert: write `new`",
        ],
    )
    .await;
}

#[tokio::test]
async fn impossible_conditions_are_rejected_with_all_errors() {
    refused(
        &[
            when("a", "Delete", "new.total > 1"),
            when("b", "Insert", "old.total > 1"),
            when(
                "c",
                "Insert",
                "timestamp(new.due) - timestamp(new.at) > duration(\"5 days\")",
            ),
            when("d", "Insert", "new.code.matches(\"(\")"),
            when("e", "Insert", "nwe.total > 1 || chnged(\"total\")"),
            when("f", "Insert", "new.total >"),
        ],
        &[
            "default/a: spec.when: there is no `new` in events of Delete: write `old`",
            "default/b: spec.when: there is no `old` in events of Insert: write `new`",
            "\"5 days\" is no duration; write hours",
            "the pattern of `matches` cannot be used: unclosed group",
            "unknown name `nwe`; did you mean `new`?",
            "unknown function `chnged`; did you mean `changed`?",
            "something is missing at the end",
        ],
    )
    .await;
}

#[tokio::test]
async fn likely_mistakes_have_likely_remedies() {
    let plain = acts("a", "      webhook: {url: \"https://hooks.example.com/\"}");
    refused(
        &[
            plain,
            when("b", "Insert", "x").replace("'x'", "!changed(\"status\")"),
        ],
        &[
            "webhook.url: expected a mapping, found text; write {value: ...} around it",
            "put a value that begins with `!` in quotes",
        ],
    )
    .await;
}

#[tokio::test]
async fn what_may_work_passes() {
    let hook = "      webhook: {url: {value: \"http://127.0.0.1:9/\"}";
    let ended = check(&[
        acts("a", &format!("{hook}, body: '{{\"a\": {{{{ new.a|default(0)|money }}}}, \"b\": \"x{{{{ key }}}}\"}}'}}")),
        acts("b", &format!("{hook}, body: '{{% if new.a is defined %}}{{{{ new.a }}}}{{% else %}}null{{% endif %}}'}}")),
        acts("c", &format!("{hook}, body: 'Order {{{{ new.id }}}}', contentType: text/plain}}")),
        when("d", "Delete", "old != null && old.total > 1"),
        when("e", "Insert", "has(old.total) ? old.total > 1 : new.total > 1"),
    ])
    .await;
    assert!(ended.ok().starts_with("ok: "));
}

/// Observers of orders, none of which runs anywhere, and the ids of past events by their keys.
async fn past_orders() -> (TestDb, Config, Vec<String>) {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total int, note text);
         select observer.track('orders');
         insert into orders values (1, 2000, 'a'), (2, 5, null);
         update orders set total = 3000 where id = 1;
         delete from orders where id = 2",
    )
    .await;
    let observers = when(
        "large",
        "Insert, Update",
        "new.total > 1000 && changed(\"total\")",
    ) + &when("cheap", "Delete", "old.total < 10")
        + &when("odd", "Insert", "new.note.size() > 0");
    let config = Config::new(&db.url, "", &observers);
    let list = ["events", "list", "-o", "json", "--database-url", &db.url];
    let listed = command(&list).await.ok();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let ids = listed
        .iter()
        .rev()
        .map(|one| one["id"].as_str().unwrap().to_owned());
    let ids = ids.collect();
    (db, config, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn past_events_show_what_observers_would_do() {
    let (db, config, ids) = past_orders().await;
    let file = config.path();
    let file = file.to_str().unwrap();
    // As lists, receivers and people write them: whole, of a delivery, and as a number.
    let [first, second] = [ids[0].as_str(), ids[1].as_str()];
    let of_delivery = format!("{second}.0123456789abcdef");
    let number = ids[3].split('-').nth(1).unwrap();
    let check = [
        "check",
        "-f",
        file,
        "--event",
        first,
        "--event",
        &of_delivery,
        "--event",
        number,
    ];
    let text = command(&check).await.ok();
    for told in [
        "ok: listener default/test with 3 observers and 3 actions",
        &format!("{first}: Insert of public.orders, key 1, at "),
        "default/large: matches\n  act\n",
        "default/cheap: does not match, it does not watch Insert",
        "default/large: does not match, `new.total > 1000` is false",
        "default/odd: fails, and each of its actions becomes a dead letter: ",
        "default/cheap: matches",
    ] {
        assert!(text.contains(told), "{told:?} in:\n{text}");
    }
    let json = command(&[&check[..], &["-o", "json"]].concat()).await.ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["observers"], 3);
    let matched = |event: usize| {
        let observers = json["events"][event]["observers"].as_array().unwrap();
        let matched = observers.iter().filter(|one| one["matches"] == true);
        let names: Vec<&str> = matched
            .map(|one| one["observer"].as_str().unwrap())
            .collect();
        names.join(" ")
    };
    assert_eq!(matched(0), "default/large default/odd");
    assert_eq!(matched(1), "");
    assert_eq!(matched(2), "default/cheap", "the deleted row");
    let of = |event: usize, name: &str| {
        let observers = json["events"][event]["observers"].as_array().unwrap();
        let is_it = |one: &&serde_json::Value| one["observer"] == *format!("default/{name}");
        observers.iter().find(is_it).unwrap()
    };
    let sent = &of(2, "cheap")["actions"][0]["sends"];
    assert!(!sent.as_array().unwrap().is_empty(), "{json}");
    let odd = of(1, "odd");
    assert!(
        odd["failure"].is_string() && odd["matches"] == false,
        "{odd}"
    );

    let checkpoints: i64 = db.value("select count(*) from observer.checkpoint").await;
    assert_eq!(checkpoints, 0, "nothing was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_the_log_no_longer_holds_are_named_after_the_others() {
    let (db, config, ids) = past_orders().await;
    db.run("delete from observer.change_log where key = '2'")
        .await;
    let file = config.path();
    let file = file.to_str().unwrap();
    let check = ["check", "-f", file, "--event", &ids[1], "--event", &ids[0]];
    let ended = command(&check).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(
        ended.out.contains("default/large: matches"),
        "{}",
        ended.said()
    );
    let told = format!(
        "there is no event {}; the change log holds events since",
        ids[1]
    );
    assert!(ended.err.contains(&told), "{}", ended.said());
    let ended = command(&["check", "-f", file, "--event", "no-file.json"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(
        ended.err.contains("no-file.json is no id of an event"),
        "{}",
        ended.said()
    );
}

#[tokio::test]
async fn problems_are_printed_for_programs_too() {
    let text = when("a", "Insert", "nwe.total > 1") + &when("b", "Insert", "new.total >");
    let config = Config::new(DATABASE, "", &text);
    let ended = command(&["check", "-o", "json", "-f", config.path().to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(
        json["problems"][0]["path"], "Observer default/a: spec.when",
        "{json}"
    );
    assert!(json["problems"][1]["line"].is_u64(), "{json}");
}
