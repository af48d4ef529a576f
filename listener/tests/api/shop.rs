//! A shop of two tenants: orders, dead letters, jobs and a history of each.

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, ready};
use crate::support::told::letters;
use crate::support::{TestDb, database, eventually_or};

/// Orders of each tenant.
pub(crate) const ORDERS: usize = 5;

/// Tokens, one of each kind.
pub(crate) const ALL: &str = "operates-on-all-tenants";
pub(crate) const READER: &str = "reads-of-all-tenants";
pub(crate) const ACME: &str = "operates-on-acme-alone";
pub(crate) const GLOBEX: &str = "reads-of-globex-alone";

/// An observer whose deliveries end at this path.
fn observer(name: &str, tenant: Option<&str>, url: &str) -> String {
    let tenant = tenant.map_or_else(String::new, |tenant| format!("  tenant: {tenant}\n"));
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n{tenant}  when: \"new.id > 0\"\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{url}\"}}}}\n      \
         retry: {{attempts: 20, initialBackoff: 24h, maxBackoff: 24h}}\n---\n"
    )
}

/// The shop, its listener, and what the API answers.
pub(crate) struct Shop {
    pub(crate) db: TestDb,
    pub(crate) process: Process,
    /// Where the API is.
    pub(crate) address: String,
    /// Files of the listener.
    pub(crate) config: Config,
    _sinks: [Sink; 2],
}

impl Shop {
    /// Opens it: every order is a dead letter of one observer, and a job of the observer of its tenant.
    pub(crate) async fn open() -> Self {
        let db = database().await;
        db.run(
            "create table orders (id int primary key, tenant text, note text, card text);
             select observer.track('orders', tenant => 'tenant')",
        )
        .await;
        let refusing = Sink::start(Behaviour::Status(400)).await.unwrap();
        let away = Sink::start(Behaviour::Status(503)).await.unwrap();
        let observers = observer("all", None, &refusing.url("/"))
            + &observer("of-acme", Some("acme"), &away.url("/"))
            + &observer("of-globex", Some("globex"), &away.url("/"));
        let token = |name: &str, value: &str, role: &str, tenant: &str| {
            format!("{{name: {name}, token: {{value: {value}}}, role: {role}{tenant}}}")
        };
        let tokens = [
            token("all", ALL, "Operate", ""),
            token("reader", READER, "Read", ""),
            token("acme", ACME, "Operate", ", tenant: acme"),
            token("globex", GLOBEX, "Read", ", tenant: globex"),
        ];
        let spec = format!(
            "  search: {{postgres: {{}}, redact: [card]}}\n  api: {{tokens: [{}]}}\n  console: {{}}\n",
            tokens.join(", ")
        );
        let config = Config::new(&db.url, &spec, &observers);
        let (health, address) = (free_address(), free_address());
        let args = ["run", "--listen", &health, "--api-listen", &address, "-f"];
        let process = Process::start(&args, &config.path());
        ready(&health, 200).await;
        db.run(&format!(
            "insert into orders
             select n + base, tenant, 'marker of ' || tenant || ' ' || n, 'card-of-' || tenant
             from generate_series(1, {ORDERS}) n, (values (0, 'acme'), (100, 'globex')) t(base, tenant)"
        ))
        .await;
        letters(&db, 2 * ORDERS).await;
        let shop = Self {
            db,
            process,
            address,
            config,
            _sinks: [refusing, away],
        };
        shop.settles().await;
        shop
    }

    /// Waits until jobs and documents are there, and documents tell of both deliveries of each order.
    async fn settles(&self) {
        let look = async || {
            let status = self.json(ALL, "/status").await;
            let found = self.json(ALL, "/search?facets=true&limit=1000").await;
            let of = |outcome: &str| {
                let outcomes = found["facets"]["outcome"].as_array().cloned();
                let outcomes = outcomes.unwrap_or_default();
                let bucket = outcomes.iter().find(|one| one["value"] == outcome);
                bucket.map_or(0, |one| one["count"].as_u64().unwrap())
            };
            let all = 2 * ORDERS as u64;
            let jobs = status["jobs"]["scheduled"] == all;
            // A report may be written before the event is read.
            let mut items = found["items"].as_array().unwrap().iter();
            let read = items.all(|one| {
                one["observers"]
                    .as_array()
                    .is_some_and(|all| all.len() == 3)
            });
            (jobs && read && of("deadLetter") == all && of("retrying") == all).then_some(())
        };
        eventually_or(look, async || {
            let status = self.json(ALL, "/status").await;
            let found = self.json(ALL, "/search?facets=true&limit=1").await;
            format!("jobs and documents are there: {status}, {found}")
        })
        .await;
    }

    /// Makes a request, and again where it is one too many for a moment.
    pub(crate) async fn ask(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Response {
        loop {
            let url = format!("http://{}/api/observers{path}", self.address);
            let request = Client::new()
                .request(method.clone(), url)
                .bearer_auth(token);
            let request = match &body {
                Some(body) => request.json(body),
                None => request,
            };
            let answer = request.send().await.unwrap();
            if answer.status() != 429 {
                return answer;
            }
            let after = answer.headers()["retry-after"].to_str().unwrap();
            let after = after.parse().unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(after)).await;
        }
    }

    /// Status and body of an answer.
    pub(crate) async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        let answer = self.ask(token, Method::GET, path, None).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Body of an answer.
    pub(crate) async fn json(&self, token: &str, path: &str) -> Value {
        let (status, body) = self.get(token, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// How many a change says that it changed.
    pub(crate) async fn change(&self, token: &str, path: &str, body: Value) -> u64 {
        let answer = self.ask(token, Method::POST, path, Some(body)).await;
        let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert_eq!(status, 200, "{path}: {body}");
        assert_eq!(body, json!({"count": body["count"]}));
        body["count"].as_u64().unwrap()
    }
}

/// Texts of a field of all items.
pub(crate) fn texts(page: &Value, field: &str) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    let text = |one: &Value| match &one[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    items.map(text).collect()
}
