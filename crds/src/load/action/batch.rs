//! The rules for events that go out together that their schema cannot say.

use super::super::checks::Checks;
use super::super::report::field;
use super::SHORTEST;
use crate::config::BatchConfig;
use crate::duration::Span;
use crate::resources::Batch;

const LONGEST_LINGER: Span = Span::from_secs(60);

/// Turns a batch into its limits, with stand-ins for what it reports.
pub(super) fn batch(
    at: &str,
    batch: Option<Batch>,
    checks: &mut Checks<'_>,
) -> Option<BatchConfig> {
    let batch = batch?;
    Some(BatchConfig {
        max_events: usize::try_from(batch.max_events).unwrap_or(usize::MAX),
        max_bytes: usize::try_from(batch.max_bytes).unwrap_or(usize::MAX),
        linger: checks.bounded(&field(at, "linger"), batch.linger, SHORTEST, LONGEST_LINGER),
    })
}
