// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! What programs write to and read from `dlm-control` and `dlm_<lockspace>` (interface 6.0.2).
//!
//! Not the behaviour behind it: that is `device.rs` of the module. Everything here is decoding and
//! encoding of bytes, without `unsafe`: no length, offset or number of a program is trusted, and a
//! request that does not fit its own fields is refused as a whole.
//!
//! Write request, byte offsets (host byte order). Programs of 64 bits (`is64bit` 1) send 120 bytes
//! and the name, programs of 32 bits 100 bytes (where 64-bit integers are aligned to 4, as on i386)
//! or 104 (aligned to 8), and the name at 100 in both cases:
//!
//! | Field | 64 | 32 | | Field | 64 | 32 |
//! |---|---|---|---|---|---|---|
//! | version `[u32; 3]` | 0 | 0 | | lock.xid u64 | 32 | 32 |
//! | cmd u8 | 12 | 12 | | lock.timeout u64, ignored | 40 | 40 |
//! | is64bit u8 | 13 | 13 | | lock.castparam pointer | 48 | 48 |
//! | lock.mode u8 | 16 | 16 | | lock.castaddr pointer | 56 | 52 |
//! | lock.namelen u8 | 17 | 17 | | lock.bastparam pointer | 64 | 56 |
//! | lock.flags u32 | 20 | 20 | | lock.bastaddr pointer | 72 | 60 |
//! | lock.lkid u32 | 24 | 24 | | lock.lksb pointer | 80 | 64 |
//! | lock.parent u32, ignored | 28 | 28 | | lock.lvb `[u8; 32]` | 88 | 68 |
//! | | | | | lock.name | 120 | 100 |
//! | lspace.flags, minor u32 | 16, 20 | same | | purge.nodeid, pid u32 | 16, 20 | same |
//! | lspace.name, string | 24 | 24 | | | | |
//!
//! Result:
//!
//! | Field | 64 | 32 | | Field | 64 | 32 |
//! |---|---|---|---|---|---|---|
//! | version `[u32; 3]` | 0 | 0 | | lksb.sb_status i32 | 40 | 28 |
//! | length u32 | 12 | 12 | | lksb.sb_lkid u32 | 44 | 32 |
//! | user_astaddr pointer | 16 | 16 | | lksb.sb_flags u8 | 48 | 36 |
//! | user_astparam pointer | 24 | 20 | | lksb.sb_lvbptr, always 0 | 56 | 40 |
//! | user_lksb pointer | 32 | 24 | | bast_mode u8 | 64 | 44 |
//! | | | | | lvb_offset u32 | 68 | 48 |
//! | | | | | the value block, if any | 72 | 52 |

/// Version of the interface: major must be equal, a program's minor must not be larger.
pub const VERSION: [u32; 3] = [6, 0, 2];
/// Size of `struct dlm_device_version`: a read of exactly this many bytes returns the version.
pub const VERSION_LEN: usize = 12;
/// Bytes of a value block of a program.
pub const LVB_LEN: usize = 32;
/// Longest resource name and lockspace name.
pub const NAME_MAX: usize = 64;
/// Request of a 64-bit program without the name.
pub const REQUEST_LEN: usize = 120;
/// Request of a 32-bit program without the name, where 64-bit integers are aligned to 4 bytes.
pub const REQUEST32_LEN: usize = 100;
/// The same where they are aligned to 8 bytes: the end is padded, the name still begins at 100.
pub const REQUEST32_PADDED_LEN: usize = 104;
/// No request is longer.
pub const REQUEST_MAX: usize = REQUEST_LEN + NAME_MAX;
/// Result for a 64-bit program, without a value block.
pub const RESULT_LEN: usize = 72;
/// Result for a 32-bit program, without a value block.
pub const RESULT32_LEN: usize = 52;
/// No result is longer.
pub const RESULT_MAX: usize = RESULT_LEN + LVB_LEN;

const _: () = assert!(REQUEST_LEN == Native::LVB + LVB_LEN);
const _: () = assert!(REQUEST32_LEN == Compat::LVB + LVB_LEN);
const _: () = assert!(REQUEST32_PADDED_LEN == REQUEST32_LEN.next_multiple_of(8));
const _: () = assert!(RESULT_LEN == 68 + 4 && RESULT32_LEN == 48 + 4);

/// `DLM_USER_*`.
const CMD_LOCK: u8 = 1;
const CMD_UNLOCK: u8 = 2;
const CMD_CREATE_LOCKSPACE: u8 = 4;
const CMD_REMOVE_LOCKSPACE: u8 = 5;
const CMD_PURGE: u8 = 6;
const CMD_DEADLOCK: u8 = 7;

/// Removal of a lockspace even if it holds locks (`DLM_USER_LSFLG_FORCEFREE`).
pub const REMOVE_FORCE: u32 = 2;

/// Which of the two layouts a program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A program of 64 bits.
    Native,
    /// A program of 32 bits on this 64-bit kernel.
    Compat,
}

/// Why a request is refused before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Shorter or longer than any request, or than its own name length says.
    Length,
    /// Made for another version of the interface.
    Version([u32; 3]),
    /// No such command.
    Command(u8),
}

/// A request, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Layout of the request, and of the results this file is to get.
    pub layout: Layout,
    /// What is asked.
    pub command: Command<'a>,
}

/// The commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// New lock, conversion or adoption of an orphan, by its flags.
    Lock(LockParams<'a>),
    /// Unlock or cancel, by its flags.
    Unlock(LockParams<'a>),
    /// Cancel whose completion says that a deadlock was the reason.
    Deadlock(LockParams<'a>),
    /// Creates a lockspace, or one more use of it.
    CreateLockspace {
        /// `DLM_LSFL_*` as the program gave them.
        flags: u32,
        /// Up to the terminating zero.
        name: &'a [u8],
    },
    /// Ends one use of the lockspace with this minor number.
    RemoveLockspace {
        /// [`REMOVE_FORCE`] or nothing.
        flags: u32,
        /// Minor number of its device.
        minor: u32,
    },
    /// Drops orphans, or the locks of the open file.
    Purge {
        /// Whose node; 0 is this one.
        nodeid: u32,
        /// Whose orphans; 0 is everybody's.
        pid: u32,
    },
}

/// The lock part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockParams<'a> {
    /// Mode asked for, not yet checked.
    pub mode: u8,
    /// `DLM_LKF_*`.
    pub flags: u32,
    /// Lock that is meant; of no meaning for a new one.
    pub lkid: u32,
    /// Transaction number, kept and shown only.
    pub xid: u64,
    /// Pointers of the program, opaque here.
    pub user: UserPointers,
    /// Value block as the program sent it.
    pub lvb: &'a [u8; LVB_LEN],
    /// Length of the name as the program gave it.
    pub namelen: u8,
    /// What follows the fixed part: begins with the name in a new request, garbage otherwise.
    trailer: &'a [u8],
}

impl<'a> LockParams<'a> {
    /// The resource name of a new request; `None` if it is longer than a name may be or than what
    /// the program sent.
    pub fn name(&self) -> Option<&'a [u8]> {
        let len = usize::from(self.namelen);
        if len > NAME_MAX {
            return None;
        }
        self.trailer.get(..len)
    }
}

/// What a program wants back with a result; opaque to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserPointers {
    /// Argument of the completion routine.
    pub castparam: u64,
    /// Completion routine.
    pub castaddr: u64,
    /// Argument of the blocking routine.
    pub bastparam: u64,
    /// Blocking routine; 0: no blocking callbacks wanted.
    pub bastaddr: u64,
    /// Status block of the program.
    pub lksb: u64,
}

/// Offsets of the lock part that depend on the size of a pointer.
trait Offsets {
    const POINTER: usize;
    const CASTPARAM: usize = 48;
    const CASTADDR: usize = Self::CASTPARAM + Self::POINTER;
    const BASTPARAM: usize = Self::CASTADDR + Self::POINTER;
    const BASTADDR: usize = Self::BASTPARAM + Self::POINTER;
    const LKSB: usize = Self::BASTADDR + Self::POINTER;
    const LVB: usize = Self::LKSB + Self::POINTER;
    const NAME: usize = Self::LVB + LVB_LEN;

    fn pointer(buf: &[u8], at: usize) -> Option<u64>;

    fn pointers(buf: &[u8]) -> Option<UserPointers> {
        Some(UserPointers {
            castparam: Self::pointer(buf, Self::CASTPARAM)?,
            castaddr: Self::pointer(buf, Self::CASTADDR)?,
            bastparam: Self::pointer(buf, Self::BASTPARAM)?,
            bastaddr: Self::pointer(buf, Self::BASTADDR)?,
            lksb: Self::pointer(buf, Self::LKSB)?,
        })
    }

    fn lock_params(buf: &[u8]) -> Option<LockParams<'_>> {
        Some(LockParams {
            mode: *buf.get(16)?,
            namelen: *buf.get(17)?,
            flags: u32_at(buf, 20)?,
            lkid: u32_at(buf, 24)?,
            xid: u64_at(buf, 32)?,
            user: Self::pointers(buf)?,
            lvb: buf.get(Self::LVB..)?.first_chunk()?,
            trailer: buf.get(Self::NAME..)?,
        })
    }
}

struct Native;
struct Compat;

impl Offsets for Native {
    const POINTER: usize = 8;
    fn pointer(buf: &[u8], at: usize) -> Option<u64> {
        u64_at(buf, at)
    }
}

impl Offsets for Compat {
    const POINTER: usize = 4;
    fn pointer(buf: &[u8], at: usize) -> Option<u64> {
        u32_at(buf, at).map(u64::from)
    }
}

fn u32_at(buf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*buf.get(at..)?.first_chunk()?))
}

fn u64_at(buf: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*buf.get(at..)?.first_chunk()?))
}

fn version_at(buf: &[u8]) -> Option<[u32; 3]> {
    Some([u32_at(buf, 0)?, u32_at(buf, 4)?, u32_at(buf, 8)?])
}

/// Decodes one write to a device.
pub fn decode_request(buf: &[u8]) -> Result<Request<'_>, RequestError> {
    if buf.len() < REQUEST32_LEN || buf.len() > REQUEST_MAX {
        return Err(RequestError::Length);
    }
    let version = version_at(buf).ok_or(RequestError::Length)?;
    if version[0] != VERSION[0] || version[1] > VERSION[1] {
        return Err(RequestError::Version(version));
    }
    let layout = match buf[13] {
        0 => Layout::Compat,
        _ => Layout::Native,
    };
    if layout == Layout::Native && buf.len() < REQUEST_LEN {
        return Err(RequestError::Length);
    }
    let command = decode_command(buf[12], layout, buf)?;
    Ok(Request { layout, command })
}

fn decode_command(cmd: u8, layout: Layout, buf: &[u8]) -> Result<Command<'_>, RequestError> {
    let lock = || {
        match layout {
            Layout::Native => Native::lock_params(buf),
            Layout::Compat => Compat::lock_params(buf),
        }
        .ok_or(RequestError::Length)
    };
    let word = |at| u32_at(buf, at).ok_or(RequestError::Length);
    Ok(match cmd {
        CMD_LOCK => Command::Lock(lock()?),
        CMD_UNLOCK => Command::Unlock(lock()?),
        CMD_DEADLOCK => Command::Deadlock(lock()?),
        CMD_CREATE_LOCKSPACE => Command::CreateLockspace {
            flags: word(16)?,
            name: until_zero(buf.get(24..).ok_or(RequestError::Length)?),
        },
        CMD_REMOVE_LOCKSPACE => Command::RemoveLockspace {
            flags: word(16)?,
            minor: word(20)?,
        },
        CMD_PURGE => Command::Purge {
            nodeid: word(16)?,
            pid: word(20)?,
        },
        unknown => return Err(RequestError::Command(unknown)),
    })
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// The answer to a read of [`VERSION_LEN`] bytes.
pub fn encode_version() -> [u8; VERSION_LEN] {
    let mut out = [0; VERSION_LEN];
    put_version(&mut out);
    out
}

fn put_version(out: &mut [u8]) {
    for (i, word) in VERSION.iter().enumerate() {
        out[4 * i..4 * i + 4].copy_from_slice(&word.to_ne_bytes());
    }
}

/// One completion or blocking callback on its way to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockResult {
    /// Routine to call.
    pub astaddr: u64,
    /// Its argument.
    pub astparam: u64,
    /// Status block of the program.
    pub user_lksb: u64,
    /// Status: 0 or a negative number.
    pub status: i32,
    /// The lock.
    pub lkid: u32,
    /// `DLM_SBF_*`.
    pub sb_flags: u8,
    /// Mode of who is blocked; 0 in a completion.
    pub bast_mode: u8,
}

/// A result in the bytes the program reads.
#[derive(Clone, Copy, Debug)]
pub struct EncodedResult {
    bytes: [u8; RESULT_MAX],
    len: usize,
}

impl EncodedResult {
    /// What the program gets.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Smallest buffer a program may read with.
pub const fn result_len(layout: Layout) -> usize {
    match layout {
        Layout::Native => RESULT_LEN,
        Layout::Compat => RESULT32_LEN,
    }
}

impl LockResult {
    /// Encodes for a program of `layout` with a buffer of `room` bytes. The value block is appended
    /// if it fits. `None` if not even the result fits.
    pub fn encode(
        &self,
        layout: Layout,
        lvb: Option<&[u8; LVB_LEN]>,
        room: usize,
    ) -> Option<EncodedResult> {
        let fixed = result_len(layout);
        if room < fixed {
            return None;
        }
        let lvb = lvb.filter(|_| room >= fixed + LVB_LEN);
        let mut out = EncodedResult {
            bytes: [0; RESULT_MAX],
            len: fixed + lvb.map_or(0, |_| LVB_LEN),
        };
        let bytes = &mut out.bytes;
        put_version(bytes);
        put_u32(bytes, 12, out.len as u32);
        match layout {
            Layout::Native => self.put_native(bytes, lvb.is_some()),
            Layout::Compat => self.put_compat(bytes, lvb.is_some()),
        }
        if let Some(lvb) = lvb {
            bytes[fixed..fixed + LVB_LEN].copy_from_slice(lvb);
        }
        Some(out)
    }

    fn put_native(&self, bytes: &mut [u8; RESULT_MAX], lvb: bool) {
        put_u64(bytes, 16, self.astaddr);
        put_u64(bytes, 24, self.astparam);
        put_u64(bytes, 32, self.user_lksb);
        put_u32(bytes, 40, self.status as u32);
        put_u32(bytes, 44, self.lkid);
        bytes[48] = self.sb_flags;
        bytes[64] = self.bast_mode;
        put_u32(bytes, 68, if lvb { RESULT_LEN as u32 } else { 0 });
    }

    fn put_compat(&self, bytes: &mut [u8; RESULT_MAX], lvb: bool) {
        // What a 32-bit program sent as pointers fits 32 bits.
        put_u32(bytes, 16, self.astaddr as u32);
        put_u32(bytes, 20, self.astparam as u32);
        put_u32(bytes, 24, self.user_lksb as u32);
        put_u32(bytes, 28, self.status as u32);
        put_u32(bytes, 32, self.lkid);
        bytes[36] = self.sb_flags;
        bytes[44] = self.bast_mode;
        put_u32(bytes, 48, if lvb { RESULT32_LEN as u32 } else { 0 });
    }
}

fn put_u32(bytes: &mut [u8; RESULT_MAX], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn put_u64(bytes: &mut [u8; RESULT_MAX], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock request byte by byte, as libdlm sends it.
    fn golden(layout: Layout, cmd: u8, name: &[u8], padded: bool) -> Vec<u8> {
        let mut b = Vec::new();
        for word in [6u32, 0, 2] {
            b.extend(word.to_ne_bytes());
        }
        b.extend([cmd, u8::from(layout == Layout::Native), 0, 0]);
        b.extend([5, name.len() as u8, 0, 0]);
        b.extend(0x48u32.to_ne_bytes());
        b.extend(0x1234u32.to_ne_bytes());
        b.extend(0u32.to_ne_bytes());
        b.extend(0x1122_3344_5566_7788u64.to_ne_bytes());
        b.extend(9u64.to_ne_bytes());
        for pointer in [0x1001u32, 0x1002, 0x1003, 0x1004, 0x1005] {
            match layout {
                Layout::Native => b.extend(u64::from(pointer).to_ne_bytes()),
                Layout::Compat => b.extend(pointer.to_ne_bytes()),
            }
        }
        b.extend((0..32).map(|i| i as u8 + 1));
        b.extend(name);
        if padded {
            b.extend([0xee; 4]);
        }
        b
    }

    fn lock(buf: &[u8]) -> LockParams<'_> {
        let command = decode_request(buf).unwrap().command;
        let Command::Lock(params) = command else {
            panic!("{command:?}")
        };
        params
    }

    #[test]
    fn lock_request_has_its_golden_layout_in_all_three_forms() {
        let forms = [
            (Layout::Native, false, 124),
            (Layout::Compat, false, 104),
            (Layout::Compat, true, 108),
        ];
        for (layout, padded, len) in forms {
            let bytes = golden(layout, CMD_LOCK, b"fooo", padded);
            assert_eq!(bytes.len(), len);
            assert_eq!(decode_request(&bytes).unwrap().layout, layout);
            let p = lock(&bytes);
            assert_eq!((p.mode, p.flags, p.lkid), (5, 0x48, 0x1234));
            assert_eq!(p.xid, 0x1122_3344_5566_7788);
            assert_eq!(p.user.castparam, 0x1001);
            assert_eq!(p.user.castaddr, 0x1002);
            assert_eq!(p.user.bastparam, 0x1003);
            assert_eq!(p.user.bastaddr, 0x1004);
            assert_eq!(p.user.lksb, 0x1005);
            assert_eq!(p.lvb[0], 1);
            assert_eq!(p.lvb[31], 32);
            assert_eq!(p.name(), Some(&b"fooo"[..]));
        }
    }

    #[test]
    fn short_names_of_32_bit_programs_are_kept_whole() {
        let bytes = golden(Layout::Compat, CMD_LOCK, b"ab", false);
        assert_eq!(bytes.len(), 102);
        assert_eq!(lock(&bytes).name(), Some(&b"ab"[..]));
    }

    #[test]
    fn a_name_longer_than_what_was_sent_is_refused() {
        let mut bytes = golden(Layout::Native, CMD_LOCK, b"abcd", false);
        bytes[17] = 5;
        assert_eq!(lock(&bytes).name(), None);
        bytes[17] = 65;
        bytes.resize(REQUEST_MAX, 0);
        assert_eq!(lock(&bytes).name(), None);
        bytes[17] = 64;
        assert_eq!(lock(&bytes).name().map(<[u8]>::len), Some(64));
    }

    #[test]
    fn every_wrong_length_is_refused() {
        for len in 0..=300 {
            for layout in [Layout::Native, Layout::Compat] {
                let mut bytes = golden(layout, CMD_UNLOCK, b"", false);
                bytes.resize(len, 0);
                let min = match layout {
                    Layout::Native => REQUEST_LEN,
                    Layout::Compat => REQUEST32_LEN,
                };
                let right = (min..=REQUEST_MAX).contains(&len);
                assert_eq!(decode_request(&bytes).is_ok(), right, "{layout:?} {len}");
            }
        }
    }

    #[test]
    fn other_versions_and_commands_are_named() {
        let mut bytes = golden(Layout::Native, CMD_LOCK, b"", false);
        bytes[0..4].copy_from_slice(&5u32.to_ne_bytes());
        let version = RequestError::Version([5, 0, 2]);
        assert_eq!(decode_request(&bytes), Err(version));
        let mut bytes = golden(Layout::Native, CMD_LOCK, b"", false);
        bytes[4..8].copy_from_slice(&1u32.to_ne_bytes());
        let version = RequestError::Version([6, 1, 2]);
        assert_eq!(decode_request(&bytes), Err(version));
        // A newer patch level is fine.
        let mut bytes = golden(Layout::Native, CMD_LOCK, b"", false);
        bytes[8..12].copy_from_slice(&77u32.to_ne_bytes());
        assert!(decode_request(&bytes).is_ok());
        for cmd in [0, 3, 8, 255] {
            let bytes = golden(Layout::Native, cmd, b"", false);
            assert_eq!(decode_request(&bytes), Err(RequestError::Command(cmd)));
        }
    }

    #[test]
    fn lockspace_and_purge_requests_have_their_golden_layout() {
        let mut bytes = golden(Layout::Native, CMD_CREATE_LOCKSPACE, b"", false);
        bytes[16..20].copy_from_slice(&8u32.to_ne_bytes());
        bytes[24..31].copy_from_slice(b"space1\0");
        let expected = Command::CreateLockspace {
            flags: 8,
            name: b"space1",
        };
        assert_eq!(decode_request(&bytes).unwrap().command, expected);
        bytes[12] = CMD_REMOVE_LOCKSPACE;
        bytes[20..24].copy_from_slice(&61u32.to_ne_bytes());
        let expected = Command::RemoveLockspace {
            flags: 8,
            minor: 61,
        };
        assert_eq!(decode_request(&bytes).unwrap().command, expected);
        bytes[12] = CMD_PURGE;
        let expected = Command::Purge { nodeid: 8, pid: 61 };
        assert_eq!(decode_request(&bytes).unwrap().command, expected);
    }

    #[test]
    fn a_lockspace_name_without_an_end_stops_at_the_end() {
        let mut bytes = golden(Layout::Native, CMD_CREATE_LOCKSPACE, b"", false);
        bytes[24..].fill(b'x');
        let command = decode_request(&bytes).unwrap().command;
        let Command::CreateLockspace { name, .. } = command else {
            panic!("{command:?}")
        };
        assert_eq!(name.len(), 120 - 24);
    }

    const RESULT: LockResult = LockResult {
        astaddr: 0x0a0b,
        astparam: 0x0c0d,
        user_lksb: 0x0e0f,
        status: -0x10002,
        lkid: 0x55,
        sb_flags: 2,
        bast_mode: 5,
    };

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32_at(bytes, at).unwrap()
    }

    #[test]
    fn result_has_its_golden_layout() {
        let lvb = [7; LVB_LEN];
        let out = RESULT.encode(Layout::Native, Some(&lvb), 104).unwrap();
        let b = out.bytes();
        assert_eq!(b.len(), 104);
        assert_eq!(&b[..12], encode_version().as_slice());
        assert_eq!(word(b, 12), 104);
        assert_eq!(u64_at(b, 16), Some(0x0a0b));
        assert_eq!(u64_at(b, 24), Some(0x0c0d));
        assert_eq!(u64_at(b, 32), Some(0x0e0f));
        assert_eq!(word(b, 40) as i32, -0x10002);
        assert_eq!(word(b, 44), 0x55);
        assert_eq!((b[48], b[64]), (2, 5));
        assert_eq!(u64_at(b, 56), Some(0));
        assert_eq!(word(b, 68), 72);
        assert_eq!(&b[72..], lvb);
    }

    #[test]
    fn result_of_32_bits_has_its_golden_layout() {
        let lvb = [7; LVB_LEN];
        let out = RESULT.encode(Layout::Compat, Some(&lvb), 84).unwrap();
        let b = out.bytes();
        assert_eq!(b.len(), 84);
        assert_eq!(word(b, 12), 84);
        assert_eq!(word(b, 16), 0x0a0b);
        assert_eq!(word(b, 20), 0x0c0d);
        assert_eq!(word(b, 24), 0x0e0f);
        assert_eq!(word(b, 28) as i32, -0x10002);
        assert_eq!(word(b, 32), 0x55);
        assert_eq!((b[36], b[44]), (2, 5));
        assert_eq!(word(b, 40), 0);
        assert_eq!(word(b, 48), 52);
        assert_eq!(&b[52..], lvb);
    }

    #[test]
    fn a_value_block_without_room_is_left_out_and_a_result_without_room_is_kept() {
        let lvb = [7; LVB_LEN];
        for (layout, fixed) in [(Layout::Native, 72), (Layout::Compat, 52)] {
            let out = RESULT.encode(layout, Some(&lvb), fixed + 31).unwrap();
            assert_eq!(out.bytes().len(), fixed);
            assert_eq!(word(out.bytes(), 12), fixed as u32);
            assert_eq!(word(out.bytes(), fixed - 4), 0);
            assert!(RESULT.encode(layout, None, fixed - 1).is_none());
        }
    }
}
