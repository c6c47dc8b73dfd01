// SPDX-License-Identifier: GPL-2.0-only
//! libFuzzer's entry to `fuzz::insider`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::insider::run(data));
