// SPDX-License-Identifier: GPL-2.0-only
//! Times counted by size, without an allocation for any of them.
//!
//! Least, greatest, mean and count are exact. A percentile is exact below [`EXACT`] ns; above, each
//! power of two has [`STEPS`] buckets and the middle of a bucket is given, so that a percentile is
//! wrong by at most 1/512 (0.2 %). Pure: the module and the tests of `qemu-test` both mount it.

use core::ops::DerefMut;

/// Buckets of each power of two.
const STEPS: usize = 256;

/// Times below this have a bucket of their own.
const EXACT: u64 = 2 * STEPS as u64;

/// Buckets in all, for any `u64`.
pub(crate) const BUCKETS: usize = EXACT as usize + (64 - 9) * STEPS;

/// What was counted, over storage that its user has reserved.
pub(crate) struct Histogram<S> {
    buckets: S,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl<S: DerefMut<Target = [u32]>> Histogram<S> {
    /// An empty one; `buckets` has [`BUCKETS`] zeros.
    pub(crate) fn new(buckets: S) -> Self {
        Self {
            buckets,
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    /// Counts a time in ns.
    #[inline]
    pub(crate) fn add(&mut self, ns: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(ns)) {
            *bucket = bucket.saturating_add(1);
        }
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.saturating_add(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The least, 0 if none was counted.
    pub(crate) fn min(&self) -> u64 {
        if self.count == 0 {
            0
        } else {
            self.min
        }
    }

    /// The greatest.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The mean, rounded down.
    pub(crate) fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// The time that `percent` of all times do not exceed.
    pub(crate) fn percentile(&self, percent: u64) -> u64 {
        // Rounded up; with one time, all percentiles are that time.
        let rank = self
            .count
            .saturating_mul(percent)
            .saturating_add(99)
            .checked_div(100)
            .unwrap_or(0)
            .max(1);
        let mut seen = 0u64;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(u64::from(*bucket));
            if seen >= rank {
                return middle_of(index).clamp(self.min, self.max);
            }
        }
        self.max
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < EXACT {
        return ns as usize;
    }
    // At least 1: `ns` has ten bits or more.
    let shift = (63 - ns.leading_zeros()) as usize - 8;
    let step = (ns >> shift) as usize - STEPS;
    EXACT as usize + (shift - 1) * STEPS + step
}

fn middle_of(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(EXACT as usize) else {
        return bucket as u64;
    };
    let shift = above / STEPS + 1;
    let low = ((above % STEPS + STEPS) as u64) << shift;
    low + (1 << (shift - 1))
}
