//! Statements in the listener's own database, and what they may not do there.

use crate::effects::{config, count, observer, orders, own_config};
use crate::support::listener::Process;
use crate::support::program::command;
use crate::support::told::letters;
use crate::support::{amounts_to, database, statement_login};

/// What a statement may try, and what refuses it. As the listener's own user, all but the last three do
/// what they say.
const HOSTILE: [(&str, &str, &str); 13] = [
    (
        "claim",
        "insert into observer.processed_delivery (listener, delivery_id) values ('default/test', 'x')",
        "42501",
    ),
    ("forget", "delete from observer.processed_delivery", "42501"),
    (
        "read-secret",
        "select secret from observer.claim_secret",
        "42501",
    ),
    ("read-log", "select new from observer.change_log", "42501"),
    ("erase", "delete from observer.change_log", "42501"),
    (
        "move",
        "do $$ begin reset role; update observer.checkpoint set last_id = 0; end $$",
        "42501",
    ),
    (
        "move-2",
        "do $$ begin set session authorization default; truncate observer.checkpoint; end $$",
        "42501",
    ),
    ("settle", "delete from observer.dead_letter", "42501"),
    (
        "end",
        "select observer.drop_listener('default/other')",
        "42501",
    ),
    ("emit", "select observer.emit('public.orders')", "42501"),
    (
        "claim-another",
        "select observer.claim_delivery('default/test', $1)",
        "no such listener or delivery",
    ),
    (
        "claim-for-another",
        "select observer.claim_delivery('default/other', repeat('a', 64))",
        "no such listener or delivery",
    ),
    ("commit", "do $$ begin commit; end $$", "2D000"),
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_statements_change_nothing_of_the_listeners() {
    let db = orders().await;
    db.run("create table billed (id int)").await;
    let bill = "insert into public.billed values ($1::int)";
    let id = &["{{ new.id }}"][..];
    let mut observers = observer("bill", "", bill, id);
    for (name, statement, _) in HOSTILE {
        let parameters = if statement.contains("$1") { id } else { &[] };
        observers += &observer(name, "", statement, parameters);
    }
    // One that ends its transaction has its own claim settled without an effect, and no more.
    observers += &observer("finish", "", "commit", &[]);
    let config = own_config(&db, &observers, "billed").await;
    let process = Process::run(&config);
    db.run("insert into orders values (7)").await;
    let found = letters(&db, HOSTILE.len()).await;
    amounts_to("effects", 1, async || count(&db, "billed").await).await;
    amounts_to("claims", 2, async || {
        count(&db, "observer.processed_delivery").await
    })
    .await;
    process.stop().await;
    for (name, _, told) in HOSTILE {
        let (_, _, kind, error) = found.iter().find(|letter| letter.0 == name).unwrap();
        assert_eq!(kind, "status", "{name}: {error}");
        assert!(error.contains(told), "{name}: {error}");
    }
    assert_eq!(count(&db, "observer.processed_delivery").await, 2);
    assert_eq!(count(&db, "observer.change_log").await, 1);
    // The listener's own user may do it, so that it was the login that kept them from it.
    for (name, statement, _) in &HOSTILE[..10] {
        assert!(!statement.contains("$1"), "{name}");
        db.run(&format!("begin; {statement}; rollback")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_too_much_or_too_little_runs_no_statement() {
    let db = orders().await;
    let elsewhere = database().await;
    let fit = statement_login(&db, "orders").await;
    let make = async |name: &str, more: &str, grants: &str| {
        let role = db.role(name, &format!("login password 'x' {more}")).await;
        let grants = grants.replace("ROLE", &role);
        let grants = grants.replace(
            "EXECUTE",
            "grant execute on function observer.claim_delivery to",
        );
        db.run(&grants).await;
        db.url_as(&role, "x")
    };
    let base = "grant usage on schema observer to ROLE; EXECUTE ROLE; ";
    let group = db.role("keepers", "nologin").await;
    db.run(&format!("grant update on observer.checkpoint to {group}"))
        .await;
    let member = format!("{base} grant {group} to ROLE");
    let letters_of = format!("{base} grant update (error) on observer.dead_letter to ROLE");
    let ending = format!("{base} grant execute on function observer.drop_listener to ROLE");
    let cases = [
        (db.url.clone(), "who is a superuser"),
        (
            make("maker", "createrole", base).await,
            "who may make itself a member of other roles",
        ),
        (
            make("member", "noinherit", &member).await,
            "who may write to tables of the schema observer (as a member of keepers",
        ),
        (
            make("writer", "", &letters_of).await,
            "who may write to tables of the schema observer:",
        ),
        (make("caller", "", &ending).await, "who may call functions"),
        (
            make("stranger", "", "select 1").await,
            "grant execute on function observer.claim_delivery to stranger",
        ),
        (
            elsewhere.url.clone(),
            "leads to another database than spec.database.url",
        ),
    ];
    let config = config(&db, &observer("own", "", "select 1", &[]));
    let egress = |url: &str| {
        format!("egress: {{allow: [127.0.0.0/8], ownDatabase: {{url: {{value: \"{url}\"}}}}}}")
    };
    config.change("egress: {allow: [127.0.0.0/8]}", &egress(&fit));
    let path = config.path();
    let check = ["check", "--online", "-f", path.to_str().unwrap()];
    command(&check).await.ok();
    let mut last = fit.clone();
    for (url, told) in cases {
        config.change(&egress(&last), &egress(&url));
        last = url;
        let ended = command(&check).await;
        assert_eq!(ended.code, Some(2), "{told}: {}", ended.said());
        let place = "ObserverListener default/test: spec.egress.ownDatabase.url: ";
        assert!(ended.err.contains(place), "{}", ended.said());
        assert!(ended.err.contains(told), "{told}: {}", ended.said());
    }
    // What runs is told the same.
    config.change(&egress(&last), &egress(&db.url));
    let process = Process::run(&config);
    db.run("insert into orders values (7)").await;
    let [(_, _, kind, error)] = letters(&db, 1).await.try_into().unwrap();
    process.stop().await;
    assert_eq!(kind, "egress", "{error}");
    assert!(error.contains("who is a superuser"), "{error}");
}
