//! What happens before a deleted listener may go: its progress and dead letters are removed from
//! the database, because a listener that is gone would hold back the removal of old events for ever.
//!
//! A deletion never hangs on a database: it is bounded in time, and tried once only where the
//! namespace goes too or nothing says where the database is. Then the rows stay, and an Event says so.

use std::time::Duration;

use crds::config::Redacted;
use k8s_openapi::jiff::Timestamp;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

/// Keeps a listener until its rows are gone.
pub const FINALIZER: &str = "observers.fraiseql.dev/rows";

/// How long a deletion may wait for the rows to go.
const PATIENCE: Duration = Duration::from_mins(1);

/// How much of that the pods may take to stop.
const PODS_PATIENCE: Duration = Duration::from_secs(45);

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the removal may take.
const FORGET_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at pods that stop, and the first wait after a failure.
pub const PAUSE: Duration = Duration::from_secs(1);

/// The schema or the function is not there: `invalid_schema_name`, `undefined_function`.
const NOTHING_KEPT: [&str; 2] = ["3F000", "42883"];

/// Parameters of a URL that may be repeated to the driver: it logs others that it does not know,
/// and any may hold a secret.
const PARAMETERS: [&str; 8] = [
    "sslmode", "ssl-mode", "host", "hostaddr", "port", "dbname", "user", "password",
];

/// What there is to do for a listener that is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after [`PAUSE`]: its pods are still at work.
    Wait,
    /// Remove the rows. The last try lets go whatever comes of it.
    Forget {
        /// Whether there is no other.
        last: bool,
    },
}

/// What the deletion of a listener waits for.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    /// Since when it is being deleted.
    pub since: Timestamp,
    /// Whether pods of it are left, or its Deployment.
    pub pods: bool,
    /// Whether its namespace goes too.
    pub terminating: bool,
    /// Whether it is known where the database is.
    pub url: bool,
}

/// Decides what to do next. Pods that work would write rows anew.
#[must_use]
pub fn step(going: Going, now: Timestamp) -> Step {
    let lasts = now.duration_since(going.since);
    let longer = |bound: Duration| lasts.is_positive() && lasts.unsigned_abs() >= bound;
    if going.pods && !longer(PODS_PATIENCE) {
        return Step::Wait;
    }
    Step::Forget {
        last: going.terminating || !going.url || longer(PATIENCE),
    }
}

/// Why rows could not be removed. No message holds the URL.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Nothing says where the database is.
    #[error("the Secret with the URL of the database is gone")]
    NoUrl,
    /// The URL is none.
    #[error("the URL of the database cannot be read")]
    Url,
    /// The database cannot be reached or refuses.
    #[error("the database refuses: {0}")]
    Database(#[from] sqlx::Error),
    /// The database does not answer.
    #[error("the database does not answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// Removes what is kept under an identity by a listener in a namespace. Answers how many rows that
/// were.
pub async fn forget(
    url: Option<&Redacted>,
    namespace: &str,
    identity: &str,
) -> Result<i64, ForgetError> {
    let options = options(url.ok_or(ForgetError::NoUrl)?, namespace)?;
    let connecting = sqlx::PgConnection::connect_with(&options);
    let mut connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| ForgetError::Late(CONNECT_TIMEOUT))??;
    let query = sqlx::query_scalar::<_, i64>("select observer.forget($1)")
        .bind(identity)
        .persistent(false)
        .fetch_one(&mut connection);
    let rows = tokio::time::timeout(FORGET_TIMEOUT, query)
        .await
        .map_err(|_| ForgetError::Late(FORGET_TIMEOUT))?;
    // Whether the goodbye arrives does not matter.
    let _ = tokio::time::timeout(PAUSE, connection.close()).await;
    match rows {
        Err(sqlx::Error::Database(error))
            if error
                .code()
                .is_some_and(|code| NOTHING_KEPT.contains(&&*code)) =>
        {
            Ok(0)
        }
        other => Ok(other?),
    }
}

fn options(url: &Redacted, namespace: &str) -> Result<PgConnectOptions, ForgetError> {
    let mut url = url::Url::parse(url.reveal()).map_err(|_| ForgetError::Url)?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(ForgetError::Url);
    }
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| PARAMETERS.contains(&&**name))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    if let Some(name) = url
        .host_str()
        .and_then(|host| seen_from_here(host, namespace))
    {
        url.set_host(Some(&name)).map_err(|_| ForgetError::Url)?;
    }
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    let options = PgConnectOptions::from_url(&url).map_err(|_| ForgetError::Url)?;
    Ok(options
        .application_name("observer-operator")
        .disable_statement_logging())
}

/// What the operator must call a Service that the pods of a namespace know by its name alone.
fn seen_from_here(host: &str, namespace: &str) -> Option<String> {
    let is_service = !host.contains(['.', ':', '%']) && host != "localhost";
    is_service.then(|| format!("{host}.{namespace}.svc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_the_namespace_is_called_by_its_longer_name() {
        assert_eq!(seen_from_here("pg", "shop").as_deref(), Some("pg.shop.svc"));
        for same in [
            "pg.shop",
            "db.example.com",
            "10.0.0.1",
            "[::1]",
            "localhost",
            "%2Frun",
        ] {
            assert_eq!(seen_from_here(same, "shop"), None, "{same}");
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn going(pods: bool, terminating: bool, url: bool) -> Going {
        Going {
            since: at(100),
            pods,
            terminating,
            url,
        }
    }

    #[test]
    fn pods_stop_first_for_a_while() {
        assert_eq!(step(going(true, false, true), at(100)), Step::Wait);
        assert_eq!(step(going(true, true, false), at(144)), Step::Wait);
        assert_eq!(
            step(going(true, false, true), at(145)),
            Step::Forget { last: false }
        );
        assert_eq!(
            step(going(false, false, true), at(101)),
            Step::Forget { last: false }
        );
    }

    #[test]
    fn it_is_tried_for_a_minute_or_once() {
        assert_eq!(
            step(going(false, false, true), at(160)),
            Step::Forget { last: true }
        );
        for (terminating, url) in [(true, true), (false, false)] {
            assert_eq!(
                step(going(false, terminating, url), at(101)),
                Step::Forget { last: true }
            );
        }
    }

    #[test]
    fn a_clock_that_is_behind_does_not_cut_it_short() {
        assert_eq!(
            step(going(false, false, true), at(0)),
            Step::Forget { last: false }
        );
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_not_shown() {
        let url = Redacted::new("postgres//user:hidden@db");
        let error = forget(Some(&url), "shop", "shop/shop")
            .await
            .map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("the URL of the database cannot be read".to_owned())
        );
    }
}
