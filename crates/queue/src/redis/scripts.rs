//! Lua scripts, each behind the common prelude. The server caches them by digest and gets one again if it
//! has lost it.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/common.lua"),
                include_str!(concat!("scripts/", $file))
            ))
        });
    };
}

script!(ENQUEUE, "enqueue.lua");
script!(CLAIM, "claim.lua");
script!(RETURN_UNCONFIRMED, "return_unconfirmed.lua");
script!(VERIFY_CLAIMS, "verify_claims.lua");
script!(COMPLETE, "complete.lua");
script!(HEARTBEAT, "heartbeat.lua");
script!(RELEASE_WORKER, "release_worker.lua");
script!(MAINTENANCE, "maintenance.lua");
script!(REPAIR, "repair.lua");
script!(LANE_HEADS, "lane_heads.lua");
script!(STATS, "stats.lua");
script!(FILTER, "filter.lua");
