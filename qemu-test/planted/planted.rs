// SPDX-License-Identifier: GPL-2.0-only
//! A module that does wrong on purpose when it is loaded, so that the tests of real modules are
//! known to notice: the kernel must report it, and the runner must see the report.
//!
//! | `fault` | What it does | What the kernel must say |
//! | --- | --- | --- |
//! | 0 | nothing wrong | nothing |
//! | 1 | takes two mutexes in both orders | possible circular locking dependency |
//! | 2 | allocates with a right to sleep under a spinlock | sleeping function called |
//!
//! Neither fault hangs or corrupts anything: only the rule is broken.

use core::borrow::Borrow;

use kernel::new_mutex;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::Mutex;
use kernel::sync::SpinLock;

module! {
    type: Planted,
    name: "planted",
    authors: ["Conclave"],
    description: "Faults for the tests of the tests",
    license: "GPL",
    params: {
        fault: u8 {
            default: 0,
            description: "Which fault to commit",
        },
    },
}

#[pin_data]
struct Planted {
    #[pin]
    first: Mutex<u32>,
    #[pin]
    second: Mutex<u32>,
    #[pin]
    spin: SpinLock<u32>,
}

/// The value of a parameter: kernel 7.2 hands out a reference to it, 7.3 the value.
fn number(value: impl Borrow<u8>) -> u8 {
    *value.borrow()
}

impl kernel::InPlaceModule for Planted {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            first <- new_mutex!(0, "planted_first"),
            second <- new_mutex!(0, "planted_second"),
            spin <- new_spinlock!(0, "planted_spin"),
        })
        .pin_chain(|this| {
            this.into_ref()
                .commit(number(module_parameters::fault.value()))
        })
    }
}

impl Planted {
    fn commit(self: Pin<&Self>, fault: u8) -> Result {
        match fault {
            0 => Ok(()),
            1 => self.take_both_orders(),
            2 => self.allocate_under_spinlock(),
            _ => Err(EINVAL),
        }
    }

    fn take_both_orders(self: Pin<&Self>) -> Result {
        {
            let mut first = self.first.lock();
            *first += *self.second.lock();
        }
        let mut second = self.second.lock();
        *second += *self.first.lock();
        Ok(())
    }

    fn allocate_under_spinlock(self: Pin<&Self>) -> Result {
        let mut value = self.spin.lock();
        let new = KBox::new(1, GFP_KERNEL)?;
        *value += *new;
        Ok(())
    }
}
