// SPDX-License-Identifier: GPL-2.0-only
//! Fence agent for virtual machines whose host offers a power switch on a
//! character device (virtio-serial) or a unix socket.
//!
//! With no command-line arguments it reads `name=value` lines from standard
//! input, as every fence agent does; with any, it parses those. Success is
//! exit status 0 and nothing else: a time-out, a reply that does not parse or a
//! closed stream is a failure.

mod metadata;
mod options;
mod switch;

use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;

use crate::options::Action;
use crate::options::Options;
use crate::switch::State;
use crate::switch::Switch;

/// Exit status of `status` and `monitor` for a machine that is off.
const EXIT_OFF: u8 = 2;

fn main() -> ExitCode {
    match options::read().and_then(|options| run(&options)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fence_vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "an agent's answer is its standard output"
)]
fn run(options: &Options) -> anyhow::Result<ExitCode> {
    match options.action {
        Action::Metadata => print!("{}", metadata::XML),
        Action::ValidateAll => {
            options.plug()?;
        }
        Action::Monitor | Action::List => {
            let plugs = Switch::open(options)?.list()?;
            if options.action == Action::List {
                plugs.iter().for_each(|plug| println!("{plug},"));
            }
        }
        Action::Status => {
            let plug = options.plug()?;
            match Switch::open(options)?.status(plug)? {
                State::On => println!("Status: ON"),
                State::Off => {
                    println!("Status: OFF");
                    return Ok(ExitCode::from(EXIT_OFF));
                }
                State::Unknown => bail!("the state of {plug} is not known now; try again"),
            }
        }
        Action::Off => {
            let plug = options.plug()?;
            let mut switch = Switch::open(options)?;
            switch.off(plug)?;
            let state = switch.status(plug).context("verifying that it is off")?;
            if state != State::Off {
                bail!("{plug} was switched off and is not off");
            }
        }
        Action::On => Switch::open(options)?.on(options.plug()?)?,
        Action::Reboot => Switch::open(options)?.reboot(options.plug()?)?,
    }
    Ok(ExitCode::SUCCESS)
}
