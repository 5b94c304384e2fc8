//! Broken invariants are panics; here they become values, without noise on the standard error.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static WHAT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work`; a panic becomes an error that says what and where.
///
/// # Errors
/// The panic's message.
pub(super) fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if GUARDED.get() {
                let at = info.location().map_or(String::new(), |at| format!(" ({}:{})", at.file(), at.line()));
                let payload = info.payload();
                let text = payload.downcast_ref::<&str>().copied();
                let message = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic");
                WHAT.with(|what| *what.borrow_mut() = format!("{message}{at}"));
            } else {
                before(info);
            }
        }));
    });
    let nested = GUARDED.replace(true);
    // What `work` leaves half done is dropped by every caller.
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(nested);
    result.map_err(|_| WHAT.with(|what| what.borrow().clone()))
}
