//! What the guest is told about a NIC, in plain types.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use shared_types::Mac;

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The host's part included.
    pub ip: IpAddr,
    /// Bits.
    pub prefix: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// A route of the main table that CNI (or the pod's owner) set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whether destination, gateway and source are IPv6.
    pub v6: bool,
    /// `None`: the default route.
    pub destination: Option<Address>,
    /// Next hop; `None` for a route straight out of the link.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// `rtm_scope` of linux/rtnetlink.h.
    pub scope: u8,
    /// `rtm_flags`, of which only `RTNH_F_ONLINK` (4) is kept.
    pub flags: u32,
    /// Bytes, where the route has an MTU of its own.
    pub mtu: Option<u32>,
    /// Of several routes to one destination, the one with the lowest is used.
    pub metric: u32,
}

/// A permanent entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Whose.
    pub ip: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
    /// `ndm_state` of linux/neighbour.h.
    pub state: u16,
    /// `ndm_flags` of linux/neighbour.h.
    pub flags: u8,
}

/// A link of the pod as CNI configured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// The link's name in the namespace, and to be in the guest.
    pub name: String,
    /// Its index in the namespace.
    pub index: u32,
    /// Its address, which the guest's NIC takes over.
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
    /// The link is up, so that its addresses have routes.
    pub up: bool,
    /// The link does without ARP (`IFF_NOARP`).
    pub no_arp: bool,
    /// Without the link-local address that the guest derives by itself. Of full length where the address's network is not
    /// reached over this link without a gateway: the guest's kernel makes a route for each address with a network.
    pub addresses: Vec<Address>,
    /// Those without a gateway first: the others need them. One for each destination of the pod: the agent's message has no
    /// metric, so that of several the one that the metric prefers is there.
    pub routes: Vec<Route>,
    /// IPv4 and IPv6.
    pub neighbours: Vec<Neighbour>,
}

/// A NIC for the VM.
#[derive(Debug)]
pub struct Endpoint {
    /// What the guest has to configure.
    pub facts: LinkFacts,
    /// The tap's name in the pod's namespace.
    pub tap_name: String,
    /// A descriptor per queue. The tap vanishes when the last copy is closed.
    pub tap: Vec<OwnedFd>,
    /// `/dev/vhost-net`, as many as queues; empty where the host has none.
    pub vhost: Vec<OwnedFd>,
}
