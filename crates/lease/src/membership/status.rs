//! What a process knows of its fleet.

/// What a process knows of its fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipStatus {
    /// The identity of this process; none while it is no member.
    pub identity: Option<String>,
    /// How many processes take part, this one included.
    pub members: usize,
    /// How many shards there are to be.
    pub shard_count: u16,
    /// Each of them, in order.
    pub shards: Vec<ShardAssignment>,
    /// What keeps this process from knowing or writing the Leases, and since when.
    pub outage: Option<String>,
}

/// What a process knows of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardAssignment {
    /// The shard.
    pub shard: u16,
    /// The identity of the member that owns it.
    pub holder: Option<String>,
    /// Whether this process holds it.
    pub held: bool,
    /// Whether it is planned for this process, which does not hold it yet.
    pub pending: bool,
}
