//! The conditions by which kstatus judges a listener, beside `Ready`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::StatusInput;
use crate::conditions::{ConditionStatus, ConditionValue, RECONCILING, STALLED};
use crate::listener::validate::BUNDLE_TOO_LARGE;

/// Rejections that only a change of the resource ends. Others may end by themselves: a Secret is created a moment
/// later, an object of the same name is collected, a quota is raised.
const FINAL: [&str; 2] = ["Invalid", BUNDLE_TOO_LARGE];

impl StatusInput<'_> {
    /// Returns what kstatus cannot tell from `Ready`: whether the resource itself is wrong, and whether pods that are
    /// ready run what was applied before.
    pub(super) fn kstatus(
        &self,
        progressing: &Condition,
    ) -> Option<(&'static str, ConditionValue)> {
        if let Some(rejection) = self.rejection {
            let is_final = FINAL.contains(&&*rejection.reason);
            let (reason, message) = (&*rejection.reason, &*rejection.message);
            let value = ConditionValue::new(ConditionStatus::True, reason, message);
            return is_final.then_some((STALLED, value));
        }
        let (reason, message) = (&*progressing.reason, &*progressing.message);
        let value = ConditionValue::new(ConditionStatus::True, reason, message);
        let is_on_its_way = progressing.status == "True" || reason == "RolloutStuck";
        is_on_its_way.then_some((RECONCILING, value))
    }
}
