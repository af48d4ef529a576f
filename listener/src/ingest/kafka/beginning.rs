//! The beginning of a session: saved offsets are compared with what the brokers have, and the consumer is placed.

use std::collections::BTreeMap;

use crds::config::{InitialOffset, OnOffsetLost};
use krafka::Kafka;
use krafka::consumer::{Consumer, TopicPartition};

use super::super::error::IngestError;
use super::KafkaSession;
use super::cluster::{self, Found, FoundTopic};
use super::offsets::{Gap, OffsetStore, Partition, SavedOffset};

/// What is read from now on.
#[derive(Debug)]
pub(super) struct Begun {
    /// Partitions that are read, and from where.
    pub(super) next: BTreeMap<Partition, i64>,
    /// The topics that exist.
    pub(super) topics: BTreeMap<String, FoundTopic>,
    /// What is not read, for people: topics that do not exist, and partitions without a leader.
    pub(super) left_out: Vec<String>,
}

/// Places the consumer after what is saved, and records where that is.
pub(super) async fn begin(
    session: &KafkaSession<'_>,
    store: &OffsetStore,
    (kafka, consumer): (&Kafka, &Consumer),
) -> Result<Begun, IngestError> {
    let source = session.source;
    let id = cluster::id(kafka).await?;
    let (saved_cluster, saved) = store.saved().await?;
    if let Some(saved) = saved_cluster.as_ref().filter(|saved| **saved != id) {
        return Err(IngestError::ForeignCluster {
            name: super::source_name(source),
            saved: saved.clone(),
            found: id,
        });
    }
    let initial = match saved_cluster {
        None => source.initial_offset,
        Some(_) => InitialOffset::Earliest,
    };
    let (mut next, mut lost) = (BTreeMap::new(), Vec::new());
    let (mut topics, mut left_out) = (BTreeMap::new(), Vec::new());
    for topic in &source.topics {
        let Some(topic) = cluster::topic(consumer, &topic.topic).await? else {
            left_out.push(format!(
                "there is no topic {}, or it may not be seen",
                topic.topic
            ));
            continue;
        };
        let (found, failed) = cluster::partitions(consumer, &topic).await;
        let mut known = cluster::found_topic(&topic);
        for (partition, error) in failed {
            // Where a source is to begin must be known of all that it has.
            if saved_cluster.is_none() {
                return Err(error.into());
            }
            left_out.push(format!(
                "partition {partition} of the topic {} cannot be read: {error}",
                topic.name
            ));
            // It is looked for again.
            known.partitions = 0;
        }
        topics.insert(topic.name.clone(), known);
        for (partition, found) in found {
            match judge(saved.get(&partition), &found, initial) {
                Judged::Read(offset) => next.insert(partition, of(&found, offset)),
                Judged::Lost(why) => {
                    let from = saved.get(&partition).map_or(0, |saved| saved.next);
                    lost.push((partition.clone(), why, from));
                    next.insert(partition, of(&found, found.offsets.0))
                }
            };
        }
    }
    if let Some((partition, why, next)) = lost.first()
        && source.on_offset_lost == OnOffsetLost::Stop
    {
        return Err(IngestError::OffsetLost {
            topic: partition.0.clone(),
            partition: partition.1,
            why: why.clone(),
            next: *next,
        });
    }
    let gaps: Vec<Gap> = lost.into_iter().map(|one| gap(one, &next)).collect();
    let listed: Vec<&str> = source.topics.iter().map(|topic| &*topic.topic).collect();
    store.begin((&id, &listed), &next, &gaps).await?;
    for gap in &gaps {
        let (topic, partition) = &gap.partition;
        tracing::error!(
            topic,
            partition,
            from = gap.offsets.0,
            to = gap.offsets.1,
            "the topic {}: records in between are lost, and reading goes on with the earliest",
            gap.reason
        );
        session.metrics.gaps.inc();
    }
    let next: BTreeMap<Partition, i64> = next
        .into_iter()
        .map(|(partition, saved)| (partition, saved.next))
        .collect();
    let mut assigned = BTreeMap::<&str, Vec<i32>>::new();
    for (topic, number) in next.keys() {
        assigned.entry(topic).or_default().push(*number);
    }
    for (topic, numbers) in assigned {
        consumer.assign(topic, numbers).await?;
    }
    let places = next
        .iter()
        .map(|((topic, partition), next)| (TopicPartition::new(topic, *partition), *next));
    consumer.seek_many(places).await?;
    Ok(Begun {
        next,
        topics,
        left_out,
    })
}

fn of(found: &Found, next: i64) -> SavedOffset {
    SavedOffset {
        topic_id: found.topic_id.clone(),
        next,
    }
}

fn gap(
    (partition, reason, from): (Partition, String, i64),
    next: &BTreeMap<Partition, SavedOffset>,
) -> Gap {
    let to = next.get(&partition).map_or(from, |saved| saved.next);
    Gap {
        offsets: (from, to),
        // Of a topic that was made again, nobody knows.
        records: (to - from).max(0),
        partition,
        reason,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// From this offset on.
    Read(i64),
    /// What comes after the saved offset is gone.
    Lost(String),
}

/// Decides where a partition is read from.
fn judge(saved: Option<&SavedOffset>, found: &Found, initial: InitialOffset) -> Judged {
    let (first, end) = found.offsets;
    let Some(saved) = saved else {
        return Judged::Read(match initial {
            InitialOffset::Latest => end,
            InitialOffset::Earliest => first,
        });
    };
    let is_known = !saved.topic_id.is_empty() && !found.topic_id.is_empty();
    if is_known && saved.topic_id != found.topic_id {
        return Judged::Lost("was deleted and made again".to_owned());
    }
    if saved.next < first {
        return Judged::Lost(format!("begins at {first}, as older records were removed"));
    }
    if saved.next > end {
        return Judged::Lost(format!("ends at {end}, before what was read"));
    }
    Judged::Read(saved.next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(topic_id: &str, offsets: (i64, i64)) -> Found {
        Found {
            topic_id: topic_id.to_owned(),
            offsets,
        }
    }

    #[test]
    fn reading_goes_on_only_where_all_that_comes_next_is_there() {
        let saved = of(&found("a", (0, 0)), 5);
        let judged = |found: &Found| judge(Some(&saved), found, InitialOffset::Latest);
        for there in [found("a", (0, 9)), found("a", (5, 5)), found("", (0, 9))] {
            assert_eq!(judged(&there), Judged::Read(5));
        }
        for gone in [found("a", (6, 9)), found("a", (0, 4)), found("b", (0, 9))] {
            assert!(matches!(judged(&gone), Judged::Lost(_)), "{gone:?}");
        }
    }

    #[test]
    fn a_new_source_begins_where_it_is_to() {
        let there = found("a", (3, 9));
        assert_eq!(judge(None, &there, InitialOffset::Latest), Judged::Read(9));
        assert_eq!(
            judge(None, &there, InitialOffset::Earliest),
            Judged::Read(3)
        );
    }
}
