//! Which processes of a listener are alive, as far as its database tells: asked before something is
//! done that only suits a listener at rest.

use sqlx::{PgPool, Row};

use super::process;

/// How recent a save or a claim is that tells of a process which is alive.
const RECENT_SECONDS: f64 = 60.0;

/// What was found of a process.
#[derive(Debug)]
struct Sign {
    /// As the process named itself there.
    name: String,
    /// The identity that tells which process of which machine it is, if known.
    identity: String,
    /// Whether it is one of somebody who is alive; otherwise it only says how somebody was named.
    alive: bool,
}

/// Names of the processes of a listener that are alive or may be. There are three signs: a Lease in
/// the database that was renewed in time; a worker of the job queue that gives signs of life; and,
/// as in a cluster the Leases are elsewhere, who holds a shard and has saved of late. At rest nothing
/// is saved, so where there are no Leases here a holder counts too as long as any listener is
/// connected, and has been for longer than whoever asks. One of this machine that has ended does not count.
pub async fn present(pool: &PgPool, listener: &str) -> Result<Vec<String>, sqlx::Error> {
    let found = sqlx::query(
        "with leases as (
             select lease->'spec'->>'holderIdentity' as holder,
                    (lease->'spec'->>'renewTime')::timestamptz
                        + make_interval(secs => (lease->'spec'->>'leaseDurationSeconds')::float8)
                        > clock_timestamp() as alive
             from observer.lease where listener = $1 and name <> ''
         )
         select holder, bool_or(coalesce(alive, false)), holder from leases where holder <> '' group by holder
         union all
         select c.holder, bool_or(
             greatest(c.saved_at, c.claimed_at) > clock_timestamp() - make_interval(secs => $2)
             or not exists (select from leases) and exists (
                 select from pg_stat_activity a
                 where a.application_name = 'observer-listener' and a.datname = current_database()
                     and a.backend_start < clock_timestamp() - interval '10 s')), c.holder
         from observer.checkpoint c where c.listener = $1 and c.holder <> '' group by c.holder
         union all
         select w.name, true, coalesce(w.name || '_' || m.uid || '_', w.name)
         from observer.job_worker w
         left join observer.member m on m.listener = $1 and m.name = w.name
         where w.queue = observer.job_queue_of($1) and w.expires_at > clock_timestamp()",
    )
    .bind(listener)
    .bind(RECENT_SECONDS)
    .fetch_all(pool)
    .await?;
    let signs: Result<Vec<Sign>, sqlx::Error> = found
        .iter()
        .map(|row| {
            Ok(Sign {
                name: row.try_get(0)?,
                alive: row.try_get(1)?,
                identity: row.try_get(2)?,
            })
        })
        .collect();
    Ok(alive(&signs?, process::ended()))
}

/// An identity is a member's name and more; a worker is named as the member alone.
fn alive(signs: &[Sign], ended: impl Fn(&str) -> bool) -> Vec<String> {
    let of_member = |identity: &Sign, name: &str| {
        let rest = identity.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('_'))
    };
    let mut names: Vec<String> = signs
        .iter()
        .filter(|sign| sign.alive && !ended(&sign.identity))
        .filter(|sign| !signs.iter().any(|other| of_member(other, &sign.name)))
        .map(|sign| sign.name.clone())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(name: &str, alive: bool) -> Sign {
        Sign {
            name: name.to_owned(),
            identity: name.to_owned(),
            alive,
        }
    }

    #[test]
    fn each_process_that_is_alive_is_named_once() {
        let ended = |name: &str| name == "b-2_x_1";
        let signs = [
            sign("a-1_x_1", true),
            sign("a-1_x_1", true),
            // Its worker.
            sign("a-1", true),
            sign("b-2_x_1", true),
            // The worker of one that has ended.
            sign("b-2", true),
            sign("c-3_x_1", false),
            sign("only-jobs", true),
        ];
        assert_eq!(alive(&signs, ended), ["a-1_x_1", "only-jobs"]);
    }
}
