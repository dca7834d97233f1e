//! VFIO's ioctls and the mapping of a BAR. The only unsafe code of this crate.
//!
//! Numbers and structures: include/uapi/linux/vfio.h of the Linux kernel, through crate vfio-bindings.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr::NonNull;
use std::{ffi, io, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_DEVICE_FLAGS_RESET, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE,
    VFIO_TYPE1v2_IOMMU, vfio_device_bind_iommufd, vfio_device_info, vfio_group_status, vfio_region_info,
};

const GET_API_VERSION: libc::Ioctl = number(0);
const SET_IOMMU: libc::Ioctl = number(2);
const GROUP_GET_STATUS: libc::Ioctl = number(3);
const GROUP_SET_CONTAINER: libc::Ioctl = number(4);
const GROUP_GET_DEVICE_FD: libc::Ioctl = number(6);
const DEVICE_GET_INFO: libc::Ioctl = number(7);
const DEVICE_GET_REGION_INFO: libc::Ioctl = number(8);
const DEVICE_RESET: libc::Ioctl = number(11);
const DEVICE_PCI_HOT_RESET: libc::Ioctl = number(13);
const DEVICE_BIND_IOMMUFD: libc::Ioctl = number(18);

/// VFIO's requests are all `_IO(VFIO_TYPE, VFIO_BASE + n)`: no direction, no size.
const fn number(n: libc::Ioctl) -> libc::Ioctl {
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE as libc::Ioctl + n)
}

const fn size_of_u32<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size < 4096);
    #[expect(clippy::cast_possible_truncation, reason = "just checked")]
    let size = size as u32;
    size
}

/// A region of a VFIO device: where it starts in the device's file, in bytes, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// Where region `index` is.
pub(crate) fn region(device: &File, index: u32) -> io::Result<Region> {
    let mut info = vfio_region_info { argsz: size_of_u32::<vfio_region_info>(), index, ..Default::default() };
    // SAFETY: the request reads and writes one vfio_region_info, which lives through the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_GET_REGION_INFO, &raw mut info) })?;
    Ok(Region { offset: info.offset, size: info.size })
}

/// Binds an open device node to an iommufd object, which opens the device's regions to us.
pub(crate) fn bind_iommufd(device: &File, iommufd: &File) -> io::Result<()> {
    let mut bind = vfio_device_bind_iommufd {
        argsz: size_of_u32::<vfio_device_bind_iommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the request reads and writes one vfio_device_bind_iommufd, which lives through the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_BIND_IOMMUFD, &raw mut bind) })?;
    Ok(())
}

/// Puts an open group into an open container and gives the container an IOMMU.
pub(crate) fn join_group(group: &File, container: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    let version = Errno::result(unsafe { libc::ioctl(container.as_raw_fd(), GET_API_VERSION) })?;
    if u32::try_from(version) != Ok(VFIO_API_VERSION) {
        return Err(io::Error::other(format!("VFIO's API has version {version}")));
    }
    let mut status = vfio_group_status { argsz: size_of_u32::<vfio_group_status>(), ..Default::default() };
    // SAFETY: the request reads and writes one vfio_group_status, which lives through the call.
    Errno::result(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_STATUS, &raw mut status) })?;
    if status.flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        // What the kernel would answer a few calls later, without the reason.
        return Err(Errno::EPERM.into());
    }
    let fd: RawFd = container.as_raw_fd();
    // SAFETY: the request reads one int, which lives through the call.
    Errno::result(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_SET_CONTAINER, &raw const fd) })?;
    let kind = libc::c_ulong::from(VFIO_TYPE1v2_IOMMU);
    // SAFETY: the request takes its argument by value.
    Errno::result(unsafe { libc::ioctl(container.as_raw_fd(), SET_IOMMU, kind) })?;
    Ok(())
}

/// The device with this address, of a group that is in a container.
pub(crate) fn group_device(group: &File, address: &str) -> io::Result<File> {
    let address = ffi::CString::new(address)?;
    // SAFETY: the request reads a string that ends with a zero, which lives through the call.
    let fd = unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD, address.as_ptr()) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
    let device = unsafe { File::from_raw_fd(fd) };
    // The request has no flag for it.
    nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(device)
}

/// Resets the function; `EOPNOTSUPP` where it has no reset of its own.
pub(crate) fn reset_device(device: &File) -> io::Result<()> {
    let mut info = vfio_device_info { argsz: size_of_u32::<vfio_device_info>(), ..Default::default() };
    // SAFETY: the request reads and writes one vfio_device_info, which lives through the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_GET_INFO, &raw mut info) })?;
    if info.flags & VFIO_DEVICE_FLAGS_RESET == 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    // SAFETY: the request takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_RESET) })?;
    Ok(())
}

/// `vfio_pci_hot_reset` with room for one group.
#[repr(C)]
struct HotReset {
    argsz: u32,
    flags: u32,
    count: u32,
    group: RawFd,
}

/// Resets the function's bus. The caller must own every function on it: by the group given, or by the
/// iommufd binding of each when there is none.
pub(crate) fn reset_bus(device: &File, group: Option<&File>) -> io::Result<()> {
    let reset = HotReset {
        argsz: size_of_u32::<HotReset>(),
        flags: 0,
        count: u32::from(group.is_some()),
        group: group.map_or(-1, AsRawFd::as_raw_fd),
    };
    // SAFETY: the request reads one vfio_pci_hot_reset with `count` descriptors behind it, which is what
    // HotReset lays out; it lives through the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_PCI_HOT_RESET, &raw const reset) })?;
    Ok(())
}

/// A BAR, mapped shared.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<ffi::c_void>,
    size: usize,
}

// SAFETY: the mapping is the value's own; nothing in it is tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the whole file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let size = usize::try_from(file.metadata()?.len()).map_err(|_| Errno::EOVERFLOW)?;
        let length = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, size })
    }

    fn place(&self, offset: u32) -> io::Result<*mut u32> {
        let offset = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let inside = offset.checked_add(4).is_some_and(|end| end <= self.size);
        if !inside || !offset.is_multiple_of(4) {
            return Err(Errno::EINVAL.into());
        }
        // SAFETY: the place is inside the mapping, as just checked.
        Ok(unsafe { self.start.as_ptr().byte_add(offset) }.cast())
    }

    pub(crate) fn read32(&self, offset: u32) -> io::Result<u32> {
        let place = self.place(offset)?;
        // SAFETY: aligned and inside the mapping; volatile, since the device changes it.
        Ok(u32::from_le(unsafe { ptr::read_volatile(place) }))
    }

    pub(crate) fn write32(&mut self, offset: u32, value: u32) -> io::Result<()> {
        let place = self.place(offset)?;
        // SAFETY: as above; the device is the only other party.
        unsafe { ptr::write_volatile(place, value.to_le()) };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and ends here; no reference into it exists.
        let _ = unsafe { munmap(self.start, self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_the_kernels() {
        // ';' is 0x3b, VFIO_BASE is 100.
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_RESET, 0x3b6f);
        assert_eq!(DEVICE_BIND_IOMMUFD, 0x3b76);
    }
}
