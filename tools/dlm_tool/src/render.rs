// SPDX-License-Identifier: GPL-2.0-only
//! Turns answers into text for people, in the field's columns; knows no socket.

use std::io::Result;
use std::io::Write;

use cmand_client::NodeId;
use dlm_controld_client::Change;
use dlm_controld_client::Departure;
use dlm_controld_client::FenceReason;
use dlm_controld_client::Lockspace;
use dlm_controld_client::LockspaceNode;
use dlm_controld_client::Node;
use dlm_controld_client::Status;
use dlm_controld_client::Wait;

use crate::control;
use crate::locks::Lock;

/// Created as file systems do.
const CREATED_FS: u32 = 4;

/// The words of `flags`, in their order, with their bits.
fn flag_words(lockspace: &Lockspace) -> Vec<(u32, &'static str)> {
    let words = [
        (lockspace.flags & CREATED_FS != 0, 0x8, "fs_reg"),
        (lockspace.stopped, 0x4, "kern_stop"),
        (lockspace.leaving, 0x2, "leave"),
        (lockspace.joining, 0x1, "join"),
    ];
    let set = words.into_iter().filter(|(set, _, _)| *set);
    set.map(|(_, bit, word)| (bit, word)).collect()
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| format!("{node} ")).collect()
}

/// The listing of `dlm_tool ls`.
pub(crate) fn ls(out: &mut impl Write, lockspaces: &[Lockspace], nodes: bool) -> Result<()> {
    if !lockspaces.is_empty() {
        writeln!(out, "dlm lockspaces")?;
    }
    for lockspace in lockspaces {
        one(out, lockspace)?;
        if nodes {
            writeln!(out, "all nodes")?;
            for node in &lockspace.nodes {
                node_line(out, node)?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn one(out: &mut impl Write, lockspace: &Lockspace) -> Result<()> {
    let words = flag_words(lockspace);
    let bits: u32 = words.iter().map(|(bit, _)| bit).sum();
    let words: Vec<&str> = words.into_iter().map(|(_, word)| word).collect();
    writeln!(out, "name          {}", lockspace.name)?;
    writeln!(out, "id            {:#010x}", lockspace.id)?;
    writeln!(out, "flags         {bits:#010x} {}", words.join(","))?;
    writeln!(out, "change        {}", change(lockspace.change.as_ref()))?;
    let members = lockspace
        .change
        .as_ref()
        .map_or(&[][..], |change| &change.members);
    writeln!(out, "members       {}", list(members))?;
    if let Some(new) = &lockspace.new_change {
        writeln!(out, "new change    {}", change(Some(new)))?;
    }
    if let Some(wait) = wait(&lockspace.wait) {
        writeln!(out, "new status    {wait}")?;
    }
    if let Some(new) = &lockspace.new_change {
        writeln!(out, "new members   {}", list(&new.members))?;
    }
    Ok(())
}

fn change(change: Option<&Change>) -> String {
    let none = Change {
        first: 0,
        number: 0,
        members: vec![],
        joined: 0,
        removed: 0,
        failed: 0,
    };
    let Change {
        first,
        number,
        members,
        joined,
        removed,
        failed,
    } = change.unwrap_or(&none);
    let member = members.len();
    format!("member {member} joined {joined} remove {removed} failed {failed} seq {first},{number}")
}

pub(crate) fn wait(wait: &Wait) -> Option<String> {
    let word = match wait {
        Wait::None => return None,
        Wait::Messages { nodes } => return Some(format!("wait messages {}", nodes.len())),
        Wait::View => "ringid",
        Wait::Quorum => "quorum",
        Wait::Fencing { .. } => "fencing",
        Wait::Protocol => "protocol",
        Wait::Group => "group",
        Wait::Stop => "stop",
        Wait::Announcement => "announcement",
        Wait::Halted => "halted",
    };
    Some(format!("wait {word}"))
}

fn node_line(out: &mut impl Write, node: &LockspaceNode) -> Result<()> {
    // Numbers that the field's tool prints for these reasons.
    let failed = match node.departure {
        None => 0,
        Some(Departure::Left) => 2,
        Some(Departure::NodeFailed) => 3,
        Some(Departure::ProcessFailed) => 5,
    };
    let check = if node.check_fence {
        format!("fence {}", node.failed_at)
    } else {
        "none".to_owned()
    };
    writeln!(
        out,
        "nodeid {} member {} failed {failed} start {} seq_add {} seq_rem {} check {check}",
        node.node,
        u8::from(node.member),
        u8::from(node.start),
        node.added,
        node.removed,
    )
}

/// The listing of `dlm_tool status`.
pub(crate) fn status(out: &mut impl Write, status: &Status) -> Result<()> {
    let Status {
        node, view, now, ..
    } = status;
    let quorate = u8::from(status.quorate);
    writeln!(
        out,
        "cluster nodeid {node} quorate {quorate} ring seq {view} {view}"
    )?;
    // Agents are fenced's processes: this daemon has none.
    writeln!(out, "daemon now {now} fence_pid 0 ")?;
    for node in status.nodes.iter().filter(|node| !node.seen) {
        write!(out, "startup ")?;
        life(out, node)?;
    }
    for node in &status.nodes {
        if let Some(reason) = node.must_be_fenced {
            fence(out, status, node, reason)?;
        }
    }
    for node in status.nodes.iter().filter(|node| node.seen) {
        life(out, node)?;
    }
    Ok(())
}

fn fence(out: &mut impl Write, status: &Status, node: &Node, reason: FenceReason) -> Result<()> {
    let reason = match reason {
        FenceReason::Startup => "startup",
        FenceReason::NodeFailed => "nodedown",
        FenceReason::ProcessFailed => "procdown",
    };
    let Node {
        node,
        failed_wall,
        fenced_wall,
        ..
    } = node;
    let (actor, now) = (status.fence_master, status.now_wall);
    // An earlier fencing is not of this failure.
    let fenced = if fenced_wall >= failed_wall {
        *fenced_wall
    } else {
        0
    };
    writeln!(
        out,
        "fence {node} {reason} pid 0 actor {actor} fail {failed_wall} fence {fenced} now {now}"
    )
}

fn life(out: &mut impl Write, node: &Node) -> Result<()> {
    let letter = match (node.seen, node.member) {
        (false, _) => 'U',
        (true, true) => 'M',
        (true, false) => 'X',
    };
    writeln!(
        out,
        "node {} {letter} add {} rem {} fail {} fence {} at {} {}",
        node.node,
        node.added,
        node.removed,
        node.failed,
        node.fenced,
        node.fenced_by,
        node.fenced_wall,
    )
}

/// What `dlm_tool join` says before it waits.
pub(crate) fn joining(out: &mut impl Write, name: &str, mode: u32, flags: u32) -> Result<()> {
    write!(out, "Joining lockspace \"{name}\" permission {mode:o}")?;
    if flags != 0 {
        write!(out, " flags ")?;
        for (flag, word) in [(control::NEW_EXCLUSIVE, "NEWEXCL"), (control::FS, "FS")] {
            if flags & flag != 0 {
                write!(out, "{word} ")?;
            }
        }
    }
    writeln!(out)
}

/// The listing of `dlm_tool lockdump`.
pub(crate) fn lockdump(out: &mut impl Write, locks: &[Lock]) -> Result<()> {
    for lock in locks {
        let (granted, requested) = (lock.granted.name(), lock.requested.name());
        write!(
            out,
            "id {:08x} gr {granted} rq {requested} pid {} ",
            lock.id, lock.pid
        )?;
        if lock.is_master_copy() {
            write!(out, "MSTCPY {} \"", lock.node)?;
        } else {
            write!(out, "master {} \"", lock.master)?;
        }
        out.write_all(&lock.raw)?;
        writeln!(out, "\"")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
