//! Status of a membership, as one process sees it.

/// What a process knows of its fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipStatus {
    /// Identity of this process; none while it is not a member.
    pub identity: Option<String>,
    /// Number of live members, this one included.
    pub members: usize,
    /// Number of shards in the layout.
    pub shard_count: u16,
    /// Assignment of each shard, in order.
    pub shards: Vec<ShardAssignment>,
    /// Error that keeps this process from reading or writing the Leases, and since when.
    pub outage: Option<String>,
}

/// What a process knows of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardAssignment {
    /// Index of the shard.
    pub shard: u16,
    /// Identity of the live member that owns it.
    pub holder: Option<String>,
    /// Whether this process holds it.
    pub held: bool,
    /// Whether it is assigned to this process, which does not hold it yet.
    pub pending: bool,
}
