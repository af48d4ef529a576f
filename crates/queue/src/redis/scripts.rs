//! The scripts, each behind what they share. The server keeps them by their digest, and is given
//! one again when it has forgotten it.

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
script!(UNTAKE, "untake.lua");
script!(HELD, "held.lua");
script!(FINISH, "finish.lua");
script!(WORKER, "worker.lua");
script!(RELEASE, "release.lua");
script!(KEEP, "keep.lua");
script!(AUDIT, "audit.lua");
script!(FIRSTS, "firsts.lua");
script!(FIGURES, "figures.lua");
script!(SELECT, "select.lua");
