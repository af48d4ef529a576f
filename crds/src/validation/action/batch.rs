//! The rules for events that go out together that their schema cannot say.

use super::SHORTEST;
use crate::config::BatchConfig;
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::Batch;
use crate::validation::context::ValidationContext;

const LONGEST_LINGER: HumanDuration = HumanDuration::from_secs(60);

/// Turns a batch into its limits, with placeholders for what it reports.
pub(super) fn batch(
    at: &str,
    batch: Option<Batch>,
    context: &mut ValidationContext<'_>,
) -> Option<BatchConfig> {
    let batch = batch?;
    Some(BatchConfig {
        max_events: usize::try_from(batch.max_events).unwrap_or(usize::MAX),
        max_bytes: usize::try_from(batch.max_bytes).unwrap_or(usize::MAX),
        linger: context.check_range(&field(at, "linger"), batch.linger, SHORTEST, LONGEST_LINGER),
    })
}
