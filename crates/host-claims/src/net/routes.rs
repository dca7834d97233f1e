//! Which routes the guest is told.
//!
//! A route in the agent's messages has no metric, no type and no table, and each replaces the one before it to the same
//! destination (kata-agent 4.1.0, `netlink.rs`, `update_routes`). Those of addresses are made by the guest's kernel. So of
//! several routes to one destination the one goes over that the kernel takes here; and where that is another one than its
//! address would make, the address goes over without its network.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteType,
};

use super::Error;
use super::endpoint::{Address, LinkFacts, Route};
use super::netlink::Link;

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const TABLE_LOCAL: u32 = 255;

/// What is reached: a network, or everything.
type Destination = Option<(IpAddr, u8)>;

/// Who made a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// CNI, or whoever else is at work in the namespace.
    Somebody,
    /// The kernel: for an address.
    Kernel,
    /// A router, by an advertisement; it reaches the guest in the same way.
    Router,
}

/// A route of the main table.
#[derive(Debug, Clone)]
struct Candidate {
    link: u32,
    maker: Maker,
    route: Route,
}

/// The namespace, and those of its links that the guest does not get, by their indices.
#[derive(Clone, Copy)]
pub(super) struct Links<'a> {
    pub(super) link: &'a Link,
    pub(super) bare: &'a [(u32, String)],
}

/// Gives each link the routes that the guest is told of one address family, and narrows addresses whose network is reached in
/// another way. `left_out` gets what the guest cannot have.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Barrier`] for what must not be left out.
pub(super) fn give(
    known: &Links<'_>,
    links: &mut [LinkFacts],
    messages: &[RouteMessage],
    v6: bool,
    left_out: &mut Vec<String>,
) -> Result<(), Error> {
    let mut candidates = Vec::new();
    for message in messages {
        candidates.extend(candidate(known, links, message, left_out)?);
    }
    choose(links, &candidates, v6, left_out);
    Ok(())
}

fn candidate(
    known: &Links<'_>,
    links: &[LinkFacts],
    message: &RouteMessage,
    left_out: &mut Vec<String>,
) -> Result<Option<Candidate>, Error> {
    let link = known.link;
    let maker = match message.header.protocol {
        RouteProtocol::IcmpRedirect => return Ok(None),
        RouteProtocol::Kernel => Maker::Kernel,
        RouteProtocol::Ra => Maker::Router,
        _ => Maker::Somebody,
    };
    let (table, kind) = (table(message), message.header.kind);
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    // What another table has is of use to a rule only, and rules are told.
    let is_looked_up = is_main || (table == TABLE_LOCAL && kind == RouteType::Local);
    match kind {
        RouteType::Unicast if is_main => {}
        _ if !is_looked_up || maker != Maker::Somebody => return Ok(None),
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            let netns = link.netns().path().to_owned();
            return Err(Error::Barrier { netns, route: text(message) });
        }
        // Local, multicast, nat, anycast, and whatever is new.
        _ => {
            left_out.push(format!("route {}", text(message)));
            return Ok(None);
        }
    }
    let find = |index: u32| links.iter().find(|facts| facts.index == index);
    let mut out = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::MultiPath(hops) if maker != Maker::Router => {
                if let Some(facts) = hops.iter().find_map(|hop| find(hop.interface_index)) {
                    return Err(link.unsupported(&facts.name, "is in a route with several next hops"));
                }
            }
            _ => {}
        }
    }
    let Some(facts) = out.and_then(find) else {
        if maker == Maker::Somebody {
            let bare = known.bare.iter().find(|(index, _)| Some(*index) == out);
            let over = bare.map(|(_, name)| format!(" dev {name}")).unwrap_or_default();
            left_out.push(format!("route {}{over}: the guest does not have its link", text(message)));
        }
        return Ok(None);
    };
    let has_source = message.attributes.iter().any(|one| matches!(one, RouteAttribute::Source(_)));
    if message.header.tos != 0 || has_source {
        left_out.push(format!("route {}, which is for some packets only", text(message)));
        return Ok(None);
    }
    let route = route(message).map_err(|reason| link.unsupported(&facts.name, reason))?;
    let lost = lost_metrics(message);
    if maker == Maker::Somebody && !lost.is_empty() {
        left_out.push(format!("{} of route {}", lost.join(", "), text(message)));
    }
    Ok(Some(Candidate { link: facts.index, maker, route }))
}

/// Decides between the routes to each destination: the lowest metric, and of those with the same the first, as the kernel
/// looks them up.
fn choose(links: &mut [LinkFacts], candidates: &[Candidate], v6: bool, left_out: &mut Vec<String>) {
    let mut chosen: BTreeMap<Destination, &Candidate> = BTreeMap::new();
    for candidate in candidates {
        let best = chosen.entry(destination(&candidate.route)).or_insert(candidate);
        if candidate.route.metric < best.route.metric {
            *best = candidate;
        }
    }
    for candidate in candidates.iter().filter(|candidate| candidate.maker == Maker::Somebody) {
        let best = chosen.get(&destination(&candidate.route));
        let is_best = best.is_some_and(|best| std::ptr::eq(*best, candidate));
        if !is_best {
            let Route { destination, gateway, metric, .. } = &candidate.route;
            let to = destination.map_or_else(|| "default".to_owned(), |to| to.to_string());
            let via = gateway.map(|via| format!(" via {via}")).unwrap_or_default();
            left_out.push(format!("route {to}{via} metric {metric}: another one to there is preferred"));
        }
    }
    for facts in links {
        let own = |candidate: &&Candidate| candidate.link == facts.index && candidate.route.gateway.is_none();
        let networks: Vec<Destination> =
            facts.addresses.iter().map(|address| Some(network(*address))).collect();
        let of_address = |candidate: &Candidate| {
            candidate.maker == Maker::Kernel
                && candidate.route.gateway.is_none()
                && networks.contains(&destination(&candidate.route))
        };
        for candidate in chosen.values().filter(|candidate| candidate.link == facts.index) {
            if candidate.maker != Maker::Router && !of_address(candidate) {
                facts.routes.push(candidate.route.clone());
            }
        }
        for (address, network) in facts.addresses.iter_mut().zip(&networks) {
            let is_direct = candidates.iter().filter(own).any(|one| destination(&one.route) == *network)
                && chosen.get(network).is_some_and(|best| best.route.gateway.is_none());
            if facts.up && address.ip.is_ipv6() == v6 && !is_direct {
                address.prefix = if v6 { 128 } else { 32 };
            }
        }
        facts.routes.sort_by_key(|route| route.gateway.is_some());
    }
}

fn destination(route: &Route) -> Destination {
    route.destination.map(|to| (to.ip, to.prefix))
}

/// The network that an address is in.
fn network(address: Address) -> (IpAddr, u8) {
    let ip = match address.ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(address.prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    };
    (ip, address.prefix)
}

fn table(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| message.header.table.into())
}

fn route(message: &RouteMessage) -> Result<Route, &'static str> {
    let mut route = Route {
        v6: message.header.address_family == AddressFamily::Inet6,
        destination: None,
        gateway: None,
        source: None,
        scope: message.header.scope.into(),
        flags: (message.header.flags & RouteFlags::Onlink).bits(),
        mtu: None,
        metric: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                let prefix = message.header.destination_prefix_length;
                route.destination = ip(to).map(|ip| Address { ip, prefix });
            }
            RouteAttribute::Gateway(via) => route.gateway = ip(via),
            RouteAttribute::Via(_) => return Err("has a route whose gateway is of another address family"),
            RouteAttribute::Encap(_) => return Err("has a route with an encapsulation"),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(route)
}

/// What a route says beside its MTU about the connections over it; the agent's message has no place for that.
fn lost_metrics(message: &RouteMessage) -> Vec<&'static str> {
    let metrics = message.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics
        .flatten()
        .filter_map(|metric| match metric {
            RouteMetric::Mtu(_) => None,
            RouteMetric::Lock(_) => Some("the lock of the MTU"),
            RouteMetric::Advmss(_) => Some("advmss"),
            RouteMetric::InitCwnd(_) | RouteMetric::InitRwnd(_) | RouteMetric::Cwnd(_) => Some("the window"),
            RouteMetric::CcAlgo(_) => Some("the congestion control"),
            _ => Some("a metric"),
        })
        .collect()
}

/// A route as `ip route` prints it, as far as it tells one from another.
fn text(message: &RouteMessage) -> String {
    let kind = match message.header.kind {
        RouteType::Unicast => String::new(),
        kind => format!("{kind:?} ").to_lowercase(),
    };
    let (mut to, mut rest) = ("default".to_owned(), String::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                to = ip(address)
                    .map(|ip| format!("{ip}/{}", message.header.destination_prefix_length))
                    .unwrap_or_default();
            }
            RouteAttribute::Gateway(address) => {
                let _ = ip(address).map(|ip| write!(rest, " via {ip}"));
            }
            _ => {}
        }
    }
    format!("{kind}{to}{rest}")
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
