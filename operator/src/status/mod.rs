//! What the operator says about listeners and observers: pure functions from what was seen.

mod listener;
mod observer;
mod ready;
mod receivers;
mod shards;
mod workers;

pub use listener::{Pod, Refused, Seen, converged, keep_figures, listener};
pub use observer::observer;
pub use shards::Free;
pub use workers::Workers;
