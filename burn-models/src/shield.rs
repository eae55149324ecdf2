//! Other libraries that panic where they should give an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SHIELDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of a library that may panic on damaged input: `None` where it does, and no message on standard error.
///
/// Only for code whose values are dropped after a panic: nothing that it was changing can be trusted.
pub fn shield<T>(work: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if !SHIELDED.get() {
                hook(info);
            }
        }));
    });
    let outer = SHIELDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    SHIELDED.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn a_panic_is_nothing() {
        assert_eq!(shield(|| 1), Some(1));
        let nested = || {
            assert_eq!(shield(|| -> u8 { panic!("inner") }), None);
            assert!(SHIELDED.get());
            panic!("outer")
        };
        assert_eq!(shield(|| -> u8 { nested() }), None);
        assert!(!SHIELDED.get());
    }
}
