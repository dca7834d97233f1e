//! From configuration, image, request and host to one VM.

use measurement::ovmf::{Acceptance, Kind};
use shared_types::{Accelerator, Cid, KvmTrial, NicMac};

use crate::config::{AutoOr, NodeConfig};
use crate::image::{ImageManifest, ImageProfile};
use crate::passthrough::{self, DevicesError, HostDevices};
use crate::path::SocketPath;
use crate::pci::{BusFull, PciSlots};
use crate::qemu::{
    Console, Cpu, InitdataDisk, Kernel, Machine, Memory, MemoryBacking, Nic, NicQueue, Pvpanic, Qmp, Rng,
    RootDisk, ScratchDisk, ScsiController, Vsock, VsockBackend,
};
use crate::request::PodRequest;
use crate::spec::{QemuFd, VmSpec};
use crate::tee::{self, HostTee, TeeError};
use crate::units::{MemorySize, Vcpus};

/// Most queue pairs of one interface; beyond it a tap device gains nothing.
const MAX_QUEUES: u16 = 8;

/// What QEMU itself needs beside the guest's memory: its program, threads and devices.
const QEMU_OVERHEAD: MemorySize = MemorySize::from_mib(64);

/// What was found on the host and claimed from it for this VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether KVM runs a guest. Not looked at where the configuration says `accel = "tcg"`.
    pub kvm: KvmTrial,
    /// How the agent will be reached.
    pub vsock: VsockFacts,
    /// The pod's interfaces, in the order in which the guest shall see them.
    pub nics: Vec<NicFacts>,
    /// What the cgroup that QEMU will run in allows, if it limits memory.
    pub memory_budget: Option<MemorySize>,
    /// The confidential computing that the host offers. Not looked at where the configuration says `tee = "none"`.
    pub tee: HostTee,
    /// What the metadata of the configured firmware says that it is for, where there is one.
    pub firmware: Option<Kind>,
    /// Who accepts a confidential VM's memory with this firmware, where that was looked for.
    pub acceptance: Acceptance,
    /// Host devices that the VM gets.
    pub passthrough: HostDevices,
}

/// How the agent will be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VsockFacts {
    /// Over the kernel's vhost-vsock, with this claimed context id.
    Vhost {
        /// The id.
        cid: Cid,
    },
    /// Over a vhost-device-vsock process.
    VhostUser {
        /// The socket that it offers to QEMU.
        socket: SocketPath,
    },
}

/// One interface of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicFacts {
    /// Its address.
    pub mac: NicMac,
    /// Largest packet in bytes, 68 (IPv4's least) and up.
    pub mtu: u16,
    /// Queue pairs, 1 to 8; [`queues_for`] says how many are worth opening.
    pub queues: u16,
    /// Whether each queue pair gets a descriptor of `/dev/vhost-net`.
    pub vhost: bool,
}

/// A VM that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The node insists on KVM.
    #[error(
        "accel = \"kvm\" is configured, but KVM does not run a guest here: {reason}; repair KVM or set accel = \"auto\""
    )]
    NoKvm {
        /// What the trial run found.
        reason: String,
    },
    /// The pod's cgroup would end QEMU as soon as the guest used its memory.
    #[error(
        "the pod's cgroup allows {budget}, but its VM needs {needed} ({memory} of guest memory and {overhead} for QEMU): \
         raise the memory of the RuntimeClass's overhead.podFixed by {missing}"
    )]
    MemoryBudget {
        /// The cgroup's limit.
        budget: MemorySize,
        /// Guest memory.
        memory: MemorySize,
        /// QEMU's own.
        overhead: MemorySize,
        /// The sum.
        needed: MemorySize,
        /// How much too little the limit is.
        missing: MemorySize,
    },
    /// More devices than fit.
    #[error(transparent)]
    BusFull(#[from] BusFull),
    /// A confidential VM that cannot be.
    #[error(transparent)]
    Tee(#[from] TeeError),
    /// Host devices that it cannot have.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// An interface that no virtio-net device can have.
    #[error(
        "interface {mac} has {queues} queues and an MTU of {mtu}; possible are 1 to {MAX_QUEUES} and 68 to 65535"
    )]
    Nic {
        /// Its address.
        mac: NicMac,
        /// Its queues.
        queues: u16,
        /// Its MTU.
        mtu: u16,
    },
}

/// How many queue pairs an interface of a VM should have: one per CPU, up to eight.
pub fn queues_for(vcpus: Vcpus) -> u16 {
    u16::from(vcpus.get()).min(MAX_QUEUES)
}

/// What executes the guests of a node, by its configuration and the trial run's result.
///
/// # Errors
/// [`PlanError::NoKvm`].
pub fn accelerator(config: &NodeConfig, kvm: &KvmTrial) -> Result<Accelerator, PlanError> {
    match (config.accel, kvm) {
        (AutoOr::Is(Accelerator::Tcg), _) | (AutoOr::Auto, KvmTrial::Fails { .. }) => Ok(Accelerator::Tcg),
        (AutoOr::Auto | AutoOr::Is(Accelerator::Kvm), KvmTrial::Works) => Ok(Accelerator::Kvm),
        (AutoOr::Is(Accelerator::Kvm), KvmTrial::Fails { reason }) => {
            Err(PlanError::NoKvm { reason: reason.clone() })
        }
    }
}

/// Describes the VM. The same input gives the same VM, down to every slot and descriptor number.
///
/// # Errors
/// [`PlanError`].
pub fn plan(
    config: &NodeConfig,
    image: &ImageManifest,
    request: &PodRequest,
    host: &HostFacts,
) -> Result<VmSpec, PlanError> {
    let accel = accelerator(config, &host.kvm)?;
    check_budget(request, accel, host.memory_budget)?;
    let confidential = tee::plan(&tee::Inputs {
        config,
        image,
        request,
        host: &host.tee,
        firmware: host.firmware,
        accel,
        kernel_vsock: matches!(host.vsock, VsockFacts::Vhost { .. }),
    })?;

    let mut fds = Fds(QemuFd::FIRST);
    let mut slots = PciSlots::new();
    let qmp = Qmp { fd: fds.take() };
    // It carries the guest's words to its host: only images made for that speak there.
    let console = image.cmdline.has_console().then(|| Console { fd: fds.take() });
    let root = RootDisk { path: config.image.file(image.root.file.as_str()), slot: slots.take()? };
    let scsi = ScsiController::new(slots.take()?, request.vcpus);
    let (backend, backing) = match &host.vsock {
        VsockFacts::Vhost { cid } => {
            (VsockBackend::Vhost { fd: fds.take(), cid: *cid }, MemoryBacking::Private)
        }
        // The process reads and writes the guest's buffers itself.
        VsockFacts::VhostUser { socket } => {
            (VsockBackend::VhostUser { socket: socket.clone() }, MemoryBacking::Shared)
        }
    };
    let vsock = Vsock { backend, slot: slots.take()? };
    let pvpanic = Pvpanic { slot: slots.take()? };
    // A host's random numbers are nothing that a confidential guest should mix in; PID 1 of an image for such guests starts
    // no pod beside the device.
    let trusts_host = confidential.is_none() && image.profile == ImageProfile::Dev;
    let rng = if trusts_host { Some(Rng { slot: slots.take()? }) } else { None };
    let initdata =
        request.initdata.as_ref().map(|_| slots.take().map(|slot| InitdataDisk { slot })).transpose()?;
    let scratch = match request.scratch {
        Some(size) => Some(ScratchDisk::new(fds.take(), slots.take()?, size, request.vcpus)),
        None => None,
    };
    let nics = plan_nics(&host.nics, &mut fds, &mut slots)?;
    let vm = passthrough::Vm { request, accel, confidential: confidential.is_some() };
    let (passthrough, nodes) = passthrough::plan(&host.passthrough, &vm, || fds.take(), &mut slots)?;
    let backing = if passthrough.needs_shared_memory() { MemoryBacking::Shared } else { backing };

    Ok(VmSpec {
        name: request.name.clone(),
        machine: Machine { accel },
        cpu: Cpu { vcpus: request.vcpus, accel, sockets: nodes.sockets(), width: passthrough.width },
        memory: Memory { size: request.memory, backing, nodes: nodes.memory },
        kernel: Kernel {
            path: config.image.file(image.kernel.file.as_str()),
            cmdline: image.cmdline.clone(),
            firmware: config.firmware.clone(),
        },
        qmp,
        console,
        acceptance: if confidential.is_some() { host.acceptance } else { Acceptance::Unknown },
        confidential,
        initdata,
        root,
        scratch,
        scsi,
        vsock,
        pvpanic,
        rng,
        nics,
        passthrough,
    })
}

/// Hands out descriptor numbers in order.
struct Fds(QemuFd);

impl Fds {
    fn take(&mut self) -> QemuFd {
        let fd = self.0;
        self.0 = fd.next();
        fd
    }
}

fn plan_nics(facts: &[NicFacts], fds: &mut Fds, slots: &mut PciSlots) -> Result<Vec<Nic>, PlanError> {
    let mut nics = Vec::new();
    for (index, &NicFacts { mac, mtu, queues, vhost }) in facts.iter().enumerate() {
        if !(1..=MAX_QUEUES).contains(&queues) || mtu < 68 {
            return Err(PlanError::Nic { mac, queues, mtu });
        }
        let queues =
            (0..queues).map(|_| NicQueue { tap: fds.take(), vhost: vhost.then(|| fds.take()) }).collect();
        nics.push(Nic { index, mac, mtu, queues, slot: slots.take()? });
    }
    Ok(nics)
}

fn check_budget(
    request: &PodRequest,
    accel: Accelerator,
    budget: Option<MemorySize>,
) -> Result<(), PlanError> {
    let Some(budget) = budget else { return Ok(()) };
    let overhead = match accel {
        Accelerator::Kvm => QEMU_OVERHEAD,
        Accelerator::Tcg => QEMU_OVERHEAD.saturating_add(Machine::TCG_CACHE),
    };
    let memory = request.memory.size();
    let needed = memory.saturating_add(overhead);
    if needed <= budget {
        return Ok(());
    }
    let missing = MemorySize::from_bytes(needed.bytes() - budget.bytes());
    Err(PlanError::MemoryBudget { budget, memory, overhead, needed, missing })
}

#[cfg(test)]
pub(crate) mod tests {
    use shared_types::Mac;

    use super::*;
    use crate::image::tests::manifest;
    use crate::request::OciLimits;
    use crate::spec::FdRole;

    pub(crate) fn image() -> ImageManifest {
        ImageManifest::parse(manifest().to_string().as_bytes()).unwrap()
    }

    pub(crate) fn request(vcpus: i64) -> PodRequest {
        let limits = OciLimits {
            cpu_quota: Some(vcpus * 100_000),
            cpu_period: Some(100_000),
            memory_limit: Some(512 << 20),
            ..OciLimits::default()
        };
        PodRequest::new(&NodeConfig::default(), "pod-1", [], limits).unwrap()
    }

    pub(crate) fn nic(queues: u16, vhost: bool) -> NicFacts {
        NicFacts { mac: Mac([2, 0, 0, 0, 0, 1]).try_into().unwrap(), mtu: 1450, queues, vhost }
    }

    pub(crate) fn vhost(nics: Vec<NicFacts>) -> HostFacts {
        let vsock = VsockFacts::Vhost { cid: Cid::new(4242).unwrap() };
        HostFacts {
            kvm: KvmTrial::Works,
            vsock,
            nics,
            memory_budget: None,
            tee: HostTee::Absent { reason: "not looked for".into() },
            firmware: None,
            acceptance: Acceptance::Unknown,
            passthrough: HostDevices::default(),
        }
    }

    pub(crate) fn vhost_user(nics: Vec<NicFacts>) -> HostFacts {
        let vsock = VsockFacts::VhostUser { socket: SocketPath::new("vsock.sock").unwrap() };
        let kvm = KvmTrial::Fails { reason: "trial guest hung".into() };
        HostFacts { kvm, vsock, ..vhost(nics) }
    }

    fn try_plan(config: &NodeConfig, host: &HostFacts) -> Result<VmSpec, PlanError> {
        plan(config, &image(), &request(2), host)
    }

    #[test]
    fn descriptors_are_dense_and_named() {
        let spec = try_plan(&NodeConfig::default(), &vhost(vec![nic(2, true)])).unwrap();
        let fds: Vec<_> = spec.fds().into_iter().map(|(fd, role)| (fd.number(), role)).collect();
        assert_eq!(
            fds,
            [
                (3, FdRole::Qmp),
                (4, FdRole::Console),
                (5, FdRole::Vsock),
                (6, FdRole::Tap { nic: 0, queue: 0 }),
                (7, FdRole::VhostNet { nic: 0, queue: 0 }),
                (8, FdRole::Tap { nic: 0, queue: 1 }),
                (9, FdRole::VhostNet { nic: 0, queue: 1 }),
            ]
        );
    }

    #[test]
    fn a_vhost_user_process_needs_shared_memory() {
        let spec = try_plan(&NodeConfig::default(), &vhost_user(vec![])).unwrap();
        assert_eq!(spec.memory.backing, MemoryBacking::Shared);
        assert_eq!(spec.fds().len(), 2);
        let spec = try_plan(&NodeConfig::default(), &vhost(vec![])).unwrap();
        assert_eq!(spec.memory.backing, MemoryBacking::Private);
    }

    #[test]
    fn only_images_for_work_on_coffer_take_the_hosts_randomness() {
        let host = vhost(vec![]);
        for (profile, has_rng) in [("dev", true), ("debug", false), ("release", false)] {
            let mut json = manifest();
            json["profile"] = profile.into();
            let line = json["cmdline"].as_str().unwrap().replace("ttyS0", "null");
            json["cmdline"] = line.into();
            let image = ImageManifest::parse(json.to_string().as_bytes()).unwrap();
            let spec = plan(&NodeConfig::default(), &image, &request(2), &host).unwrap();
            assert_eq!(spec.rng.is_some(), has_rng, "{profile}");
        }
    }

    #[test]
    fn the_guest_can_be_told_where_its_devices_are() {
        let spec = try_plan(&NodeConfig::default(), &vhost(vec![nic(1, false)])).unwrap();
        assert_eq!(spec.root.slot.guest_path().to_string(), "01");
        assert_eq!(spec.nics()[0].guest_path().to_string(), "06");
    }

    #[test]
    fn accel_follows_configuration_then_probe() {
        let config = |accel| NodeConfig { accel, ..NodeConfig::default() };
        let fails = KvmTrial::Fails { reason: "no /dev/kvm".into() };
        assert_eq!(accelerator(&config(AutoOr::Auto), &KvmTrial::Works), Ok(Accelerator::Kvm));
        assert_eq!(accelerator(&config(AutoOr::Auto), &fails), Ok(Accelerator::Tcg));
        assert_eq!(
            accelerator(&config(AutoOr::Is(Accelerator::Tcg)), &KvmTrial::Works),
            Ok(Accelerator::Tcg)
        );
        let error = accelerator(&config(AutoOr::Is(Accelerator::Kvm)), &fails).unwrap_err();
        assert!(error.to_string().contains("no /dev/kvm"));
    }

    #[test]
    fn memory_that_does_not_fit_the_cgroup_is_refused_with_the_arithmetic() {
        let mut host = vhost(vec![]);
        host.memory_budget = Some(MemorySize::from_mib(704 + 64));
        assert!(try_plan(&NodeConfig::default(), &host).is_ok());
        host.memory_budget = Some(MemorySize::from_mib(512));
        let text = try_plan(&NodeConfig::default(), &host).unwrap_err().to_string();
        for number in ["allows 512 MiB", "needs 768 MiB", "704 MiB of guest", "64 MiB for QEMU", "by 256 MiB"]
        {
            assert!(text.contains(number), "{text}");
        }
        // Translated code comes on top under TCG.
        host = vhost_user(vec![]);
        host.memory_budget = Some(MemorySize::from_mib(704 + 64));
        assert!(matches!(
            try_plan(&NodeConfig::default(), &host),
            Err(PlanError::MemoryBudget { missing, .. }) if missing == Machine::TCG_CACHE
        ));
    }

    #[test]
    fn more_devices_than_slots_are_refused() {
        let nics = PciSlots::CAPACITY - 5;
        assert!(try_plan(&NodeConfig::default(), &vhost(vec![nic(1, false); nics])).is_ok());
        let error = try_plan(&NodeConfig::default(), &vhost(vec![nic(1, false); nics + 1])).unwrap_err();
        assert_eq!(error, PlanError::BusFull(BusFull));
    }

    #[test]
    fn impossible_interfaces_are_refused() {
        for bad in [nic(0, false), nic(9, true), NicFacts { mtu: 67, ..nic(1, false) }] {
            let error = try_plan(&NodeConfig::default(), &vhost(vec![bad])).unwrap_err();
            assert!(matches!(error, PlanError::Nic { .. }), "{error}");
        }
    }

    #[test]
    fn queues_follow_the_cpus_up_to_eight() {
        assert_eq!(queues_for(Vcpus::ONE), 1);
        assert_eq!(queues_for(Vcpus::new(64).unwrap()), 8);
    }
}
