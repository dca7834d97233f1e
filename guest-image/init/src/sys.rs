//! The system calls that need `unsafe`: those that neither the standard library nor nix has.

use std::arch::x86_64::__cpuid_count;
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

use crate::report::{SNP_MESSAGE, TDX_REPORT};

/// The program's entry. The standard library's own ends a program that starts without open files where there is no
/// /dev/null to give it instead, and that is how the kernel starts PID 1 without a /dev/console.
#[cfg(not(test))]
// SAFETY: no other symbol of this name exists, because the crate has `no_main`; the C library calls it once.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _words: *const *const std::ffi::c_char) -> c_int {
    super::start()
}

/// Numbers of the device mapper's requests (Linux, `include/uapi/linux/dm-ioctl.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmRequest {
    /// `DM_DEV_CREATE`.
    Create = 3,
    /// `DM_DEV_REMOVE`.
    Remove = 4,
    /// `DM_DEV_SUSPEND`, which without its flag resumes.
    Resume = 6,
    /// `DM_TABLE_LOAD`.
    Load = 9,
}

/// Size of `struct dm_ioctl`, the head of every request.
pub const DM_HEAD: usize = 312;

/// A request to the device mapper, whose answer replaces it.
///
/// # Errors
///
/// The kernel's, or a message shorter than its head.
pub fn device_mapper(control: impl AsFd, request: DmRequest, message: &mut [u8]) -> io::Result<()> {
    if message.len() < DM_HEAD {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    message[12..16].copy_from_slice(&length.to_ne_bytes());
    let code = libc::_IOWR::<[u8; DM_HEAD]>(0xfd, request as u32);
    // SAFETY: the kernel reads and writes `data_size` bytes, which was just set to the message's length.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), code, message.as_mut_ptr()) })?;
    Ok(())
}

/// Fills a buffer with random bytes, once the kernel has some (getrandom(2)).
///
/// # Errors
///
/// The kernel's.
pub fn random(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: the kernel writes at most the buffer's length into it.
    let written = check(unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) } as i64)?;
    // Up to 256 bytes come whole.
    if written == buffer.len() as i64 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Grows the ext4 file system of an open directory while it is mounted (Linux, `include/uapi/linux/ext4.h`,
/// `EXT4_IOC_RESIZE_FS`).
///
/// # Errors
///
/// The kernel's.
pub fn grow_ext4(directory: impl AsFd, blocks: u64) -> io::Result<()> {
    let code = libc::_IOW::<u64>(u32::from(b'f'), 16);
    // SAFETY: the request reads one 64-bit number.
    check(unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), code, &raw const blocks) })?;
    Ok(())
}

/// A tmpfs that is mounted nowhere: what is made in it has no name that anybody else could open.
///
/// # Errors
///
/// The kernel's.
pub fn detached_tmpfs() -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: c_int = 1;
    const FSCONFIG_CMD_CREATE: c_int = 6;
    const FSMOUNT_CLOEXEC: c_int = 1;
    let name: &CStr = c"tmpfs";
    // SAFETY: the name ends with a NUL and outlives the call.
    let fs = owned(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?;
    let none: *const c_void = std::ptr::null();
    // SAFETY: this command takes neither key nor value.
    let made = unsafe {
        libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0 as c_int)
    };
    check(made)?;
    // SAFETY: numbers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, 0 as c_int) })
}

/// The same open file under a number that is none of the standard streams'.
///
/// # Errors
///
/// The kernel's.
pub fn above_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is open; the new number belongs to nobody else.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })
}

/// Makes an open file all three standard streams.
///
/// # Errors
///
/// The kernel's.
pub fn become_streams(fd: impl AsFd) -> io::Result<()> {
    for stream in 0..3 {
        // SAFETY: numbers only; nothing owns the standard streams' numbers as such.
        check(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), stream) })?;
    }
    Ok(())
}

/// The VM's own vsock address, asked of the open device `vsock` (`IOCTL_VM_SOCKETS_GET_LOCAL_CID`, vsock(7)).
///
/// # Errors
///
/// The kernel's.
pub fn local_cid(vsock: impl AsFd) -> io::Result<u32> {
    let mut cid: u32 = 0;
    // SAFETY: the request writes one `unsigned int`.
    check(unsafe { libc::ioctl(vsock.as_fd().as_raw_fd(), libc::_IO(7, 0xb9), &raw mut cid) })?;
    Ok(cid)
}

/// Bytes that a socket has taken and its peer not yet (`SIOCOUTQ`).
///
/// # Errors
///
/// The kernel's.
pub fn unsent(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one `int`; its number is the terminal's request of the same meaning.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Gives the kernel a program that decides over devices (bpf(2), `BPF_PROG_LOAD`).
///
/// # Errors
///
/// The kernel's: what its verifier refuses is `EACCES` or `EINVAL`.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: c_int = 5;
    const CGROUP_DEVICE: u32 = 15;
    /// The first fields of `union bpf_attr` for this command; the kernel takes the rest as zeros.
    #[repr(C)]
    struct Attributes {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let license: &CStr = c"Apache-2.0";
    let attributes = Attributes {
        prog_type: CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the attributes and what they point at outlive the call, and the count is that of the instructions.
    owned(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Attributes>()) })
}

/// Attaches such a program to a cgroup (bpf(2), `BPF_PROG_ATTACH`).
///
/// # Errors
///
/// The kernel's.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    const PROG_ATTACH: c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    #[repr(C)]
    struct Attributes {
        target: RawFd,
        program: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let attributes = Attributes {
        target: cgroup.as_fd().as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        // Without flags nobody below may attach another program in its place.
        flags: 0,
    };
    // SAFETY: the attributes outlive the call and have the layout that this command reads.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of::<Attributes>())
    })?;
    Ok(())
}

/// EAX, EBX, ECX, EDX of a CPUID leaf.
#[allow(unused_unsafe, reason = "newer compilers know that the instruction is safe")]
pub fn cpuid(leaf: u32) -> [u32; 4] {
    // SAFETY: every x86-64 processor has the instruction.
    let answer = unsafe { __cpuid_count(leaf, 0) };
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// The security processor's answer to a request for a report, over the open device `guest` (Linux,
/// `include/uapi/linux/sev-guest.h`, `SNP_GET_REPORT`).
///
/// # Errors
///
/// The kernel's, or the firmware's.
pub fn snp_report(guest: impl AsFd) -> io::Result<[u8; SNP_MESSAGE]> {
    #[repr(C)]
    struct Request {
        user_data: [u8; 64],
        vmpl: u32,
        reserved: [u8; 28],
    }
    #[repr(C)]
    struct Call {
        version: u8,
        request: u64,
        answer: u64,
        errors: u64,
    }
    let request = Request { user_data: [0; 64], vmpl: 0, reserved: [0; 28] };
    let mut answer = [0; SNP_MESSAGE];
    let mut call = Call {
        version: 1,
        request: &raw const request as u64,
        answer: answer.as_mut_ptr() as u64,
        errors: 0,
    };
    let code = libc::_IOWR::<Call>(u32::from(b'S'), 0);
    // SAFETY: the kernel reads `request`, writes an answer of this length and the errors; all outlive the call.
    check(unsafe { libc::ioctl(guest.as_fd().as_raw_fd(), code, &raw mut call) })?;
    match call.errors {
        0 => Ok(answer),
        errors => Err(io::Error::other(format!("the firmware answers {errors:#x}"))),
    }
}

/// A TDREPORT from the open device `guest` (Linux, `include/uapi/linux/tdx-guest.h`, `TDX_CMD_GET_REPORT0`).
///
/// # Errors
///
/// The kernel's.
pub fn tdx_report(guest: impl AsFd) -> io::Result<[u8; TDX_REPORT]> {
    #[repr(C)]
    struct Call {
        data: [u8; 64],
        report: [u8; TDX_REPORT],
    }
    let mut call = Call { data: [0; 64], report: [0; TDX_REPORT] };
    let code = libc::_IOWR::<Call>(u32::from(b'T'), 1);
    // SAFETY: the kernel reads and writes one such structure, which outlives the call.
    check(unsafe { libc::ioctl(guest.as_fd().as_raw_fd(), code, &raw mut call) })?;
    Ok(call.report)
}

fn check<T: Into<i64> + Copy>(result: T) -> io::Result<i64> {
    let result = result.into();
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned<T: Into<i64> + Copy>(result: T) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel just gave this number to this process, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
