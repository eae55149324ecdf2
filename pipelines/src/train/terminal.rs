//! The terminal: dashboard or plain lines, and Ctrl-C.

use super::plain::PlainRenderer;
use burn::train::Interrupter;
use burn::train::renderer::MetricsRenderer;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// Whether Ctrl-C (or a termination signal) has asked the run to save and stop.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// From now on the first Ctrl-C or termination signal asks the run to save and stop; the second ends the process with exit
/// code 130.
///
/// # Errors
/// Where a handler cannot be installed (a second call, for example).
pub fn watch_for_ctrl_c() -> Result<(), String> {
    ctrlc::set_handler(|| {
        STOP.store(true, Ordering::Relaxed);
        if PRESSED.fetch_add(1, Ordering::Relaxed) > 0 {
            restore_terminal();
            std::process::exit(130);
        }
    })
    .map_err(|e| e.to_string())
}

/// Whether the dashboard is drawn: standard output and input are a terminal, more than errors is wanted, and `HEARTH_PLAIN` is
/// not set.
pub fn is_dashboard() -> bool {
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    terminal && !crate::run::is_quiet() && std::env::var_os("HEARTH_PLAIN").is_none()
}

/// Burn's dashboard on a terminal, plain lines elsewhere.
pub(crate) fn renderer(interrupter: Interrupter, total_steps: usize, done: usize) -> Box<dyn MetricsRenderer> {
    if is_dashboard() {
        let tui = burn::train::renderer::tui::TuiMetricsRendererWrapper::new(interrupter, None);
        deliver_ctrl_c();
        Box::new(tui)
    } else {
        Box::new(PlainRenderer::new(total_steps, done))
    }
}

/// Burn's dashboard puts the terminal into raw mode and then ignores Ctrl-C. This switches the key's signal on again, so that
/// it means here what it means everywhere.
#[cfg(unix)]
fn deliver_ctrl_c() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    // The dashboard's thread enters raw mode a moment after it was started.
    std::thread::spawn(|| {
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let stdin = std::io::stdin();
            let Ok(mut modes) = tcgetattr(&stdin) else { return };
            if !modes.local_modes.contains(LocalModes::ICANON) {
                modes.local_modes |= LocalModes::ISIG;
                let _ = tcsetattr(&stdin, OptionalActions::Now, &modes);
                return;
            }
        }
    });
}

#[cfg(not(unix))]
fn deliver_ctrl_c() {}

/// Leaves the dashboard's screen and raw mode, whatever happened.
pub fn restore_terminal() {
    use crossterm::{event::DisableMouseCapture, execute, terminal};
    if is_dashboard() && terminal::is_raw_mode_enabled().unwrap_or(false) {
        let _ = terminal::disable_raw_mode();
        let _ = execute!(std::io::stdout(), DisableMouseCapture, terminal::LeaveAlternateScreen);
    }
}
