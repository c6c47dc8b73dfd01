// SPDX-License-Identifier: GPL-2.0-only
//! Mutexes that are statics (`kernel::sync::global_lock!`).

/// Declares a static mutex and the safe function that makes it usable.
///
/// The function is called when the module is loaded, before anything else can come to the mutex;
/// a second call does nothing. What the mutex holds is never dropped: empty it at exit.
macro_rules! global_mutex {
    (
        $(#[$attribute:meta])*
        static $name:ident: $type:ty = $value:expr;
        $(#[$init_attribute:meta])*
        fn $init:ident;
    ) => {
        kernel::sync::global_lock! {
            $(#[$attribute])*
            // SAFETY: `init` is called once, below, by the function that the module calls first.
            unsafe(uninit) static $name: Mutex<$type> = $value;
        }

        $(#[$init_attribute])*
        pub(crate) fn $init() {
            use core::sync::atomic::{
                AtomicBool,
                Ordering, //
            };
            static DONE: AtomicBool = AtomicBool::new(false);
            if !DONE.swap(true, Ordering::AcqRel) {
                // SAFETY: not called before, see `DONE`.
                unsafe { $name.init() };
            }
        }
    };
}

pub(crate) use global_mutex;
