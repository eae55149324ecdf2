//! Progress bars for work outside a learner.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, which indicatif hides where that is no terminal; hidden too where only errors are wanted, and
/// where there is nothing to do.
pub(crate) fn bar(label: &str, total: usize) -> ProgressBar {
    if total == 0 || crate::run::is_quiet() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total as u64);
    // The template is a constant; a mistake in it would only cost the bar its looks.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_prefix(format!("[{label}]"));
    bar
}

/// The same for a transfer of so many bytes.
pub(crate) fn bytes(label: &str, total: u64) -> ProgressBar {
    if total == 0 || crate::run::is_quiet() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.set_prefix(format!("[{label}]"));
    bar
}
