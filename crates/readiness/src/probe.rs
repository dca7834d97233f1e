//! What a host answers that is no file.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use gpu::Mode;
use gpu::sysfs::Function;
use kvm_ioctls::Kvm;
use shared_types::KvmTrial;

use crate::connect::{self, Service};
use crate::qemu::{self, Qemu, QemuError};
use crate::root::Root;
use crate::sys;

/// `KVM_CAP_VM_TYPES` of linux/kvm.h.
const KVM_CAP_VM_TYPES: std::ffi::c_ulong = 235;

/// Answers that come at once. Paths are where the files are, below a [`Root`] or not.
pub trait Quick: Debug {
    /// EAX, EBX, ECX, EDX of a CPUID leaf; `None` where the CPU has no such leaf.
    fn cpuid(&self, leaf: u32) -> Option<[u32; 4]>;

    /// Opens a device node for reading and writing, and closes it.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, device: &Path) -> io::Result<()>;

    /// Connects to a service of this host, and hangs up.
    ///
    /// # Errors
    /// Nobody answers.
    fn connect(&self, service: Service<'_>) -> io::Result<()>;
}

/// All answers of a host.
pub trait Probe: Quick {
    /// A model-specific register of the first CPU.
    ///
    /// # Errors
    /// There is no such register, or no way to read it.
    fn msr(&self, register: u32) -> io::Result<u64>;

    /// Bit n is set where KVM makes VMs of type n.
    ///
    /// # Errors
    /// KVM's device cannot be opened.
    fn vm_types(&self, kvm: &Path) -> io::Result<u32>;

    /// Runs a guest of a few pages; `Err` says why that failed.
    ///
    /// # Errors
    /// KVM does not run guests.
    fn trial(&self) -> Result<(), String>;

    /// Starts QEMU without a machine, and asks it what it is. With `sev`, asks KVM through it, too.
    ///
    /// # Errors
    /// QEMU does not start or does not answer.
    fn qemu(&self, program: &Path, sev: bool) -> Result<Qemu, QemuError>;

    /// What the secure processor says of SNP.
    ///
    /// # Errors
    /// `/dev/sev` cannot be opened, or the command fails.
    fn snp_status(&self, device: &Path) -> io::Result<SnpStatus>;

    /// The mode that a GPU runs in, read without waking, resetting or changing it.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn gpu_mode(&self, function: &Function) -> Result<Mode, String>;
}

/// What the secure processor says of SNP: part of `struct sev_user_data_snp_status` of linux/psp-sev.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnpStatus {
    /// Major and minor version of the firmware's interface.
    pub api: (u8, u8),
    /// Its build.
    pub build: u32,
    /// Whether SNP is initialised.
    pub state: SnpState,
    /// Whether it has looked for memory that two addresses lead to since the last reset, and found none
    /// (AMD's publication 56860, SNP_PLATFORM_STATUS).
    pub alias_check: bool,
    /// The versions of its parts that are running.
    pub current_tcb: u64,
    /// The versions that attestation reports name.
    pub reported_tcb: u64,
}

/// SNP's state in the secure processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnpState {
    /// Not initialised.
    Uninitialised,
    /// Initialised.
    Initialised,
    /// A number that has no meaning yet.
    Other(u8),
}

impl SnpStatus {
    /// Reads the answer's bytes.
    #[must_use]
    pub(crate) fn of_bytes(bytes: &[u8; 32]) -> Self {
        let [major, minor, state, flags, b0, b1, b2, b3, _, _, _, _, _, _, _, _, tcbs @ ..] = bytes;
        let [c0, c1, c2, c3, c4, c5, c6, c7, r0, r1, r2, r3, r4, r5, r6, r7] = *tcbs;
        Self {
            api: (*major, *minor),
            build: u32::from_le_bytes([*b0, *b1, *b2, *b3]),
            state: match state {
                0 => SnpState::Uninitialised,
                1 => SnpState::Initialised,
                other => SnpState::Other(*other),
            },
            alias_check: flags & 0b10 != 0,
            current_tcb: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            reported_tcb: u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
        }
    }
}

/// This machine, as far as it answers at once.
#[derive(Debug, Clone, Copy)]
pub struct Now;

impl Quick for Now {
    fn cpuid(&self, leaf: u32) -> Option<[u32; 4]> {
        sys::cpuid(leaf)
    }

    fn open(&self, device: &Path) -> io::Result<()> {
        OpenOptions::new().read(true).write(true).open(device).map(|_| ())
    }

    fn connect(&self, service: Service<'_>) -> io::Result<()> {
        connect::connect(service)
    }
}

/// This machine.
#[derive(Debug)]
pub struct Real {
    msr: std::path::PathBuf,
}

impl Real {
    /// The machine whose files are below `root`.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        Self { msr: root.path("/dev/cpu/0/msr") }
    }
}

impl Quick for Real {
    fn cpuid(&self, leaf: u32) -> Option<[u32; 4]> {
        Now.cpuid(leaf)
    }

    fn open(&self, device: &Path) -> io::Result<()> {
        Now.open(device)
    }

    fn connect(&self, service: Service<'_>) -> io::Result<()> {
        Now.connect(service)
    }
}

impl Probe for Real {
    fn msr(&self, register: u32) -> io::Result<u64> {
        let mut value = [0; 8];
        File::open(&self.msr)?.read_exact_at(&mut value, register.into())?;
        Ok(u64::from_le_bytes(value))
    }

    fn vm_types(&self, kvm: &Path) -> io::Result<u32> {
        let path = std::ffi::CString::new(kvm.as_os_str().as_encoded_bytes())?;
        let kvm = Kvm::new_with_path(&path).map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        Ok(u32::try_from(kvm.check_extension_raw(KVM_CAP_VM_TYPES)).unwrap_or(0))
    }

    fn trial(&self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        match runtime.block_on(host_claims::accel::trial()) {
            KvmTrial::Works => Ok(()),
            KvmTrial::Fails { reason } => Err(reason),
        }
    }

    fn qemu(&self, program: &Path, sev: bool) -> Result<Qemu, QemuError> {
        qemu::ask(program, sev)
    }

    fn snp_status(&self, device: &Path) -> io::Result<SnpStatus> {
        let sev = OpenOptions::new().read(true).write(true).open(device)?;
        Ok(SnpStatus::of_bytes(&sys::snp_platform_status(&sev)?))
    }

    fn gpu_mode(&self, function: &Function) -> Result<Mode, String> {
        gpu::look::mode(function).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_as_the_firmware_writes_it() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&[1, 55, 1, 0b11, 0x1d, 0, 0, 0]);
        bytes[16] = 4;
        bytes[24] = 3;
        bytes[31] = 0xd1;
        let status = SnpStatus::of_bytes(&bytes);
        assert_eq!((status.api, status.build, status.state), ((1, 55), 29, SnpState::Initialised));
        assert!(status.alias_check);
        assert_eq!((status.current_tcb, status.reported_tcb), (4, 0xd100_0000_0000_0003));
        bytes[3] = 1;
        assert!(!SnpStatus::of_bytes(&bytes).alias_check);
    }

    #[test]
    fn this_cpu_names_its_maker_and_has_no_leaf_beyond_its_last() {
        let real = Real::new(&Root::host());
        let [_, ebx, ecx, edx] = real.cpuid(0).unwrap();
        let name: Vec<u8> = [ebx, edx, ecx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(name.iter().all(u8::is_ascii_graphic), "{name:?}");
        assert_eq!(real.cpuid(0x8fff_ffff), None);
    }

    #[test]
    fn what_is_no_such_device_is_an_error() {
        let real = Real::new(&Root::host());
        assert!(real.snp_status(Path::new("/dev/null")).is_err());
        assert!(real.vm_types(Path::new("/dev/there-is-none")).is_err());
        assert!(real.connect(Service::Unix(Path::new("/dev/null"))).is_err());
        assert!(real.open(Path::new("/dev/null")).is_ok());
    }
}
