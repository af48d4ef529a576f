//! Rate limits.

use super::context::ValidationContext;
use crate::config::RateLimit;
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1;

const SHORTEST: HumanDuration = HumanDuration::from_millis(1);
const LONGEST: HumanDuration = HumanDuration::from_secs(24 * 3600);

/// A limit, with a placeholder for what it reports.
pub(crate) fn rate_limit(
    at: &str,
    limit: Option<v1alpha1::RateLimitSpec>,
    context: &mut ValidationContext<'_>,
) -> Option<RateLimit> {
    let limit = limit?;
    Some(RateLimit {
        attempts: limit.attempts,
        per: context.check_range(&field(at, "per"), limit.per, SHORTEST, LONGEST),
    })
}
