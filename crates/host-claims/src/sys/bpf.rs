//! bpf(2), as far as it takes to give the connections of a network namespace to a socket. The layouts are those of
//! `union bpf_attr` in linux/bpf.h, of which each command reads the first fields; the rest counts as zeros.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{SYS_bpf, c_int, syscall};

/// `BPF_SK_LOOKUP`.
const SK_LOOKUP: u32 = 36;

/// A map that holds the one socket `listener` (`BPF_MAP_TYPE_SOCKMAP`).
pub(crate) fn map_of(listener: impl AsFd) -> io::Result<OwnedFd> {
    const MAP_CREATE: c_int = 0;
    const MAP_UPDATE_ELEM: c_int = 2;
    const SOCKMAP: u32 = 15;
    #[repr(C)]
    struct Map {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    #[repr(C)]
    struct Element {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let map = Map { map_type: SOCKMAP, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0 };
    // SAFETY: the attributes outlive the call and have the layout and size that are passed.
    let map = owned(unsafe { syscall(SYS_bpf, MAP_CREATE, &raw const map, size_of::<Map>()) })?;
    let (key, value) = (0_u32, listener.as_fd().as_raw_fd());
    let element = Element {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    // SAFETY: as above; key and value are four bytes each, as the map was made, and outlive the call too.
    Errno::result(unsafe { syscall(SYS_bpf, MAP_UPDATE_ELEM, &raw const element, size_of::<Element>()) })?;
    Ok(map)
}

/// Gives the kernel a program that looks sockets up (`BPF_PROG_TYPE_SK_LOOKUP`). What its verifier refuses is `EACCES` or
/// `EINVAL`.
pub(crate) fn load_lookup(instructions: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: c_int = 5;
    const TYPE_SK_LOOKUP: u32 = 30;
    #[repr(C)]
    struct Program {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let license = c"Apache-2.0";
    let program = Program {
        prog_type: TYPE_SK_LOOKUP,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"coffer_forward\0\0",
        prog_ifindex: 0,
        expected_attach_type: SK_LOOKUP,
    };
    // SAFETY: the attributes and what they point at outlive the call, and the count is that of the instructions.
    owned(unsafe { syscall(SYS_bpf, PROG_LOAD, &raw const program, size_of::<Program>()) })
}

/// Has a namespace ask such a program, until the descriptor that is returned is closed.
pub(crate) fn attach_lookup(program: impl AsFd, netns: impl AsFd) -> io::Result<OwnedFd> {
    const LINK_CREATE: c_int = 28;
    #[repr(C)]
    struct Link {
        program: RawFd,
        target: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let link = Link {
        program: program.as_fd().as_raw_fd(),
        target: netns.as_fd().as_raw_fd(),
        attach_type: SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the attributes outlive the call and have the layout and size that are passed.
    owned(unsafe { syscall(SYS_bpf, LINK_CREATE, &raw const link, size_of::<Link>()) })
}

fn owned(result: i64) -> io::Result<OwnedFd> {
    let fd = c_int::try_from(Errno::result(result)?).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel just made this descriptor, close-on-exec, for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
