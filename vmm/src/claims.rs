//! What a VM has taken from its host, released together and in the right order.

use host::cgroup::SandboxCgroup;
use host::net::{Endpoint, Network};
use host::vsock::Vsock;

use crate::devices::Devices;
use crate::state::StateDir;

/// The claims of one VM. QEMU must be gone before they are released.
#[derive(Debug)]
pub struct Claims {
    pub(crate) dir: StateDir,
    pub(crate) vsock: Option<Vsock>,
    pub(crate) network: Option<Network>,
    pub(crate) cgroup: Option<SandboxCgroup>,
    pub(crate) devices: Option<Devices>,
}

impl Claims {
    /// The pod's interfaces; empty for a VM without NIC.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.network.as_ref().map_or(&[], |network| network.endpoints.as_slice())
    }

    /// Releases everything; returns what could not be, one line each. The record stays then, for `delete`.
    pub async fn release(self) -> Vec<String> {
        let Self { dir, vsock, network, cgroup, devices } = self;
        let mut failures = Vec::new();
        // An open vhost descriptor keeps the memory of the QEMU that was its owner, and with that the mapped BARs: until
        // ours are closed, nobody else can open the devices.
        if let Some(vsock) = vsock
            && let Err(error) = vsock.release().await
        {
            failures.push(one_line(&error));
        }
        if let Some(network) = network
            && let Err(error) = network.release().await
        {
            failures.push(one_line(&error));
        }
        if let Some(devices) = devices {
            failures.extend(devices.release().await);
        }
        if let Some(cgroup) = cgroup
            && let Err(error) = cgroup.release().await
        {
            failures.push(one_line(&error));
        }
        if failures.is_empty() {
            dir.remove();
        }
        failures
    }
}

/// An error with its causes on one line, joined by `: `.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.replace('\n', " ")
}
