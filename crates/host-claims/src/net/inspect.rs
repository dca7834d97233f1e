//! Reads from a namespace what the guest must be told.
//!
//! Which links: those that are not loopback and have an address, link-local ones included. Links without
//! any are leftovers of tunnel modules (`sit0`, `tunl0`) or were never set up. This is the rule that pods
//! with a VM have everywhere, so a network plugin can rely on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteType,
};
use shared_types::Mac;

use super::Error;

use super::endpoint::{Address, LinkFacts, Neighbour, Route};
use super::netlink::Link;

/// The links to hand over, in the order of their indices.
pub(super) async fn links(link: &Link) -> Result<Vec<LinkFacts>, Error> {
    let handle = &link.handle;
    let all: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(link.failed("list links"))?;
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(link.failed("list addresses"))?;
    let mut found = Vec::new();
    for message in &all {
        let own = addresses.iter().filter(|a| a.header.index == message.header.index);
        let own: Vec<Address> = own.filter_map(address).collect();
        if own.is_empty() || message.header.flags.contains(LinkFlags::Loopback) {
            continue;
        }
        found.push(facts(link, message, own)?);
    }
    if found.is_empty() {
        return Ok(found);
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let routes: Vec<RouteMessage> =
            handle.route().get(family).execute().try_collect().await.map_err(link.failed("list routes"))?;
        routes.iter().try_for_each(|message| give_route(link, &mut found, message))?;
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let neighbours = handle.neighbours().get().set_address_family(family).execute();
        let neighbours: Vec<NeighbourMessage> =
            neighbours.try_collect().await.map_err(link.failed("list neighbours"))?;
        for message in &neighbours {
            let owner = found.iter_mut().find(|facts| facts.index == message.header.ifindex);
            owner.into_iter().for_each(|facts| facts.neighbours.extend(neighbour(message)));
        }
    }
    keep_preferred(&mut found);
    for facts in &mut found {
        facts.routes.sort_by_key(|route| route.gateway.is_some());
    }
    found.sort_by_key(|facts| facts.index);
    Ok(found)
}

/// Leaves one route to each destination: the one with the lowest metric, and of those with the same the first, as the kernel
/// looks them up. kata-agent replaces a route by the next to the same destination (`netlink.rs`, `add_routes`).
fn keep_preferred(found: &mut [LinkFacts]) {
    let mut preferred: BTreeMap<_, u32> = BTreeMap::new();
    for route in found.iter().flat_map(|facts| &facts.routes) {
        let least = preferred.entry(destination(route)).or_insert(route.metric);
        *least = route.metric.min(*least);
    }
    for facts in found {
        facts.routes.retain(|route| {
            let is_it = preferred.get(&destination(route)) == Some(&route.metric);
            if is_it {
                // Taken: another with the same metric comes later.
                preferred.remove(&destination(route));
            }
            is_it
        });
    }
}

/// What is reached: a network, or everything in one of two families.
fn destination(route: &Route) -> (bool, Option<(IpAddr, u8)>) {
    (route.v6, route.destination.map(|to| (to.ip, to.prefix)))
}

fn facts(link: &Link, message: &LinkMessage, mut addresses: Vec<Address>) -> Result<LinkFacts, Error> {
    let mut name = String::new();
    let (mut mac, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    let (Some(mac), Some(mtu), LinkLayerType::Ether) = (mac, mtu, message.header.link_layer_type) else {
        return Err(link.unsupported(&name, "is no Ethernet link"));
    };
    let derived = IpAddr::V6(mac.link_local());
    addresses.retain(|address| address.ip != derived);
    let no_arp = message.header.flags.contains(LinkFlags::Noarp);
    let index = message.header.index;
    Ok(LinkFacts { name, index, mac, mtu, no_arp, addresses, routes: Vec::new(), neighbours: Vec::new() })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point link `Address` is the other side's.
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let ip =
        local.or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))?;
    (!ip.is_loopback()).then_some(Address { ip, prefix: message.header.prefix_len })
}

/// Adds a route to the link it belongs to.
fn give_route(link: &Link, found: &mut [LinkFacts], message: &RouteMessage) -> Result<(), Error> {
    if !is_configured(message) {
        return Ok(());
    }
    let paths = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    if let Some(hop) = paths.and_then(|hops| hops.first()) {
        let name =
            found.iter().find(|facts| facts.index == hop.interface_index).map(|facts| facts.name.as_str());
        return name
            .map_or(Ok(()), |name| Err(link.unsupported(name, "is in a route with several next hops")));
    }
    let out = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let Some(owner) = found.iter_mut().find(|facts| Some(facts.index) == out) else { return Ok(()) };
    let route = route(message).map_err(|reason| link.unsupported(&owner.name, reason))?;
    owner.routes.push(route);
    Ok(())
}

/// Unicast routes of the main table that somebody set. The kernel's own follow from the addresses, and
/// those learnt from router advertisements reach the guest the same way.
fn is_configured(message: &RouteMessage) -> bool {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| message.header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
        && message.header.kind == RouteType::Unicast
        && !matches!(
            message.header.protocol,
            RouteProtocol::Kernel | RouteProtocol::IcmpRedirect | RouteProtocol::Ra
        )
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

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    let state = u16::from(message.header.state);
    Some(Neighbour { ip: ip?, mac: mac?, state, flags: message.header.flags.bits() })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteScope;

    use super::*;

    fn message(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Link;
        message.header.flags = RouteFlags::Onlink;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_default_route_has_no_destination() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let attributes = vec![
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
        ];
        let route = route(&message(attributes)).unwrap();
        assert_eq!((route.destination, route.gateway), (None, Some(gateway.into())));
        assert_eq!((route.scope, route.flags, route.mtu), (253, 4, Some(1400)));
    }

    #[test]
    fn of_several_routes_to_one_destination_the_metric_decides_in_any_order() {
        let net = Address { ip: Ipv4Addr::new(10, 1, 0, 0).into(), prefix: 16 };
        let route = |destination, gateway: u8, metric| Route {
            v6: false,
            destination,
            gateway: Some(Ipv4Addr::new(10, 0, 0, gateway).into()),
            source: None,
            scope: 0,
            flags: 0,
            mtu: None,
            metric,
        };
        let link = |index, routes| LinkFacts {
            name: format!("eth{index}"),
            index,
            mac: Mac([2; 6]),
            mtu: 1500,
            no_arp: false,
            addresses: Vec::new(),
            routes,
            neighbours: Vec::new(),
        };
        let first = vec![route(None, 1, 200), route(Some(net), 1, 0), route(None, 2, 100)];
        let second = vec![route(None, 3, 50), route(None, 4, 50), route(Some(net), 3, 10)];
        let kept = |mut links: Vec<LinkFacts>| {
            keep_preferred(&mut links);
            let of = |link: &LinkFacts| {
                link.routes.iter().map(|r| r.gateway.unwrap().to_string()).collect::<Vec<_>>()
            };
            links.iter().map(|link| (link.index, of(link))).collect::<std::collections::BTreeMap<_, _>>()
        };
        let there = kept(vec![link(1, first.clone()), link(2, second.clone())]);
        assert_eq!(there, [(1, vec!["10.0.0.1".to_owned()]), (2, vec!["10.0.0.3".to_owned()])].into());
        let back = kept(vec![link(2, second), link(1, first)]);
        assert_eq!(back, there);
    }

    #[test]
    fn only_configured_unicast_routes_of_the_main_table_count() {
        assert!(is_configured(&message(Vec::new())));
        assert!(!is_configured(&message(vec![RouteAttribute::Table(1000)])));
        for protocol in [RouteProtocol::Kernel, RouteProtocol::Ra] {
            let mut learnt = message(Vec::new());
            learnt.header.protocol = protocol;
            assert!(!is_configured(&learnt));
        }
        let mut local = message(Vec::new());
        local.header.kind = RouteType::Local;
        assert!(!is_configured(&local));
    }

    #[test]
    fn only_permanent_neighbours_with_an_ethernet_address_count() {
        let mut entry = NeighbourMessage::default();
        entry.header.state = NeighbourState::Permanent;
        entry.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(10, 0, 0, 1))),
            NeighbourAttribute::LinkLayerAddress(vec![1, 2, 3, 4, 5, 6]),
        ];
        assert_eq!(neighbour(&entry).unwrap().state, 0x80);
        entry.attributes[1] = NeighbourAttribute::LinkLayerAddress(vec![1, 2, 3, 4]);
        assert!(neighbour(&entry).is_none());
        entry.header.state = NeighbourState::Reachable;
        assert!(neighbour(&entry).is_none());
    }
}
