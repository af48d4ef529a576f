//! Every route of the console, tried by all who may not.

use reqwest::Method;

use super::{Page, Visitor};
use crate::api::shop::{ACME, ALL, GLOBEX, ORDERS, READER, Shop, texts};

/// What stands in values of the other tenant, and in the name of its observer.
const MARKERS: [&str; 3] = ["marker of globex", "card-of-globex", "of-globex"];

/// A path, and the fields of the form that is sent to it.
type Try = (String, Vec<(&'static str, String)>);

/// A route and how it is tried.
struct Case {
    method: Method,
    path: &'static str,
    /// What to try: of an id of acme's, and of one of globex's; the same where there is no id.
    tried: fn(&Ids) -> [Try; 2],
    /// Whether those of one tenant are refused.
    all_tenants: bool,
}

/// What there is of the two tenants, acme's first.
struct Ids {
    observers: [String; 2],
    events: [String; 2],
    dead_letters: [String; 2],
    jobs: [String; 2],
}

impl Ids {
    async fn of(shop: &Shop) -> Self {
        let first = async |path: &str, tenant: &str| {
            let page = shop
                .json(ALL, &format!("{path}?tenant={tenant}&limit=1"))
                .await;
            texts(&page, "id").remove(0)
        };
        let both = async |path: &str| [first(path, "acme").await, first(path, "globex").await];
        Self {
            observers: ["default/of-acme", "default/of-globex"].map(str::to_owned),
            events: both("/search").await,
            dead_letters: both("/dead-letters").await,
            jobs: both("/jobs").await,
        }
    }
}

/// A page without an id.
const fn page(path: &'static str, tried: fn(&Ids) -> [Try; 2]) -> Case {
    Case {
        method: Method::GET,
        path,
        tried,
        all_tenants: false,
    }
}

fn same(path: &str) -> [Try; 2] {
    [(path.to_owned(), Vec::new()), (path.to_owned(), Vec::new())]
}

fn each(ids: &[String; 2], path: impl Fn(&str) -> String) -> [Try; 2] {
    ids.each_ref().map(|id| (path(id), Vec::new()))
}

/// All routes. One that is missing here fails the test.
fn cases() -> Vec<Case> {
    let for_all_tenants = |path, tried| Case {
        all_tenants: true,
        ..page(path, tried)
    };
    vec![
        page("/console", |_| same("/console")),
        page("/console/observers", |_| same("/console/observers")),
        page("/console/observers/{id}", |ids| {
            each(&ids.observers, |id| {
                format!("/console/observers/{}", id.replace('/', "%2F"))
            })
        }),
        page("/console/events", |_| same("/console/events")),
        page("/console/events/{id}", |ids| {
            each(&ids.events, |id| format!("/console/events/{id}"))
        }),
        page("/console/live", |_| same("/console/live")),
        page("/console/dead-letters", |_| same("/console/dead-letters")),
        page("/console/dead-letters/{id}", |ids| {
            each(&ids.dead_letters, |id| {
                format!("/console/dead-letters/{id}")
            })
        }),
        page("/console/jobs", |_| same("/console/jobs")),
        page("/console/jobs/{id}", |ids| {
            each(&ids.jobs, |id| format!("/console/jobs/{id}"))
        }),
        for_all_tenants("/console/backfills", |_| same("/console/backfills")),
        for_all_tenants("/console/caches", |_| same("/console/caches")),
        for_all_tenants("/console/audit", |_| same("/console/audit")),
        page("/console/acts/{id}", |ids| {
            each(&ids.dead_letters, |id| {
                format!("/console/acts/drop-dead-letters?id={id}")
            })
        }),
        Case {
            method: Method::POST,
            path: "/console/acts/{id}",
            tried: |ids| {
                ids.dead_letters.each_ref().map(|id| {
                    (
                        "/console/acts/redrive-dead-letters".to_owned(),
                        vec![("fields", format!("id={id}"))],
                    )
                })
            },
            all_tenants: false,
        },
    ]
}

/// Asserts that somebody is sent to the login, and sees nothing.
fn is_sent_away(page: &Page, what: &str) {
    let location = page.location.as_deref().unwrap_or_default();
    let is_login = location.starts_with("/console/login");
    assert!(
        page.status == 303 && is_login && page.body.is_empty(),
        "{what}: {}",
        page.status
    );
}

async fn try_as(case: &Case, visitor: &Visitor, (path, form): &Try) -> Page {
    let form: Vec<_> = form.iter().map(|(name, value)| (*name, &**value)).collect();
    match case.method {
        Method::GET => {
            let page = visitor.get(path).await;
            // A page that begins now has its place in its address.
            let on = page
                .location
                .clone()
                .filter(|on| on.starts_with("/console/live"));
            match on {
                Some(on) => visitor.get(&on).await,
                None => page,
            }
        }
        _ => visitor.post(path, &form).await,
    }
}

/// Those who are nobody: without a cookie, or with one that is worth nothing.
async fn strangers(shop: &Shop, admin: &Visitor) -> [(&'static str, Visitor); 4] {
    let nobody = Visitor::new(&shop.address);
    let mut forged = nobody.clone();
    let (name, value) = admin.cookie.as_deref().unwrap().split_once('=').unwrap();
    forged.cookie = Some(format!("{name}=A{}", &value[1..]));
    let left = Visitor::with_token(&shop.address, ALL).await;
    let stolen = left.clone();
    let page = left.post("/console/logout", &[]).await;
    assert_eq!(
        (page.status, page.location.as_deref()),
        (303, Some("/console/login"))
    );
    let over = Visitor::with_token(&shop.address, GLOBEX).await;
    shop.db
        .run(
            "update observer.console_session set expires_at = now() where digest = (
                 select digest from observer.console_session order by expires_at desc limit 1)",
        )
        .await;
    [
        ("nobody", nobody),
        ("forged", forged),
        ("stolen", stolen),
        ("over", over),
    ]
}

/// Tries a route as one tenant, with what is its own and with what is another's.
async fn try_as_tenant(case: &Case, acme: &Visitor, tried: &[Try; 2], operate: bool, hidden: &str) {
    let [own, others] = tried;
    for path in tried {
        let page = try_as(case, acme, path).await;
        let fits = match page.status {
            200 => !case.all_tenants && (path == own || own == others),
            303 => operate,
            404 => path != own,
            403 => case.all_tenants,
            _ => false,
        };
        assert!(fits, "acme at {path:?}: {} {}", page.status, page.body);
        // What they asked for may be named.
        let body = page.body.replace(hidden, "");
        for marker in MARKERS {
            assert!(
                !body.contains(marker),
                "acme at {path:?} sees {marker}: {body}"
            );
        }
    }
}

/// Tries to change what is another tenant's in all ways.
async fn try_changes(acme: &Visitor, ids: &Ids) {
    let fields = [
        "all=true&tenant=globex".to_owned(),
        "all=true&observer=default/of-globex".to_owned(),
        format!("id={}", ids.dead_letters[1]),
        format!("id={}", ids.jobs[1]),
    ];
    for act in [
        "redrive-dead-letters",
        "drop-dead-letters",
        "retry-jobs",
        "cancel-jobs",
    ] {
        for fields in &fields {
            acme.post(&format!("/console/acts/{act}"), &[("fields", fields)])
                .await;
        }
    }
    for act in ["reset-breakers", "invalidate-caches", "start-backfill"] {
        for fields in ["all=true", "entity=public.orders"] {
            let page = acme
                .post(&format!("/console/acts/{act}"), &[("fields", fields)])
                .await;
            assert_ne!(page.status, 303, "{act}: {}", page.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_or_does_what_is_not_theirs() {
    let mut shop = Shop::open().await;
    let (ids, cases) = (Ids::of(&shop).await, cases());
    let known: Vec<_> = console::route_list().collect();
    let of = |case: &Case| {
        let mut all = known.iter();
        all.find(|one| one.path == case.path && one.is_read == (case.method == Method::GET))
    };
    for route in &known {
        let is_tried =
            |case: &Case| case.path == route.path && (case.method == Method::GET) == route.is_read;
        assert!(cases.iter().any(is_tried), "no case for {route:?}");
    }
    assert_eq!(known.len(), cases.len());

    let admin = Visitor::with_token(&shop.address, ALL).await;
    let strangers = strangers(&shop, &admin).await;
    let reader = Visitor::with_token(&shop.address, READER).await;
    let acme = Visitor::with_token(&shop.address, ACME).await;
    for case in &cases {
        let tried = (case.tried)(&ids);
        let own = &tried[0];
        for (who, stranger) in &strangers {
            is_sent_away(
                &try_as(case, stranger, own).await,
                &format!("{who} at {own:?}"),
            );
        }
        let operate = of(case).is_some_and(|route| route.operate);
        let page = try_as(case, &reader, own).await;
        let expected = if operate { 403 } else { 200 };
        assert_eq!(page.status, expected, "reader at {own:?}: {}", page.body);
        try_as_tenant(case, &acme, &tried, operate, &ids.observers[1]).await;
        if case.method != Method::GET {
            for origin in ["http://evil.example", "null", "", "http://127.0.0.1"] {
                let form = [("fields", "all=true")];
                let page = admin.send(Method::POST, &own.0, Some(&form), origin).await;
                assert_eq!(page.status, 403, "{own:?} from {origin:?}");
            }
        }
    }
    try_changes(&acme, &ids).await;
    // Whatever was tried, what is globex's is as it was.
    for list in ["/dead-letters", "/jobs"] {
        let theirs = shop
            .json(ALL, &format!("{list}?tenant=globex&limit=1000"))
            .await;
        assert_eq!(texts(&theirs, "id").len(), ORDERS, "{list}");
    }

    // A token that is taken away ends its sessions.
    assert_eq!(reader.get("/console").await.status, 200);
    shop.config.change(READER, "another-token-of-the-reader");
    shop.process.signal("HUP").await;
    shop.process
        .says("configuration reloaded: observers replaced")
        .await;
    is_sent_away(&reader.get("/console").await, "reader without a token");
    assert_eq!(admin.get("/console").await.status, 200);
}
