//! What receivers were told, and what was set aside.

use serde_json::Value;
use testkit::http_sink::{Received, Sink};

use super::TestDb;
use super::eventually;

/// A delivery that its receiver accepted.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// Everything that was accepted, in order of arrival.
pub(crate) fn told(sink: &Sink) -> Vec<Told> {
    let received = sink.received();
    let accepted = received.iter().filter(|one| one.status == Some(200));
    accepted.map(read).collect()
}

fn read(one: &Received) -> Told {
    let body = str::from_utf8(&one.body).unwrap();
    Told {
        id: one.webhook_id.clone(),
        path: one.line.split(' ').nth(1).unwrap().to_owned(),
        // Half of a surrogate pair is passed on as it is, and refused by the parser here.
        body: serde_json::from_str(&body.replace("\\ud800", "?")).unwrap(),
    }
}

/// Keys of the events that were accepted at a path, in order of arrival.
pub(crate) fn keys(sink: &Sink, path: &str) -> Vec<String> {
    let told = told(sink).into_iter().filter(|one| one.path == path);
    told.map(|one| one.body["key"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until a path was told of so many events, and returns their keys.
pub(crate) async fn keys_of(sink: &Sink, path: &str, count: usize) -> Vec<String> {
    let what = format!("{count} deliveries at {path}");
    eventually(&what, async || {
        let keys = keys(sink, path);
        (keys.len() >= count).then_some(keys)
    })
    .await
}

/// Observer, key, kind and error of each dead letter, once there are so many.
pub(crate) async fn letters(
    db: &TestDb,
    count: usize,
) -> Vec<(String, Option<String>, String, String)> {
    eventually(&format!("{count} dead letters"), async || {
        let letters = sqlx::query_as(
            "select split_part(observer, '/', 2), key, error_kind, error
             from observer.dead_letter order by observer, log_id",
        );
        let letters: Vec<(String, Option<String>, String, String)> =
            letters.fetch_all(&db.pool).await.unwrap();
        (letters.len() >= count).then_some(letters)
    })
    .await
}
