//! What a VM has taken from its host, released together and in the right order.

use std::os::fd::OwnedFd;

use host_claims::cgroup::SandboxCgroup;
use host_claims::net::{Endpoint, Network};
use host_claims::vsock::Vsock;
use shared_types::one_line;

use crate::devices::Devices;
use crate::state::release::{Steps, step};
use crate::state::{Claim, StateDir};

/// The claims of one VM. QEMU must be gone before they are released.
#[derive(Debug)]
pub struct Claims {
    pub(crate) dir: StateDir,
    pub(crate) vsock: Option<Vsock>,
    pub(crate) network: Option<Network>,
    pub(crate) cgroup: Option<SandboxCgroup>,
    pub(crate) devices: Option<Devices>,
    /// The file behind the scratch disk, until QEMU has it.
    pub(crate) scratch: Option<OwnedFd>,
}

impl Claims {
    /// The pod's interfaces; empty for a VM without NIC.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.network.as_ref().map_or(&[], |network| network.endpoints.as_slice())
    }

    /// Releases everything; returns what could not be, one line each. The record of that stays then, for `delete`.
    pub async fn release(self) -> Vec<String> {
        let Self { mut dir, vsock, network, cgroup, devices, scratch } = self;
        drop(scratch);
        let steps = Steps {
            vsock: vsock.and_then(|vsock| step(vsock.release())),
            network: network.and_then(|network| step(network.release())),
            devices: devices.and_then(|devices| {
                step(async move {
                    let failures = devices.release().await;
                    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
                })
            }),
            cgroup: cgroup.and_then(|cgroup| step(cgroup.release())),
            ..Steps::default()
        };
        let failures = steps.make().await;
        let failed: Vec<Claim> = failures.iter().map(|failure| failure.claim).collect();
        let mut failures: Vec<String> = failures.iter().map(|failure| one_line(failure)).collect();
        if failures.is_empty() {
            dir.remove();
        } else if let Err(error) = dir.update(|record| record.keep(&failed)) {
            failures.push(one_line(&error));
        }
        failures
    }
}
