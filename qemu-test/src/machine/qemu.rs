// SPDX-License-Identifier: GPL-2.0-only
//! The command line of a QEMU machine.

use anyhow::Result;
use guest_init::protocol::CONTROL_PORT;
use guest_init::protocol::POWER_PORT;

use super::Disk;
use super::MachineSpec;
use super::fd;
use super::mac_text;
use super::utf8;

/// Kernel words of every virtual machine. On a busy host an emulated machine may stand still for
/// as long as its kernel allows a timer: it would distrust the interrupt controller and panic
/// (`no_timer_check`), or miscalibrate its time stamp counter (the clock words).
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=5 no_timer_check \
    random.trust_cpu=on printk.devkmsg=on node.link=eth0";

/// The clock of a machine that runs with the host.
const HOST_CLOCK: &str = "tsc=unstable clocksource=hpet";

/// The clock of a machine that counts instructions: the time stamp counter then counts them too,
/// and to read it costs one.
const OWN_CLOCK: &str = "tsc=reliable clocksource=tsc";

/// Where the kernel and its modules are, for traces: the last 2 GiB.
const KERNEL_ADDRESSES: &str = "0xffffffff80000000+0x7fffffff";

/// Program and arguments.
pub(super) fn arguments(spec: &MachineSpec) -> Result<Vec<String>> {
    let mut line = Line::default();
    line.add(&["qemu-system-x86_64", "-name", &spec.name]);
    line.add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    let clock = if spec.counts_instructions {
        // Round robin is the only way of TCG to count.
        line.add(&["-accel", "tcg,thread=single", "-icount", "shift=0"]);
        OWN_CLOCK
    } else {
        line.add(&["-accel", "tcg,thread=multi"]);
        HOST_CLOCK
    };
    if spec.is_traced {
        line.add(&["-dfilter", KERNEL_ADDRESSES]);
    }
    line.add(&["-cpu", "max"]);
    line.add(&["-m", &spec.memory_mib.to_string()]);
    line.add(&["-smp", &spec.cpus.to_string()]);
    line.add(&["-kernel", utf8(&spec.kernel)?]);
    line.add(&["-initrd", utf8(&spec.initramfs)?]);
    line.add(&[
        "-append",
        &format!("{KERNEL_WORDS} {clock} {}", spec.append),
    ]);
    line.add_channel("monitor", fd::MONITOR);
    line.add(&["-mon", "chardev=monitor,mode=control"]);
    line.add_channel("console", fd::CONSOLE);
    line.add(&["-serial", "chardev:console"]);
    line.add(&["-device", "virtio-serial-pci"]);
    for (channel, number, port) in [
        ("control", fd::CONTROL, CONTROL_PORT),
        ("power", fd::POWER, POWER_PORT),
    ] {
        line.add_channel(channel, number);
        let device = format!("virtserialport,chardev={channel},name={port}");
        line.add(&["-device", &device]);
    }
    let network = format!("dgram,id=network,local.type=fd,local.str={}", fd::NETWORKS);
    line.add(&["-netdev", &network]);
    let card = format!(
        "virtio-net-pci,netdev=network,mac={},romfile=",
        mac_text(&spec.mac)
    );
    line.add(&["-device", &card]);
    for disk in &spec.disks {
        line.add_disk(disk)?;
    }
    Ok(line.words)
}

#[derive(Default)]
struct Line {
    words: Vec<String>,
}

impl Line {
    fn add(&mut self, words: &[&str]) {
        self.words
            .extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn add_channel(&mut self, id: &str, number: i32) {
        self.add(&["-chardev", &format!("socket,id={id},fd={number}")]);
    }

    /// A shared disk must show every machine what the others have written: no cache of ours, no
    /// lock on the file.
    fn add_disk(&mut self, disk: &Disk) -> Result<()> {
        let Disk {
            serial,
            path,
            is_shared,
        } = disk;
        let path = utf8(path)?.replace(',', ",,");
        let (mode, device_mode) = if *is_shared {
            ("cache=none", ",share-rw=on")
        } else {
            ("readonly=on", "")
        };
        let drive = format!("if=none,id={serial},format=raw,file.locking=off,{mode},file={path}");
        self.add(&["-drive", &drive]);
        let device = format!("virtio-blk-pci,drive={serial},serial={serial}{device_mode}");
        self.add(&["-device", &device]);
        Ok(())
    }
}
