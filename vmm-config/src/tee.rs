//! Confidential VMs: what the host offers, what the node asks for, and what becomes of the two.
//!
//! Everything here fails closed: a VM is the confidential one that was asked for, or there is none.

use measurement::initdata::InitData;
use measurement::ovmf::Kind;
use shared_types::Accelerator;

use crate::config::{NodeConfig, QuoteService, Tee};
use crate::image::{ImageManifest, ImageProfile};
use crate::qemu::{ConfidentialGuest, SnpGuest, TdxGuest};
use crate::request::PodRequest;

/// The confidential computing that the host's processor and kernel offer to guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostTee {
    /// None.
    Absent {
        /// Why, for people.
        reason: String,
    },
    /// Intel TDX.
    Tdx,
    /// AMD SEV-SNP.
    Snp(SevAddressing),
}

impl HostTee {
    const fn name(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "none",
            Self::Tdx => "TDX",
            Self::Snp(_) => "SEV-SNP",
        }
    }
}

/// What encryption does to physical addresses (AMD 40332, CPUID leaf 8000_001F, EBX).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SevAddressing {
    c_bit: u8,
    lost_bits: u8,
}

impl SevAddressing {
    /// Reads EBX of the leaf: bits 5:0 the position of the C bit, 11:6 by how many bits addresses get shorter.
    /// `None` for values that QEMU does not take: a C bit below 32, or no bit lost.
    pub const fn from_cpuid(ebx: u32) -> Option<Self> {
        let (c_bit, lost_bits) = (ebx & 0x3f, ebx >> 6 & 0x3f);
        if c_bit < 32 || lost_bits == 0 {
            return None;
        }
        // Both have six bits.
        #[expect(clippy::cast_possible_truncation)]
        Some(Self { c_bit: c_bit as u8, lost_bits: lost_bits as u8 })
    }

    /// Position of the bit that makes an address one of encrypted memory.
    pub const fn c_bit(self) -> u8 {
        self.c_bit
    }

    /// By how many bits physical addresses get shorter.
    pub(crate) const fn lost_bits(self) -> u8 {
        self.lost_bits
    }
}

/// A confidential VM that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TeeError {
    /// The host has another one, or none.
    #[error(
        "tee = \"{wanted}\" is configured, and this host offers {offered}{}; `coffer doctor` says what is missing",
        because(.reason)
    )]
    NotOffered {
        /// The key's value.
        wanted: &'static str,
        /// What there is.
        offered: &'static str,
        /// Why, where it is known.
        reason: Option<String>,
    },
    /// TCG has no memory that its host cannot read.
    #[error("tee = \"{0}\" needs KVM, and accel = \"tcg\" is configured")]
    NeedsKvm(&'static str),
    /// QEMU's own firmware measures nothing.
    #[error("tee = \"{0}\" needs a firmware made for it: set `firmware`")]
    NoFirmware(&'static str),
    /// A firmware for something else.
    #[error("tee = \"{tee}\" needs {wanted}, and the file that `firmware` names is for {found}")]
    Firmware {
        /// The TEE.
        tee: &'static str,
        /// What it needs.
        wanted: &'static str,
        /// What the firmware's metadata says.
        found: Kind,
    },
    /// An image for tests, which believes a report that the host makes up.
    #[error(
        "the guest image {name} is for tests: it takes the hardware's report from the host, and no confidential VM is \
         started with it; install a release image"
    )]
    FakeReport {
        /// The image's name.
        name: String,
    },
    /// An image of profile `dev` or `debug`: it has a console, or a stand-in for the agent.
    #[error(
        "the guest image {name} has the profile {}, and a confidential VM takes release images: install one, or set \
         allow_debug_image = true where nothing needs protection", profile.name()
    )]
    Image {
        /// The image.
        name: String,
        /// Its profile.
        profile: ImageProfile,
    },
    /// A process of the host would have to read the guest's memory.
    #[error(
        "tee = \"{0}\" needs the kernel's vhost-vsock, and this host has none: load the module vhost_vsock \
         (`modprobe vhost_vsock`)"
    )]
    VhostUser(&'static str),
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// What decides the confidential part of a VM.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) image: &'a ImageManifest,
    pub(crate) request: &'a PodRequest,
    pub(crate) host: &'a HostTee,
    pub(crate) firmware: Option<Kind>,
    pub(crate) accel: Accelerator,
    pub(crate) kernel_vsock: bool,
}

/// The confidential guest that the node asks for, or `None` where it asks for none.
pub(crate) fn plan(inputs: &Inputs<'_>) -> Result<Option<ConfidentialGuest>, TeeError> {
    let Inputs { config, host, .. } = inputs;
    let wanted = config.tee.name();
    match (config.tee, host) {
        (Tee::None, _) => Ok(None),
        (Tee::Tdx | Tee::Auto, HostTee::Tdx) => {
            check(inputs, "tdx")?;
            Ok(Some(ConfidentialGuest::Tdx(tdx(inputs)?)))
        }
        (Tee::Snp | Tee::Auto, HostTee::Snp(addressing)) => {
            check(inputs, "snp")?;
            Ok(Some(ConfidentialGuest::Snp(snp(inputs, *addressing)?)))
        }
        (_, HostTee::Absent { reason }) => {
            Err(TeeError::NotOffered { wanted, offered: host.name(), reason: Some(reason.clone()) })
        }
        (_, HostTee::Tdx | HostTee::Snp(_)) => {
            Err(TeeError::NotOffered { wanted, offered: host.name(), reason: None })
        }
    }
}

/// What both kinds need.
fn check(inputs: &Inputs<'_>, tee: &'static str) -> Result<(), TeeError> {
    let Inputs { config, image, .. } = inputs;
    if inputs.accel != Accelerator::Kvm {
        return Err(TeeError::NeedsKvm(tee));
    }
    if image.fake_report {
        return Err(TeeError::FakeReport { name: image.name.clone() });
    }
    if image.profile != ImageProfile::Release && !config.allow_debug_image {
        return Err(TeeError::Image { name: image.name.clone(), profile: image.profile });
    }
    if !inputs.kernel_vsock {
        return Err(TeeError::VhostUser(tee));
    }
    Ok(())
}

/// What both kinds ask of the firmware, by its own metadata.
fn check_firmware(
    inputs: &Inputs<'_>,
    tee: &'static str,
    wanted: &'static str,
    fits: fn(Kind) -> bool,
) -> Result<(), TeeError> {
    match inputs.firmware {
        None => Err(TeeError::NoFirmware(tee)),
        Some(kind) if fits(kind) => Ok(()),
        Some(found) => Err(TeeError::Firmware { tee, wanted, found }),
    }
}

fn tdx(inputs: &Inputs<'_>) -> Result<TdxGuest, TeeError> {
    check_firmware(inputs, "tdx", "a build of OVMF for TDX without Secure Boot", Kind::starts_tdx)?;
    let quotes = match &inputs.config.quote_service {
        QuoteService::None => None,
        QuoteService::At(address) => Some(address.clone()),
    };
    Ok(TdxGuest { config_id: inputs.request.initdata.as_ref().map(InitData::mr_config_id), quotes })
}

fn snp(inputs: &Inputs<'_>, addressing: SevAddressing) -> Result<SnpGuest, TeeError> {
    let wanted = "an AmdSev build of OVMF, which checks the kernel's hash";
    check_firmware(inputs, "snp", wanted, Kind::measures_snp_kernel)?;
    let config = inputs.config;
    Ok(SnpGuest {
        addressing,
        cpu: config.snp_cpu.clone(),
        policy: config.snp_policy.policy(),
        host_data: inputs.request.initdata.as_ref().map(InitData::host_data),
        id_block: None,
    })
}
