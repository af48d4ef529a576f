//! Figures: printed, and kept beside the other outputs of a run.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::repository;

/// Where a run leaves what it has to show.
pub(crate) fn folder() -> PathBuf {
    let folder = std::env::var_os("OBSERVER_E2E_OUT");
    let folder = folder.map_or_else(|| repository("target/e2e"), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Prints a figure and keeps it.
pub(crate) fn figure(text: &str) {
    println!("{text}");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder().join("figures.txt"));
    writeln!(file.unwrap(), "{text}").unwrap();
}

/// The value below which this share, in thousandths, of the sorted values lies.
pub(crate) fn quantile<T: Copy>(sorted: &[T], per_mille: usize) -> T {
    let last = sorted.len() - 1;
    sorted[(last * per_mille).div_ceil(1000).min(last)]
}

/// Seconds, to be read.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
