//! What the operator says about listeners and observers: pure functions from what was seen.

mod listener;
mod observer;

pub use listener::{Pod, Refused, Seen, converged, keep_figures, lag, listener};
pub use observer::observer;
