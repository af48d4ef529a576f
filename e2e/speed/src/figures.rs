//! Sums that figures are made of.

/// A count as it is divided by.
#[expect(clippy::cast_precision_loss, reason = "figures are read by people")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

pub(crate) fn per_thousand(events: u64) -> f64 {
    real(events.max(1)) / 1e3
}

/// The middle of some figures; not a number of none.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    quantile(figures, 500)
}

/// The value below which so many of a thousand lie.
pub(crate) fn quantile(sorted: &[f64], of_1000: usize) -> f64 {
    let at = sorted.len() * of_1000 / 1000;
    let last = sorted.len().saturating_sub(1);
    sorted.get(at.min(last)).copied().unwrap_or(f64::NAN)
}
