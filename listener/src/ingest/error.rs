//! Why a source is not read.

use crds::pod_status::{OFFSET_LOST, SLOT_LOST, SOURCE_NOT_READ};
use krafka::KrafkaError;
use pgoutput::DecodeError;
use pgwire_replication::{Lsn, PgWireError};

use crate::database::DatabaseError;
use crate::tracking::step::StepFailure;

/// Why a source is not read.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The change log cannot be written.
    #[error("cannot write the change log: {}", ::queue::describe_error(.0))]
    Log(#[source] sqlx::Error),
    /// The source's database cannot be asked.
    #[error("cannot read the catalog of the source: {}", ::queue::describe_error(.0))]
    Catalog(#[source] sqlx::Error),
    /// Its URL cannot be used, or it is not there.
    #[error("the source: {0}")]
    Database(#[from] DatabaseError),
    /// The replication session failed.
    #[error("the replication session failed: {0}")]
    Session(#[from] PgWireError),
    /// The brokers do not answer, or refuse.
    #[error("the brokers: {0}")]
    Kafka(#[from] KrafkaError),
    /// It is another cluster.
    #[error(
        "the brokers are of the cluster {found}, and what is in the change log is of {saved}: point spec.source.kafka.brokers at that, or, \
         to go on with this one, delete the row of {name} in observer.source (all that its topics hold is then read as by \
         initialOffset)"
    )]
    ForeignCluster {
        /// Name of the source.
        name: String,
        /// Cluster of what is saved.
        saved: String,
        /// Cluster that was found.
        found: String,
    },
    /// Another process reads the source without one of this listener's topics.
    #[error(
        "the topic {topic} is not read: the listener that reads the source {name} lists other topics. List the same in all \
         listeners of this database with that name, or set another spec.source.kafka.name"
    )]
    TopicNotRead {
        /// The topic.
        topic: String,
        /// Name of the source.
        name: String,
    },
    /// A topic does not hold what comes next.
    #[error(
        "partition {partition} of the topic {topic} {why}, and the next record to read is {next}: records are missing. Set \
         spec.source.kafka.onOffsetLost: Earliest to record the gap and go on with the earliest record"
    )]
    OffsetLost {
        /// The topic.
        topic: String,
        /// Number of the partition.
        partition: i32,
        /// What is wrong with it.
        why: String,
        /// What is saved.
        next: i64,
    },
    /// What it sent cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Another process has taken over.
    #[error("another process reads the source now")]
    Fenced,
    /// A table or a type is not known yet, which is read with the next session.
    #[error("the tables have changed; opening the session again")]
    CatalogOutdated,
    /// The server is set up for no logical decoding.
    #[error("the server of the source has wal_level {0}: set wal_level = logical and restart it")]
    WalLevel(String),
    /// Its texts may be of any encoding.
    #[error(
        "the database of the source has the encoding SQL_ASCII, so nobody knows what its texts are: read one with UTF8 \
         or another encoding"
    )]
    Encoding,
    /// What is needed is missing and may not be made by this user.
    #[error(
        "{what}, and the user may not change that ({reason}): have it done by its owner: {sql};"
    )]
    Rights {
        /// What is missing.
        what: String,
        /// What the server says.
        reason: String,
        /// The statements that make it.
        sql: String,
    },
    /// A table is logged by triggers too.
    #[error(
        "{0} is in the publication and tracked by triggers, so each of its changes would be logged twice: end one of \
         them, as by `select observer.untrack('{0}')`"
    )]
    TrackedTwice(String),
    /// The slot is of something else.
    #[error("the slot {slot} is {what}: name another one in spec.source.wal.slot, or drop it")]
    ForeignSlot {
        /// The slot.
        slot: String,
        /// What it is.
        what: String,
    },
    /// It is another server, or another database.
    #[error(
        "{found} is read, and what is in the change log is of {saved}: lead the URL of the source to that, or, to go on \
         with this one, delete the row of {name} in observer.source (what was written in between is not delivered)"
    )]
    ForeignServer {
        /// Name of the source.
        name: String,
        /// Server and database of what is saved.
        saved: String,
        /// Server and database that were found.
        found: String,
    },
    /// A restore or a failover lost what was read already.
    #[error(
        "the server is on timeline {timeline}, which left the old one at {switched}, and the change log has the old one's \
         changes up to {saved}: the server lost changes that were delivered. To go on from where it is, delete the row of \
         {name} in observer.source"
    )]
    Diverged {
        /// Name of the source.
        name: String,
        /// Timeline of the server.
        timeline: u32,
        /// Where it left the old one.
        switched: Lsn,
        /// What is saved.
        saved: Lsn,
    },
    /// The slot does not hold what comes next.
    #[error(
        "the slot {slot} {why}: changes after {saved} are missing. Set spec.source.wal.onSlotLost: Recreate to record the \
         gap and go on with a new slot"
    )]
    SlotLost {
        /// The slot.
        slot: String,
        /// What is wrong with it.
        why: String,
        /// What is saved.
        saved: Lsn,
    },
}

impl From<IngestError> for StepFailure {
    fn from(error: IngestError) -> Self {
        let reason = error.condition();
        match error {
            IngestError::Rights {
                what,
                reason: why,
                sql,
            } => Self {
                reason,
                why: format!("{what}, and the user may not change that ({why})"),
                sql: Some(sql),
            },
            error => Self {
                reason,
                why: error.to_string(),
                sql: None,
            },
        }
    }
}

impl IngestError {
    /// Returns a short word for metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Log(_) => "change_log",
            Self::Catalog(_) | Self::Database(_) => "database",
            Self::Session(_) => "session",
            Self::Decode(_) => "decode",
            Self::Fenced => "fenced",
            Self::CatalogOutdated => "catalog",
            Self::WalLevel(_) | Self::Encoding | Self::Rights { .. } => "setup",
            Self::TrackedTwice(_) => "tracked_twice",
            Self::ForeignSlot { .. } => "foreign_slot",
            Self::ForeignServer { .. } => "foreign_server",
            Self::Diverged { .. } => "diverged",
            Self::SlotLost { .. } => "slot_lost",
            Self::Kafka(_) => "brokers",
            Self::ForeignCluster { .. } => "foreign_cluster",
            Self::OffsetLost { .. } => "offset_lost",
            Self::TopicNotRead { .. } => "topic_not_read",
        }
    }

    /// Returns the reason of the condition that it is told by.
    pub(crate) fn condition(&self) -> &'static str {
        match self {
            Self::SlotLost { .. } => SLOT_LOST,
            Self::OffsetLost { .. } => OFFSET_LOST,
            _ => SOURCE_NOT_READ,
        }
    }

    /// Whether only a person can do something about it, so that it is tried again less often.
    pub(crate) fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::WalLevel(_)
                | Self::Encoding
                | Self::Rights { .. }
                | Self::TrackedTwice(_)
                | Self::ForeignSlot { .. }
                | Self::ForeignServer { .. }
                | Self::Diverged { .. }
                | Self::SlotLost { .. }
                | Self::ForeignCluster { .. }
                | Self::OffsetLost { .. }
                | Self::TopicNotRead { .. }
                | Self::Kafka(KrafkaError::Auth { .. } | KrafkaError::Config { .. })
        )
    }
}
