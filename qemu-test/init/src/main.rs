// SPDX-License-Identifier: GPL-2.0-only
//! PID 1 of a test node: boot, then serve the control channel for ever. See the library.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use guest_init::boot;
use guest_init::children::Children;
use guest_init::cmdline::Cmdline;
use guest_init::devices;
use guest_init::devices::complain;
use guest_init::handover;
use guest_init::modules;
use guest_init::network;
use guest_init::port;
use guest_init::protocol::Event;
use guest_init::protocol::Hello;
use guest_init::protocol::POWER_PORT;
use guest_init::relay;
use guest_init::server::Server;

fn main() {
    let mut complaints = Vec::new();
    if !handover::is_server() {
        complaints = boot::mount_first();
        complaints.extend(modules::load_list(Path::new("/modules.list")));
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let line = Cmdline::parse(&line);
    if !handover::is_server() {
        complaints.extend(set_up(&line));
        complaints.iter().for_each(|text| complain(text));
        if line.has_systemd && complaints.is_empty() {
            let error = handover::run();
            complaints.push(format!("going on to systemd: {error}"));
        }
    }

    let children = Arc::new(Children::default());
    if let Err(error) = serve(&line, complaints, &children) {
        complain(&format!("{error:#}; this node cannot be controlled"));
    }
    // PID 1 must not end: the kernel would panic and hide what was said above.
    children.reap()
}

/// Everything between the first mounts and the control channel; goes on after a failure.
fn set_up(line: &Cmdline) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut note = |result: Result<()>| complaints.extend(result.err().map(|e| format!("{e:#}")));
    if line.is_overlay_root {
        note(boot::enter_overlay_root());
    }
    note(boot::mount_payload());
    note(nix::unistd::sethostname(&line.name).context("setting the host name"));
    complaints.extend(boot::mount_second());
    if let Err(error) = network::configure(&line.link, line.address.as_deref()) {
        complaints.push(format!("{error:#}"));
    }
    complaints
}

fn serve(line: &Cmdline, mut complaints: Vec<String>, children: &Arc<Children>) -> Result<()> {
    match devices::Listener::open() {
        Ok(listener) => {
            thread::spawn(move || complain(&format!("uevents: {}", listener.run())));
        }
        Err(error) => complaints.push(format!("listening to uevents: {error}")),
    }
    devices::scan();
    let (reader, writer) = port::open(line.control.as_deref())?;
    complaints.extend(open_power(line).err().map(|e| format!("{e:#}")));
    devices::scan();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("reading the boot id")?
        .trim()
        .to_owned();
    let writer = Arc::new(port::Writer::new(boot_id, writer));
    let reaper = Arc::clone(children);
    thread::spawn(move || reaper.reap());
    writer.send_newline().context("greeting the runner")?;
    writer
        .send(0, Event::Hello(hello(line, complaints)))
        .context("greeting the runner")?;
    let server = Server::new(Arc::clone(children), writer);
    Err(server.run(reader, line.control.is_some())).context("reading the control channel")
}

/// Makes the way to the power switch.
fn open_power(line: &Cmdline) -> Result<()> {
    match &line.power {
        Some(path) => relay::start(path),
        None => boot::wait_for(|| devices::find_port(POWER_PORT))
            .map(drop)
            .with_context(|| format!("no virtio-serial port {POWER_PORT} appeared")),
    }
}

fn hello(line: &Cmdline, complaints: Vec<String>) -> Hello {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Hello {
        node: line.name.clone(),
        kernel: kernel.trim().to_owned(),
        uptime_ms: uptime().as_millis().try_into().unwrap_or(u64::MAX),
        complaints,
    }
}

fn uptime() -> Duration {
    fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_secs_f64)
}
