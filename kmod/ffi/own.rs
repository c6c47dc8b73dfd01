// SPDX-License-Identifier: GPL-2.0-only
//! Generated bindings of what `kernel::bindings` lacks; see `bindgen.mk` and `own_bindings.h`.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

use kernel::ffi;

// What is not generated here is there.
pub(crate) use kernel::bindings::*;

include!(concat!(env!("OWN_OBJ"), "/own_bindings.rs"));
