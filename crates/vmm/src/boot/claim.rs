//! The second stage's work: taking from the host what the VM needs, and describing the VM with it.

use std::io;
use std::path::{Path, PathBuf};

use host_claims::accel;
use host_claims::cgroup::{CgroupPath, CgroupPlan, Hierarchies, Limits as CgroupLimits, memory_limit};
use host_claims::net::{Endpoint, NetPlan};
use host_claims::scratch;
use host_claims::vsock::{HYBRID_SOCKET, Kept, VHOST_USER_SOCKET, Vsock, VsockPlan, find_program};
use jail::{Jail, Role, UserId};
use shared_types::{Accelerator, KvmTrial, NicMac, one_line};
use slog::{Logger, warn};
use vmm_config::config::{AutoOr, NodeConfig};
use vmm_config::passthrough::HostDevices;
use vmm_config::path::SocketPath;
use vmm_config::plan::{HostFacts, NicFacts, VsockFacts, plan, queues_for};
use vmm_config::spec::VmSpec;
use vmm_config::units::MemorySize;

use super::{Failure, Request, confidential};
use crate::claims::Claims;
use crate::devices::DevicesPlan;
use crate::qemu::SpawnError;
use crate::state::Room;

/// Where the KVM probe's verdict is kept until the host restarts.
const KVM_MEMORY: &str = "/run/coffer/kvm.json";
/// Where cgroup file systems are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// How many parts of a network that the guest cannot have are logged, each with its name.
const LEFT_OUT: usize = 16;

/// Takes one claim after the other, each recorded before it is made.
pub(super) async fn claim_all(
    request: &Request,
    claims: &mut Claims,
    log: &Logger,
) -> Result<VmSpec, Failure> {
    let firmware = confidential::firmware(&request.config)?;
    let cgroup = request.cgroup.as_deref().map(CgroupPath::parse).transpose()?;
    let memory_budget = match &cgroup {
        Some(path) => memory_limit(&Hierarchies::find(Path::new(CGROUP_ROOT)), path)?
            .map(|limit| MemorySize::from_bytes(limit.bytes)),
        None => None,
    };
    if let Some(path) = &cgroup {
        let limits = if request.limited { CgroupLimits::Asked } else { CgroupLimits::None };
        let planned = CgroupPlan::new(Path::new(CGROUP_ROOT), path, &request.sandbox, limits);
        claims.dir.update(|record| record.cgroup = Some(planned.record()))?;
        let cgroup = claims.cgroup.insert(planned.claim()?);
        // QEMU and its helpers inherit it.
        cgroup.join(i32::try_from(std::process::id()).unwrap_or(i32::MAX))?;
    }
    let kvm = probe_kvm(&request.config).await;
    let user = own_user(&request.config, Role::Qemu);
    claims.dir.make_room(Room::Qemu, user)?;
    if let Some(size) = request.pod.scratch {
        let NodeConfig { scratch_directory, max_scratch_mib, .. } = &request.config;
        claims.scratch = Some(scratch::make(scratch_directory.as_path(), size, max_scratch_mib.0)?.into());
    }
    let vsock = claim_vsock(request, claims, user).await?;
    let nics = claim_network(request, claims, log).await?;
    let passthrough = claim_devices(request, claims, log).await?;
    let facts = HostFacts {
        kvm,
        vsock,
        nics,
        memory_budget,
        tee: request.tee.clone(),
        firmware: firmware.as_ref().map(|firmware| firmware.kind),
        acceptance: confidential::look_at_acceptance(firmware.as_ref(), request, log),
        passthrough,
    };
    let spec = plan(&request.config, &request.image, &request.pod, &facts)?;
    confidential::write_initdata(&claims.dir.room(Room::Qemu), &request.pod, user)?;
    Ok(confidential::expect(spec, request, firmware, claims.dir.path(), log)?)
}

/// As whom QEMU or its helper runs.
pub(super) fn own_user(config: &NodeConfig, role: Role) -> UserId {
    config.qemu_users.of_process(std::process::id(), role)
}

/// The pod's GPUs, each clean and in the right mode.
async fn claim_devices(request: &Request, claims: &mut Claims, log: &Logger) -> Result<HostDevices, Failure> {
    if request.devices.addresses.is_empty() {
        return Ok(HostDevices::default());
    }
    let planned = DevicesPlan::new(&request.devices, &request.sandbox)?;
    claims.dir.update(|record| record.devices = Some(planned.record()))?;
    let devices = match planned.lock(log).await {
        Ok((devices, record)) => {
            let devices = claims.devices.insert(devices);
            claims.dir.update(|state| state.devices = Some(record))?;
            devices
        }
        Err(error) => {
            // Nothing was taken, and the holder must not be disturbed by our record.
            claims.dir.update(|record| record.devices = None)?;
            return Err(error.into());
        }
    };
    Ok(devices.verify(&request.config).await?)
}

/// Whether KVM runs a guest here; not tried where the configuration wants none of it.
async fn probe_kvm(config: &NodeConfig) -> KvmTrial {
    if config.accel == AutoOr::Is(Accelerator::Tcg) {
        return KvmTrial::Fails { reason: "accel = \"tcg\" is configured".to_owned() };
    }
    accel::probe(Path::new(KVM_MEMORY)).await
}

/// The agent's line: the kernel's vhost-vsock, or the program that stands in for it.
async fn claim_vsock(request: &Request, claims: &mut Claims, qemu: UserId) -> Result<VsockFacts, Failure> {
    let (name, search) = program_and_places(request.config.vhost_device_vsock.as_str());
    let home = claims.dir.room(Room::Vsock);
    let planned = VsockPlan::new(&home, name, &search)?;
    claims.dir.update(|record| record.vsock = Some(planned.record()))?;
    let user = own_user(&request.config, Role::Vsock);
    if matches!(planned, VsockPlan::User { .. }) {
        claims.dir.make_room(Room::Vsock, user)?;
    }
    let kept = Kept { jail: &Jail::new(user, home), jailer: &request.jailer, qemu };
    let vsock = claims.vsock.insert(planned.claim(Some(kept)).await?);
    let record = vsock.record();
    let facts = match vsock {
        Vsock::Kernel(kernel) => Some(VsockFacts::Vhost { cid: kernel.cid() }),
        Vsock::User(_) => SocketPath::new(VHOST_USER_SOCKET).map(|socket| VsockFacts::VhostUser { socket }),
    };
    claims.dir.update(|state| state.vsock = Some(record))?;
    facts.ok_or_else(|| Failure::Host("the vsock address is none that a guest can have".to_owned()))
}

/// The configured QEMU: that there is none is better said here than by the program that builds its jail.
pub(super) fn find_qemu(config: &NodeConfig) -> Result<PathBuf, SpawnError> {
    let (name, search) = program_and_places(config.qemu.as_str());
    find_program(name, &search).map_err(|_| SpawnError::Execute {
        program: config.qemu.as_str().into(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// A configured program as a file name and the directories to look in: those of PATH and the shim's own.
fn program_and_places(program: &str) -> (&str, Vec<PathBuf>) {
    match program.rsplit_once('/') {
        Some((directory, name)) => (name, vec![PathBuf::from(directory)]),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
            (program, std::env::split_paths(&path).chain(own).collect())
        }
    }
}

/// Where the agent is reached. The state directory's path may be longer than a socket's address can be.
pub(super) fn endpoint(claims: &Claims) -> Option<agent_client::Endpoint> {
    let port = agent_client::AGENT_PORT;
    Some(match claims.vsock.as_ref()? {
        Vsock::Kernel(kernel) => agent_client::Endpoint::Vsock { cid: kernel.cid().get(), port },
        Vsock::User(_) => {
            let socket = claims.dir.short_room(Room::Vsock).join(HYBRID_SOCKET);
            agent_client::Endpoint::Hybrid { socket, port }
        }
    })
}

/// The pod's interfaces become taps; a pod without network gets no NIC.
async fn claim_network(
    request: &Request,
    claims: &mut Claims,
    log: &Logger,
) -> Result<Vec<NicFacts>, Failure> {
    let Some(netns) = &request.netns else { return Ok(Vec::new()) };
    let planned = NetPlan::inspect(netns).await?;
    for what in planned.left_out().iter().take(LEFT_OUT) {
        warn!(log, "the guest's agent cannot set what the pod's network has"; "left_out" => what);
    }
    if let Some(more @ 1..) = planned.left_out().len().checked_sub(LEFT_OUT) {
        warn!(log, "the guest's agent cannot set more of what the pod's network has"; "left_out" => more);
    }
    if !planned.has_links() {
        return Ok(Vec::new());
    }
    claims.dir.update(|record| record.net = Some(planned.record()))?;
    let network = claims.network.insert(planned.claim(queues_for(request.pod.vcpus)).await?);
    if let Some(error) = network.without_forward() {
        warn!(log, "`kubectl port-forward` will not reach this pod"; "error" => one_line(error));
    }
    network.endpoints.iter().map(nic_facts).collect()
}

fn nic_facts(endpoint: &Endpoint) -> Result<NicFacts, Failure> {
    let facts = &endpoint.facts;
    let unsupported = |reason: String| {
        Failure::Host(format!("the pod's interface {} cannot become a NIC: {reason}", facts.name))
    };
    Ok(NicFacts {
        mac: NicMac::try_from(facts.mac).map_err(|error| unsupported(error.to_string()))?,
        mtu: u16::try_from(facts.mtu).unwrap_or(u16::MAX),
        queues: u16::try_from(endpoint.tap.len()).map_err(|error| unsupported(error.to_string()))?,
        vhost: !endpoint.vhost.is_empty(),
    })
}
