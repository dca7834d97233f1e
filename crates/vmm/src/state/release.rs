//! The one order in which a sandbox's claims are given back: by the shim that has them, or from its record.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// Why something could not be given back.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Giving one thing back; `None` where there is none.
pub type Step<'a> = Option<Pin<Box<dyn Future<Output = Result<(), Cause>> + Send + 'a>>>;

/// Something that a sandbox has of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The QEMU process.
    Qemu,
    /// The agent's transport.
    Vsock,
    /// Taps and redirections.
    Network,
    /// GPUs and NVSwitches.
    Devices,
    /// The sandbox's cgroup.
    Cgroup,
    /// An image that only this sandbox uses.
    Image,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "QEMU",
            Self::Vsock => "the vsock device",
            Self::Network => "the pod's network",
            Self::Devices => "the pod's GPUs",
            Self::Cgroup => "the sandbox's cgroup",
            Self::Image => "a container's image",
        })
    }
}

/// Something that is still taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot release {claim}")]
pub struct ReleaseError {
    /// What.
    pub claim: Claim,
    /// Why.
    #[source]
    pub source: Cause,
}

/// What is to be given back.
#[derive(Default)]
pub struct Steps<'a> {
    /// Ending QEMU; `None` for a shim that has seen its end.
    pub qemu: Step<'a>,
    /// Closing the agent's transport.
    pub vsock: Step<'a>,
    /// Removing taps and redirections.
    pub network: Step<'a>,
    /// Resetting devices.
    pub devices: Step<'a>,
    /// Removing the cgroup.
    pub cgroup: Step<'a>,
    /// Removing images.
    pub images: Vec<Step<'a>>,
}

impl Steps<'_> {
    /// Gives everything back; returns what could not be. A step that fails does not keep the next from being made.
    ///
    /// QEMU is first: it holds all the others. Devices come after vsock and network: an open vhost descriptor keeps the
    /// memory of the QEMU that was its owner, and with that the mapped BARs, so that until ours are closed nobody else can
    /// open the devices. The cgroup comes after whatever runs in it, images after whoever reads them.
    pub async fn make(self) -> Vec<ReleaseError> {
        let Self { qemu, vsock, network, devices, cgroup, images } = self;
        let ordered = [
            (Claim::Qemu, qemu),
            (Claim::Vsock, vsock),
            (Claim::Network, network),
            (Claim::Devices, devices),
            (Claim::Cgroup, cgroup),
        ];
        let images = images.into_iter().map(|image| (Claim::Image, image));
        let mut failures = Vec::new();
        for (claim, step) in ordered.into_iter().chain(images) {
            if let Some(step) = step
                && let Err(source) = step.await
            {
                failures.push(ReleaseError { claim, source });
            }
        }
        failures
    }
}

/// A step of work that ends in any error.
pub fn step<'a, E: Into<Cause>>(work: impl Future<Output = Result<(), E>> + Send + 'a) -> Step<'a> {
    Some(Box::pin(async move { work.await.map_err(Into::into) }))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn everything_is_given_back_in_the_one_order_whatever_fails() {
        let made = Mutex::new(Vec::new());
        let record = |claim: Claim| {
            let made = &made;
            step(async move {
                made.lock().unwrap().push(claim);
                Err("it does not go")
            })
        };
        let steps = Steps {
            images: vec![record(Claim::Image)],
            cgroup: record(Claim::Cgroup),
            devices: record(Claim::Devices),
            network: record(Claim::Network),
            vsock: record(Claim::Vsock),
            qemu: record(Claim::Qemu),
        };
        let failures = steps.make().await;
        let failed: Vec<Claim> = failures.iter().map(|failure| failure.claim).collect();
        let order = [Claim::Qemu, Claim::Vsock, Claim::Network, Claim::Devices, Claim::Cgroup, Claim::Image];
        assert_eq!((failed.as_slice(), made.into_inner().unwrap().as_slice()), (&order[..], &order[..]));
        assert_eq!(failures[2].to_string(), "cannot release the pod's network");
    }
}
