// SPDX-License-Identifier: GPL-2.0-only
//! A shard as text, in the formats that tools know from debugfs.
//!
//! | Format | File of lockspace X | Read by |
//! |---|---|---|
//! | `Resources` | `X` | people |
//! | `Locks` | `X_locks` | `dlm_tool lockdump` |
//! | `All` | `X_all` | `dlm_tool lockdebug` |
//! | `Idle` | `X_toss` | `dlm_tool lockdebug` |
//! | `Waiters` | `X_waiters` | `dlm_tool lockdebug` |
//!
//! Where a tool expects an address, it gets the number of the resource. Flags have the values that
//! tools show; those of resources keep to decimal digits, because a tool reads them so.

use core::fmt;

use super::Shard;
use crate::lockcore::arena::{Key, LockIndex, ResourceIndex};
use crate::lockcore::lkb::state::{MASTER_COPY, OVERLAP_CANCEL, OVERLAP_UNLOCK, RESEND};
use crate::lockcore::lkb::{Lkb, Queue, Waiting};
use crate::lockcore::mode::Mode;
use crate::lockcore::queue::List;
use crate::lockcore::rsb::{state, Rsb};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Resources with their queues, for people.
    Resources,
    /// One line per lock.
    Locks,
    /// All fields of resources and locks.
    All,
    /// Idle resources and directory records.
    Idle,
    /// Locks that wait for an answer.
    Waiters,
}

/// The first line of a listing; it goes before that of the first shard.
pub const fn header(format: Format) -> &'static str {
    match format {
        Format::Resources | Format::Waiters => "",
        Format::Locks => {
            "id nodeid remid pid xid exflags flags sts grmode rqmode time_us \
             r_nodeid r_len r_name\n"
        }
        Format::All => "version rsb 1.1 lvb 1.1 lkb 1.1\n",
        Format::Idle => "rsb ptr nodeid master dir our toss_time flags len name\n",
    }
}

const QUEUES: [(Queue, &str); 3] = [
    (Queue::Grant, "Granted Queue"),
    (Queue::Convert, "Conversion Queue"),
    (Queue::Wait, "Waiting Queue"),
];

/// Flags of resources as tools show them.
const RSB_FLAGS: [(u16, u32); 6] = [
    (state::MASTER_UNCERTAIN.raw(), 0x1),
    (state::LVB_INVALID.raw(), 0x2),
    (state::NEW_MASTER.raw(), 0x8),
    (state::REBUILDING.raw(), 0x10),
    (state::GRANT.raw(), 0x40),
    (state::IDLE.raw(), 0x100),
];
const RSB_HASHED: u32 = 0x200;

/// Flags of locks as tools show them.
const LKB_FLAGS: [(u16, u32); 4] = [
    (MASTER_COPY.raw(), 1 << 16),
    (RESEND.raw(), 1 << 17),
    (OVERLAP_UNLOCK.raw(), 1 << 19),
    (OVERLAP_CANCEL.raw(), 1 << 20),
];

fn shown(bits: u16, table: &[(u16, u32)]) -> u32 {
    table
        .iter()
        .filter(|(ours, _)| bits & ours != 0)
        .map(|(_, theirs)| theirs)
        .sum()
}

fn mode_name(mode: Option<Mode>) -> &'static str {
    match mode {
        None => "--",
        Some(Mode::Nl) => "NL",
        Some(Mode::Cr) => "CR",
        Some(Mode::Cw) => "CW",
        Some(Mode::Pr) => "PR",
        Some(Mode::Pw) => "PW",
        Some(Mode::Ex) => "EX",
    }
}

/// A name as it is, with what cannot be printed as dots.
struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        self.0.iter().try_for_each(|byte| {
            let printable = byte.is_ascii_graphic() || *byte == b' ';
            f.write_char(if printable { char::from(*byte) } else { '.' })
        })
    }
}

/// A name for a tool: as text if it is text.
struct Tagged<'a>(&'a [u8]);

impl fmt::Display for Tagged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        if text {
            return write!(f, "str {}", Printable(self.0));
        }
        f.write_str("hex")?;
        self.0.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

impl<O> Shard<O> {
    /// Writes everything of this shard that belongs in a listing. `xid` gives the transaction of a
    /// lock of this node.
    pub fn dump<W: fmt::Write>(
        &self,
        now_ms: u64,
        format: Format,
        xid: &dyn Fn(&O) -> u64,
        out: &mut W,
    ) -> fmt::Result {
        match format {
            Format::Waiters => return self.dump_waiters(out),
            Format::Idle => self.dump_records(out)?,
            Format::Resources | Format::Locks | Format::All => {}
        }
        let mut walk = self.resources.walk();
        while let Some((r, rsb)) = walk.next(&self.resources) {
            match format {
                Format::Resources if !rsb.is(state::IDLE) => self.dump_resource(r, rsb, out)?,
                Format::Locks => self.dump_locks(now_ms, rsb, xid, out)?,
                Format::All if !rsb.is(state::IDLE) => self.dump_all(now_ms, r, rsb, xid, out)?,
                Format::Idle if rsb.is(state::IDLE) => self.dump_idle(r, rsb, out)?,
                Format::Resources | Format::All | Format::Idle | Format::Waiters => {}
            }
        }
        Ok(())
    }

    /// The master as tools show it: 0 is this node, -1 is not known.
    fn shown_master(&self, rsb: &Rsb) -> i32 {
        match rsb.master() {
            None => -1,
            Some(master) if master == self.own() => 0,
            Some(master) => master.0 as i32,
        }
    }

    /// The other node of a lock, 0 if there is none.
    fn shown_node(&self, lock: &Lkb<O>) -> i32 {
        if lock.is_master_copy() {
            lock.peer.0 as i32
        } else {
            self.shown_master(self.resource(lock.resource))
        }
    }

    fn shown_flags(lock: &Lkb<O>) -> u32 {
        shown(lock.state.raw(), &LKB_FLAGS) | u32::from(lock.shared.raw())
    }

    /// Calls `f` for each lock in a queue.
    fn each_in(
        &self,
        list: &List<LockIndex>,
        mut f: impl FnMut(LockIndex, &Lkb<O>) -> fmt::Result,
    ) -> fmt::Result {
        list.iter(&self.locks).try_for_each(|(i, lock)| f(i, lock))
    }

    fn dump_locks<W: fmt::Write>(
        &self,
        now_ms: u64,
        rsb: &Rsb,
        xid: &dyn Fn(&O) -> u64,
        out: &mut W,
    ) -> fmt::Result {
        let name = rsb.name.as_bytes();
        for (queue, _) in QUEUES {
            self.each_in(rsb.queue(queue), |i, lock| {
                let since_ms = (now_ms as u32).wrapping_sub(lock.since_ms);
                writeln!(
                    out,
                    "{:x} {} {:x} {} {} {:x} {:x} {} {} {} {} {} {} \"{}\"",
                    self.id_of(i).raw(),
                    self.shown_node(lock),
                    lock.remote_id,
                    lock.pid,
                    lock.owner.as_ref().map_or(0, xid),
                    lock.flags.raw(),
                    Self::shown_flags(lock),
                    lock.queue as u8,
                    Mode::to_raw(lock.granted),
                    Mode::to_raw(lock.requested),
                    u64::from(since_ms) * 1000,
                    self.shown_master(rsb),
                    name.len(),
                    Printable(name),
                )
            })?;
        }
        Ok(())
    }

    fn dump_all<W: fmt::Write>(
        &self,
        now_ms: u64,
        r: ResourceIndex,
        rsb: &Rsb,
        xid: &dyn Fn(&O) -> u64,
        out: &mut W,
    ) -> fmt::Result {
        let name = rsb.name.as_bytes();
        writeln!(
            out,
            "rsb {:016x} {} {:x} {:x} 0 {} {} {} {}",
            r.raw(),
            self.shown_master(rsb),
            self.shown_first(rsb),
            shown(rsb.state.raw(), &RSB_FLAGS) | RSB_HASHED,
            u8::from(rsb.is(state::NEW_MASTER)),
            0,
            name.len(),
            Tagged(name),
        )?;
        if !rsb.lvb.is_empty() {
            write!(out, "lvb {} {}", rsb.lvb_seq, rsb.lvb.len())?;
            rsb.lvb.iter().try_for_each(|b| write!(out, " {b:02x}"))?;
            writeln!(out)?;
        }
        let lists = QUEUES.map(|(queue, _)| *rsb.queue(queue));
        for list in lists.iter().chain([&rsb.lookups]) {
            self.each_in(list, |i, lock| self.dump_lkb(now_ms, i, lock, xid, out))?;
        }
        Ok(())
    }

    fn shown_first(&self, rsb: &Rsb) -> u32 {
        if rsb.first.is_none() {
            0
        } else {
            self.id_of(rsb.first).raw()
        }
    }

    fn dump_lkb<W: fmt::Write>(
        &self,
        now_ms: u64,
        i: LockIndex,
        lock: &Lkb<O>,
        xid: &dyn Fn(&O) -> u64,
        out: &mut W,
    ) -> fmt::Result {
        let queued_ms =
            now_ms.saturating_sub(u64::from((now_ms as u32).wrapping_sub(lock.since_ms)));
        writeln!(
            out,
            "lkb {:x} {} {:x} {} {} {:x} {:x} {} {} {} {} {} {} {} {} 0",
            self.id_of(i).raw(),
            self.shown_node(lock),
            lock.remote_id,
            lock.pid,
            lock.owner.as_ref().map_or(0, xid),
            lock.flags.raw(),
            Self::shown_flags(lock),
            lock.queue as u8,
            Mode::to_raw(lock.granted),
            Mode::to_raw(lock.requested),
            Mode::to_raw(lock.last_blocking),
            u8::from(lock.is(crate::lockcore::lkb::state::LOOKUP_QUEUED)),
            lock.waiting.to_raw(),
            lock.lvb_seq,
            queued_ms * 1_000_000,
        )
    }

    fn dump_idle<W: fmt::Write>(&self, r: ResourceIndex, rsb: &Rsb, out: &mut W) -> fmt::Result {
        let name = rsb.name.as_bytes();
        let due_ms = rsb.idle_since_ms.wrapping_add(self.config.toss_ms);
        writeln!(
            out,
            "rsb {:016x} {} {} {} {} {} {:x} {} {}",
            r.raw(),
            self.shown_master(rsb),
            rsb.master().map_or(0, |master| master.0),
            rsb.directory.0,
            self.own().0,
            due_ms,
            shown(rsb.state.raw(), &RSB_FLAGS) | RSB_HASHED,
            name.len(),
            Tagged(name),
        )
    }

    fn dump_records<W: fmt::Write>(&self, out: &mut W) -> fmt::Result {
        for (record, name, master) in self.directory.iter() {
            writeln!(
                out,
                "rsb {:016x} {} {} {} {} 0 300 {} {}",
                record.raw(),
                master.0,
                master.0,
                self.own().0,
                self.own().0,
                name.len(),
                Tagged(name),
            )?;
        }
        Ok(())
    }

    fn dump_waiters<W: fmt::Write>(&self, out: &mut W) -> fmt::Result {
        let mut walk = self.locks.walk();
        while let Some((i, lock)) = walk.next(&self.locks) {
            if lock.waiting != Waiting::None {
                writeln!(
                    out,
                    "{:x} {} {} {}",
                    self.id_of(i).raw(),
                    lock.waiting.to_raw(),
                    lock.peer.0,
                    Printable(self.resource(lock.resource).name.as_bytes()),
                )?;
            }
        }
        Ok(())
    }

    fn dump_resource<W: fmt::Write>(
        &self,
        r: ResourceIndex,
        rsb: &Rsb,
        out: &mut W,
    ) -> fmt::Result {
        let name = rsb.name.as_bytes();
        let (number, len) = (r.raw(), name.len());
        writeln!(
            out,
            "\nResource {number:016x} Name (len={len}) \"{}\"",
            Printable(name)
        )?;
        match rsb.master() {
            Some(master) if master == self.own() => writeln!(out, "Master Copy")?,
            Some(master) => writeln!(out, "Local Copy, Master is node {}", master.0)?,
            None => writeln!(out, "Looking up master (lkid {:x})", self.shown_first(rsb))?,
        }
        if !rsb.lvb.is_empty() {
            write!(out, "LVB: ")?;
            for (at, byte) in rsb.lvb.iter().enumerate() {
                if at > 0 && at == rsb.lvb.len() / 2 {
                    write!(out, "\n     ")?;
                }
                write!(out, "{byte:02x} ")?;
            }
            let invalid = rsb.is(state::LVB_INVALID);
            writeln!(out, "{}", if invalid { " (INVALID)" } else { "" })?;
        }
        for (queue, title) in QUEUES {
            writeln!(out, "{title}")?;
            self.each_in(rsb.queue(queue), |i, lock| self.dump_lock(i, lock, out))?;
        }
        if rsb.lookups.is_empty() {
            return Ok(());
        }
        writeln!(out, "Lookup Queue")?;
        self.each_in(&rsb.lookups, |i, lock| {
            writeln!(
                out,
                "{:08x} {}",
                self.id_of(i).raw(),
                mode_name(lock.requested)
            )
        })
    }

    fn dump_lock<W: fmt::Write>(&self, i: LockIndex, lock: &Lkb<O>, out: &mut W) -> fmt::Result {
        write!(
            out,
            "{:08x} {}",
            self.id_of(i).raw(),
            mode_name(lock.granted)
        )?;
        if lock.queue != Queue::Grant {
            write!(out, " ({})", mode_name(lock.requested))?;
        }
        if lock.is_master_copy() {
            write!(out, " Remote: {:3} {:08x}", lock.peer.0, lock.remote_id)?;
        } else if self.shown_node(lock) != 0 {
            write!(out, " Master:     {:08x}", lock.remote_id)?;
        }
        if lock.waiting != Waiting::None {
            write!(out, " wait_type {}", lock.waiting.to_raw())?;
        }
        writeln!(out)
    }
}
