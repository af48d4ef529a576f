//! What receivers were told, and what was set aside.

use serde_json::Value;
use testkit::http_sink::{Received, Sink};

use super::{TestDb, while_progressing_or};

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
    let accepted = received.iter().filter(|one| one.is_accepted());
    accepted.map(read).collect()
}

fn read(one: &Received) -> Told {
    let body = str::from_utf8(&one.body).unwrap();
    Told {
        id: one.webhook_id.clone(),
        path: one.target().to_owned(),
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
    let look = async || {
        let keys = keys(sink, path);
        if keys.len() >= count {
            Ok(keys)
        } else {
            Err(sink.counts().requests)
        }
    };
    while_progressing_or(look, async || {
        let (keys, counts) = (keys(sink, path), sink.counts());
        format!("{count} deliveries at {path}, of {keys:?} it was told; {counts:?}")
    })
    .await
}

/// Observer, key, kind and error of a dead letter.
type Letter = (String, Option<String>, String, String);

/// All dead letters, once there are so many.
pub(crate) async fn letters(db: &TestDb, count: usize) -> Vec<Letter> {
    let all = async || -> Vec<Letter> {
        let letters = sqlx::query_as(
            "select split_part(observer, '/', 2), key, error_kind, error
             from observer.dead_letter order by observer, log_id",
        );
        letters.fetch_all(&db.pool).await.unwrap()
    };
    let look = async || {
        let letters = all().await;
        if letters.len() >= count {
            Ok(letters)
        } else {
            Err(letters.len())
        }
    };
    while_progressing_or(look, async || {
        let all = all().await;
        format!("{count} dead letters, and there are {}: {all:?}", all.len())
    })
    .await
}
