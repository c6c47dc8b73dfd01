// SPDX-License-Identifier: GPL-2.0-only
//! References to this module (`include/linux/module.h`): while one is held it stays loaded.

use core::ptr;

use kernel::{
    bindings,
    prelude::*, //
};

/// A reference to this module.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// Takes a reference; [`ENODEV`] if the module is being unloaded.
    pub(crate) fn get() -> Result<Self> {
        let this = ptr::addr_of!(bindings::__this_module).cast_mut();
        // SAFETY: `__this_module` is this module.
        if unsafe { bindings::try_module_get(this) } {
            Ok(Self(()))
        } else {
            Err(ENODEV)
        }
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        let this = ptr::addr_of!(bindings::__this_module).cast_mut();
        // SAFETY: taken in `get`.
        unsafe { bindings::module_put(this) };
    }
}
