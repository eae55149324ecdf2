//! Progress bars for work outside a learner.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, which indicatif hides where that is no terminal.
pub(crate) fn bar(label: &str, total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    // The template is a constant; a mistake in it would only cost the bar its looks.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_prefix(format!("[{label}]"));
    bar
}
