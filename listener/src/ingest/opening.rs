//! Opening of a session: what is saved is compared with the server and the slot, on the session that is to
//! read, before it starts. A server would start anywhere.

use crds::config::{OnSlotLost, WalSourceConfig};
use pgwire_replication::{Lsn, ReplicationClient};

use super::connection::{CONNECT_TIMEOUT, open_session, query, timed_out};
use super::error::IngestError;
use super::store::{Origin, Progress, SourceClaim, SourceStore};
use crate::telemetry::source_metrics::SourceMetrics;
use crate::tracking::step::StepOutcome;

/// The slot as the server has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Slot {
    plugin: String,
    database: String,
    confirmed: Option<Lsn>,
    /// Why it holds nothing any more.
    invalid: Option<String>,
    /// The server's process that reads it.
    active_pid: Option<i32>,
}

/// Opens a session and has it read what comes after what is saved.
pub(crate) async fn open(
    (source, publication): (&WalSourceConfig, u32),
    (store, claim): (&SourceStore, &SourceClaim),
    metrics: &SourceMetrics,
) -> Result<(ReplicationClient, Progress), IngestError> {
    let slot_name = store.name();
    let from = claim
        .saved
        .as_ref()
        .map_or(Lsn::ZERO, |(_, progress)| progress.confirmed);
    let names = (slot_name, source.publication.as_str());
    let mut session = open_session(&source.database_url, names, from).await?;
    let asked = tokio::time::timeout(CONNECT_TIMEOUT, session.identify_system());
    let system = asked.await.map_err(|_| timed_out())??;
    let origin = Origin {
        system_identifier: system.system_id,
        timeline: system.timeline,
        database: system.dbname.unwrap_or_default(),
        publication,
    };
    if let Some((saved, progress)) = &claim.saved {
        check_origin(store.name(), &mut session, (saved, *progress), &origin).await?;
    }
    let slot = read_slot(&mut session, slot_name).await?;
    let saved = claim.saved.as_ref().map(|(_, progress)| *progress);
    let judged = judge(slot_name, slot.as_ref(), saved, &origin.database)?;
    // The server looks a publication up as it was when a change was written: what was written while there was
    // none is not sent, or ends each session.
    let made_again = claim
        .saved
        .as_ref()
        .is_some_and(|(saved, _)| saved.publication != publication);
    let judged = match judged {
        Judged::Read if made_again => {
            Judged::Lost("is from before its publication was made again".to_owned())
        }
        judged => judged,
    };
    let (progress, restart) = match judged {
        Judged::Read => (saved.unwrap_or_default(), false),
        Judged::Adopt(at) => (begin_at(at), true),
        Judged::Create => (
            begin_at(create(&mut session, slot_name, source.failover).await?),
            true,
        ),
        Judged::Lost(why) => {
            let saved = saved.unwrap_or_default();
            if source.on_slot_lost == OnSlotLost::Stop {
                return Err(IngestError::SlotLost {
                    slot: slot_name.to_owned(),
                    why,
                    saved: saved.confirmed,
                });
            }
            if slot.is_some() {
                let sql = format!("select pg_drop_replication_slot('{slot_name}')");
                query(&mut session, &sql).await?;
            }
            let at = create(&mut session, slot_name, source.failover).await?;
            tracing::error!(
                slot = slot_name,
                from = %saved.confirmed,
                to = %at,
                "the slot {why}: changes in between are lost, and reading goes on with a new slot"
            );
            store.record_gap(&why, saved.confirmed, at).await?;
            metrics.gaps.inc();
            (begin_at(at), true)
        }
    };
    if let Some(pid) = slot.as_ref().and_then(|slot| slot.active_pid) {
        // This process has the epoch: who reads is one that has lost it, or hangs.
        tracing::warn!(slot = slot_name, pid, "ending an older session of the slot");
        query(&mut session, &format!("select pg_terminate_backend({pid})")).await?;
    }
    store.begin(claim.epoch, &origin, progress).await?;
    if restart {
        // What was found is compared again on the session that is to read from there.
        return Err(IngestError::CatalogOutdated);
    }
    session.start().await?;
    let started = tokio::time::timeout(CONNECT_TIMEOUT, session.wait_started());
    started.await.map_err(|_| timed_out())??;
    Ok((session, progress))
}

/// Makes the slot of a source, if it is missing and was never read, so that it holds what is written from then on.
pub(crate) async fn prepare_slot(
    source: &WalSourceConfig,
    name: &str,
    saved: Option<Progress>,
    dry_run: bool,
) -> Result<StepOutcome, IngestError> {
    let names = (name, source.publication.as_str());
    let mut session = open_session(&source.database_url, names, Lsn::ZERO).await?;
    let asked = tokio::time::timeout(CONNECT_TIMEOUT, session.identify_system());
    let database = asked.await.map_err(|_| timed_out())??.dbname;
    let slot = read_slot(&mut session, name).await?;
    // It may be read at this moment.
    let slot = slot.map(|slot| Slot {
        active_pid: None,
        ..slot
    });
    let database = database.unwrap_or_default();
    Ok(match judge(name, slot.as_ref(), saved, &database)? {
        Judged::Read | Judged::Adopt(_) => StepOutcome::There,
        Judged::Create if dry_run => StepOutcome::Planned(creation(name, source.failover)),
        Judged::Create => {
            create(&mut session, name, source.failover).await?;
            StepOutcome::Done(creation(name, source.failover))
        }
        Judged::Lost(why) => {
            return Err(IngestError::SlotLost {
                slot: name.to_owned(),
                why,
                saved: saved.unwrap_or_default().confirmed,
            });
        }
    })
}

const fn begin_at(at: Lsn) -> Progress {
    Progress {
        confirmed: at,
        partial: None,
    }
}

/// Checks that the server has what is saved: it is the same, and has not left that history since.
async fn check_origin(
    name: &str,
    session: &mut ReplicationClient,
    (saved, progress): (&Origin, Progress),
    found: &Origin,
) -> Result<(), IngestError> {
    let text = |origin: &Origin| {
        format!(
            "database {} of server {}",
            origin.database, origin.system_identifier
        )
    };
    if saved.system_identifier != found.system_identifier || saved.database != found.database {
        return Err(IngestError::ForeignServer {
            name: name.to_owned(),
            saved: text(saved),
            found: text(found),
        });
    }
    let diverged = |switched| IngestError::Diverged {
        name: name.to_owned(),
        timeline: found.timeline,
        switched,
        saved: progress.confirmed,
    };
    if saved.timeline > found.timeline {
        return Err(diverged(Lsn::ZERO));
    }
    if saved.timeline < found.timeline {
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, session.timeline_history(found.timeline));
        let history = asked.await.map_err(|_| timed_out())??;
        let text = String::from_utf8_lossy(&history.content);
        let switched = switch_point(&text, saved.timeline).unwrap_or(Lsn::ZERO);
        if progress.confirmed > switched {
            return Err(diverged(switched));
        }
    }
    Ok(())
}

/// Returns where a history left a timeline. Each line has a timeline, where it was left, and why.
fn switch_point(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let of: u32 = words.next()?.parse().ok()?;
        let at = Lsn::parse(words.next()?).ok()?;
        (of == timeline).then_some(at)
    })
}

async fn read_slot(
    session: &mut ReplicationClient,
    name: &str,
) -> Result<Option<Slot>, IngestError> {
    // Columns that older servers lack are looked up by name in the row as JSON.
    let sql = format!(
        "select row_to_json(s)::jsonb ->> 'plugin', row_to_json(s)::jsonb ->> 'database',
                s.confirmed_flush_lsn::text,
                case when s.wal_status = 'lost'
                     then coalesce(row_to_json(s)::jsonb ->> 'invalidation_reason', 'wal_removed') end,
                s.active_pid::text
         from pg_catalog.pg_replication_slots s where s.slot_name = '{name}'"
    );
    let rows = query(session, &sql).await?;
    Ok(rows.into_iter().next().map(|row| {
        let mut row = row.into_iter();
        let mut next = || row.next().flatten();
        Slot {
            plugin: next().unwrap_or_default(),
            database: next().unwrap_or_default(),
            confirmed: next().and_then(|text| Lsn::parse(&text).ok()),
            invalid: next(),
            active_pid: next().and_then(|text| text.parse().ok()),
        }
    }))
}

/// Returns the statement that makes a slot.
fn creation(name: &str, failover: bool) -> String {
    let option = if failover { ", false, false, true" } else { "" };
    format!(
        "select lsn::text from pg_catalog.pg_create_logical_replication_slot('{name}', 'pgoutput'{option})"
    )
}

async fn create(
    session: &mut ReplicationClient,
    name: &str,
    failover: bool,
) -> Result<Lsn, IngestError> {
    let rows = query(session, &creation(name, failover)).await?;
    let lsn = rows.into_iter().flatten().flatten().next();
    let lsn = lsn
        .and_then(|text| Lsn::parse(&text).ok())
        .unwrap_or(Lsn::ZERO);
    tracing::info!(slot = name, at = %lsn, "replication slot created");
    Ok(lsn)
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// It holds what comes after what is saved.
    Read,
    /// Nothing is saved, and the slot is there: made by hand for this.
    Adopt(Lsn),
    /// Nothing is saved, and there is none.
    Create,
    /// Something is saved that it does not go on from.
    Lost(String),
}

/// Decides what is to be done with a slot.
fn judge(
    name: &str,
    slot: Option<&Slot>,
    saved: Option<Progress>,
    database: &str,
) -> Result<Judged, IngestError> {
    let Some(slot) = slot else {
        return Ok(match saved {
            None => Judged::Create,
            Some(_) => Judged::Lost("is gone".to_owned()),
        });
    };
    let foreign = |what: String| IngestError::ForeignSlot {
        slot: name.to_owned(),
        what,
    };
    if slot.plugin != "pgoutput" {
        return Err(foreign(format!("of the plugin {}", slot.plugin)));
    }
    if slot.database != database {
        return Err(foreign(format!("of the database {}", slot.database)));
    }
    if let Some(why) = &slot.invalid {
        return Ok(Judged::Lost(format!("is invalidated ({why})")));
    }
    Ok(match (saved, slot.confirmed) {
        (None, _) if slot.active_pid.is_some() => {
            return Err(foreign("read by another session".to_owned()));
        }
        (None, Some(at)) => Judged::Adopt(at),
        (None, None) => Judged::Adopt(Lsn::ZERO),
        (Some(saved), Some(at)) if at > saved.confirmed => {
            Judged::Lost(format!("is at {at}, ahead of what was read"))
        }
        (Some(_), _) => Judged::Read,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn slot(confirmed: u64) -> Slot {
        Slot {
            plugin: "pgoutput".to_owned(),
            database: "shop".to_owned(),
            confirmed: Some(Lsn(confirmed)),
            ..Slot::default()
        }
    }

    const SAVED: Option<Progress> = Some(begin_at(Lsn(5)));

    #[test]
    fn slot_is_read_only_if_it_goes_on_from_what_is_saved() {
        let judged = |slot: Option<&Slot>, saved| judge("s", slot, saved, "shop").unwrap();
        assert_eq!(judged(None, None), Judged::Create);
        assert_eq!(judged(Some(&slot(5)), None), Judged::Adopt(Lsn(5)));
        assert_eq!(judged(Some(&slot(5)), SAVED), Judged::Read);
        assert_eq!(judged(Some(&slot(4)), SAVED), Judged::Read);
        for lost in [None, Some(&slot(6))] {
            assert!(matches!(judged(lost, SAVED), Judged::Lost(_)));
        }
        let invalid = Slot {
            invalid: Some("wal_removed".to_owned()),
            ..slot(5)
        };
        assert!(matches!(judged(Some(&invalid), SAVED), Judged::Lost(_)));
    }

    #[test]
    fn slot_of_something_else_is_left_alone() {
        for other in [
            Slot {
                plugin: "test_decoding".to_owned(),
                ..slot(5)
            },
            Slot {
                database: "other".to_owned(),
                ..slot(5)
            },
            Slot {
                active_pid: Some(1),
                ..slot(5)
            },
        ] {
            let judged = judge("s", Some(&other), None, "shop");
            assert!(matches!(judged, Err(IngestError::ForeignSlot { .. })));
        }
    }

    #[test]
    fn switch_point_is_read_from_the_history() {
        let history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026\n";
        assert_eq!(switch_point(history, 1), Some(Lsn(0x300_0148)));
        assert_eq!(switch_point(history, 2), Some(Lsn(0x500_0000)));
        assert_eq!(switch_point(history, 3), None);
    }
}
