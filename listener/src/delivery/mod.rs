//! The words of a delivery, which all rooms share.

pub mod attempt;
pub mod event;
pub mod failure;
pub mod outcome;
pub mod retry_policy;

use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::event::Event;
use crate::text::hex::hex;

/// An action of an observer, by their names.
pub type ActionName = (Arc<str>, Arc<str>);

/// The name of a delivery for ever (`webhook-id`): the event's id, a dot, and 16 hexadecimal
/// digits that stand for the observer (`namespace/name`) and its action.
#[must_use]
pub fn delivery_id(event_id: &str, observer: &str, action: &str) -> String {
    let digest = Sha256::digest(format!("{observer}\n{action}"));
    format!("{event_id}.{}", hex(&digest[..8]))
}

/// One action of one observer on one event.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Names the replay that it is part of; nothing for a first delivery.
    pub replay: Option<Arc<str>>,
}

impl Delivery {
    /// Its name for ever; see [`delivery_id`].
    #[must_use]
    pub fn id(&self) -> String {
        delivery_id(&self.event.id, &self.observer, &self.action)
    }

    /// The name of what takes effect once: a replay does once more.
    #[must_use]
    pub fn effect_id(&self) -> String {
        match &self.replay {
            Some(replay) => format!("{}~{replay}", self.id()),
            None => self.id(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::delivery_id;

    #[test]
    fn a_delivery_s_id_never_changes_and_is_its_own() {
        let id = delivery_id("a1b2-42", "default/big-orders", "notify");
        assert_eq!(id, "a1b2-42.f910b3a3ad0d74fe");
        assert_ne!(id, delivery_id("a1b2-42", "default/big-orders", "mail"));
        assert_ne!(id, delivery_id("a1b2-42", "shop/big-orders", "notify"));
        assert_ne!(id, delivery_id("a1b2-43", "default/big-orders", "notify"));
    }
}
