//! The pod's network: what CNI configured in its namespace, and taps that carry it into the VM.
//!
//! CNI makes a namespace, puts links into it and gives them addresses and routes. The guest takes all of
//! that over, MAC addresses included: for every such link there is a tap in the same namespace, and
//! everything that arrives at one leaves through the other (tc ingress, action `mirred redirect`).

mod endpoint;
mod forward;
mod inspect;
mod netlink;
mod netns;
mod redirect;
mod routes;
mod rules;
mod tap;

pub use endpoint::{Address, Endpoint, LinkFacts, Neighbour, Route};

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::forward::Forward;
use self::netlink::Link;
use self::netns::{NamespaceId, Netns};

/// More queues than this cost memory and vhost threads and make nothing faster.
const MAX_QUEUES: u16 = 8;

/// What can go wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace that the pod was given is not there.
    #[error("the pod's network namespace {path} is {reason}; has CNI set it up?")]
    Netns {
        /// As it stands in the OCI spec.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
        /// Why, where the kernel said.
        #[source]
        source: Option<io::Error>,
    },
    /// The host's own.
    #[error(
        "network namespace {path} is the host's own, which no VM can have: give the pod one of its own (no hostNetwork, no host \
         network)"
    )]
    HostsOwn {
        /// As it stands in the OCI spec.
        path: PathBuf,
    },
    /// A request over netlink failed.
    #[error("cannot {action} in network namespace {netns}")]
    Netlink {
        /// What was tried, with the link's name.
        action: String,
        /// Where.
        netns: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A device node or a socket cannot be had.
    #[error("cannot {action} in network namespace {netns}")]
    Device {
        /// What was tried.
        action: String,
        /// Where.
        netns: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest could not be given what CNI configured.
    #[error("link {link:?} of network namespace {netns} {reason}; the VM cannot take that over")]
    Unsupported {
        /// The link.
        link: String,
        /// Where.
        netns: PathBuf,
        /// What stands in the way.
        reason: String,
    },
    /// A route that drops packets. Without it the guest would send them.
    #[error(
        "network namespace {netns} has the route {route:?}, which the guest's agent cannot set; the VM cannot take that over"
    )]
    Barrier {
        /// Where.
        netns: PathBuf,
        /// As `ip route` prints it.
        route: String,
    },
}

/// What is needed to give back a pod's network without the shim that took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRecord {
    netns: PathBuf,
    id: NamespaceId,
    links: Vec<LinkRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LinkRecord {
    name: String,
    index: u32,
    tap: String,
}

impl NetRecord {
    /// Removes redirections and taps. A namespace, link or tap that is gone is no error, neither is a path
    /// that by now leads to another namespace. QEMU must have ended: the tap is busy until then.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Device`]; all links are tried before the first error is returned.
    pub async fn release(&self) -> Result<(), Error> {
        let Some(netns) = Netns::reopen(&self.netns, self.id)? else { return Ok(()) };
        let link = Link::connect(netns)?;
        let mut result = Ok(());
        for record in &self.links {
            let undone = match redirect::remove(&link, &record.name, record.index).await {
                Ok(()) => tap::remove(&link, &record.tap).await,
                Err(e) => Err(e),
            };
            result = result.and(undone);
        }
        result
    }
}

/// The network of a pod, as CNI left it.
#[derive(Debug)]
pub struct NetPlan {
    netns: Netns,
    links: Vec<LinkFacts>,
    left_out: Vec<String>,
}

impl NetPlan {
    /// Looks at a namespace and changes nothing.
    ///
    /// # Errors
    /// [`Error::Netns`] for a path that is no namespace, [`Error::HostsOwn`], [`Error::Unsupported`] for a configuration that
    /// the guest could not have, [`Error::Netlink`], [`Error::Device`].
    pub async fn inspect(path: &Path) -> Result<Self, Error> {
        let netns = Netns::open(path)?;
        if netns.is_our_own() {
            return Err(Error::HostsOwn { path: path.to_owned() });
        }
        let link = Link::connect(netns)?;
        let (links, left_out) = inspect::links(&link).await?;
        Ok(Self { netns: link.into_netns(), links, left_out })
    }

    /// Whether a link is configured; without one the VM has no NIC.
    #[must_use]
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// What the namespace has and the guest cannot have, since its agent has no message for it; one line each.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// What to write down before [`Self::claim`].
    #[must_use]
    pub fn record(&self) -> NetRecord {
        let links = self.links.iter().enumerate().map(|(at, link)| LinkRecord {
            name: link.name.clone(),
            index: link.index,
            tap: tap_name(at),
        });
        NetRecord { netns: self.netns.path().to_owned(), id: self.netns.id(), links: links.collect() }
    }

    /// Makes a tap with a queue per vCPU (8 at most) for every link and redirects the traffic. When it
    /// fails, nothing stays behind.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Device`].
    pub async fn claim(self, vcpus: u16) -> Result<Network, Error> {
        let record = self.record();
        let link = Link::connect(self.netns)?;
        let forward = Forward::start(link.netns(), reached_at(&self.links));
        let mut network = Network { record, endpoints: Vec::new(), forward };
        for (facts, recorded) in self.links.into_iter().zip(network.record.links.clone()) {
            let claimed = claim_link(&link, facts, recorded.tap, queues(vcpus)).await;
            match claimed {
                Ok(endpoint) => network.endpoints.push(endpoint),
                Err(e) => {
                    // The first error is the one to report; a second while undoing changes nothing about it.
                    let _ = network.release().await;
                    return Err(e);
                }
            }
        }
        Ok(network)
    }
}

async fn claim_link(link: &Link, facts: LinkFacts, name: String, queues: u16) -> Result<Endpoint, Error> {
    let tap = tap::make(link, &name, queues)?;
    let index = tap::configure(link, &name, facts.mtu).await?;
    redirect::both_ways(link, (&facts.name, facts.index), (&name, index)).await?;
    let vhost = tap::vhost(link, tap.len())?;
    Ok(Endpoint { facts, tap_name: name, tap, vhost })
}

/// A pod's network in our hands.
#[derive(Debug)]
#[must_use = "the taps vanish when it is dropped"]
pub struct Network {
    record: NetRecord,
    /// One per configured link, in the order of their indices.
    pub endpoints: Vec<Endpoint>,
    forward: Result<Forward, Error>,
}

impl Network {
    /// Why nobody listens for `kubectl port-forward` in the pod's namespace; the pod is whole without.
    #[must_use]
    pub fn without_forward(&self) -> Option<&Error> {
        self.forward.as_ref().err()
    }

    /// Closes our descriptors and removes taps and redirections.
    ///
    /// # Errors
    /// As [`NetRecord::release`].
    pub async fn release(self) -> Result<(), Error> {
        drop((self.forward, self.endpoints));
        self.record.release().await
    }
}

// No Drop of its own: the taps are not persistent, so closing the descriptors removes them and what is
// attached to them; what stays in the namespace is an ingress qdisc whose filter leads nowhere, for
// `NetRecord::release`.

/// The pod's addresses as the node reaches them.
fn reached_at(links: &[LinkFacts]) -> Vec<IpAddr> {
    let is_local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let all = links.iter().flat_map(|link| &link.addresses).map(|address| address.ip);
    all.filter(|ip| !is_local(ip)).collect()
}

fn tap_name(at: usize) -> String {
    format!("tap{at}_coffer")
}

fn queues(vcpus: u16) -> u16 {
    vcpus.clamp(1, MAX_QUEUES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_follow_the_vcpus_up_to_a_cap() {
        assert_eq!([0, 1, 3, 8, 200].map(queues), [1, 1, 3, 8, 8]);
    }

    #[test]
    fn tap_names_fit_the_kernels_limit() {
        assert_eq!(tap_name(0), "tap0_coffer");
        assert!(tap_name(9999).len() < nix::libc::IFNAMSIZ);
    }

    #[test]
    fn a_record_survives_being_written_down() {
        let record = NetRecord {
            netns: "/run/netns/a".into(),
            id: NamespaceId { device: 4, inode: 5 },
            links: vec![LinkRecord { name: "eth0".into(), index: 2, tap: tap_name(0) }],
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<NetRecord>(&text).unwrap(), record);
    }
}
