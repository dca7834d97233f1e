//! Reads from a namespace what the guest must be told.
//!
//! Which links: those that are not loopback and have an address, link-local ones included. Links without
//! any are leftovers of tunnel modules (`sit0`, `tunl0`) or were never set up. This is the rule that pods
//! with a VM have everywhere, so a network plugin can rely on it. Of these, a link that is up and carries
//! Ethernet was set up by somebody: that the guest does not have it, nor the routes over it, is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::{IpVersion, RouteMessageBuilder};
use shared_types::Mac;

use super::endpoint::{Address, LinkFacts, Neighbour};
use super::netlink::{Link, is_errno};
use super::{Error, routes, rules};

/// The links to hand over, in the order of their indices, and in words what the guest cannot have of what was configured.
pub(super) async fn links(link: &Link) -> Result<(Vec<LinkFacts>, Vec<String>), Error> {
    let handle = &link.handle;
    let all: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(link.failed("list links"))?;
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(link.failed("list addresses"))?;
    let (mut found, mut left_out, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for message in &all {
        let own = addresses.iter().filter(|a| a.header.index == message.header.index);
        let own: Vec<Address> = own.filter_map(address).collect();
        if message.header.flags.contains(LinkFlags::Loopback) {
            continue;
        }
        if own.is_empty() {
            let name = name(message);
            if message.header.flags.contains(LinkFlags::Up)
                && message.header.link_layer_type == LinkLayerType::Ether
            {
                left_out.push(format!("link {name}, which has no address"));
            }
            bare.push((message.header.index, name));
            continue;
        }
        found.push(facts(link, message, own)?);
    }
    if found.is_empty() {
        return Ok((found, left_out));
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for (family, version, is_v6) in [(v4, IpVersion::V4, false), (v6, IpVersion::V6, true)] {
        let messages: Vec<RouteMessage> =
            handle.route().get(family).execute().try_collect().await.map_err(link.failed("list routes"))?;
        let known = routes::Links { link, bare: &bare };
        routes::give(&known, &mut found, &messages, is_v6, &mut left_out)?;
        let messages: Vec<RuleMessage> = match handle.rule().get(version).execute().try_collect().await {
            Ok(messages) => messages,
            // A kernel without policy routing.
            Err(error) if is_errno(&error, Errno::EOPNOTSUPP) => Vec::new(),
            Err(error) => return Err(link.failed("list rules of policy routing")(error)),
        };
        left_out.extend(messages.iter().filter_map(rules::configured));
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
    for facts in &mut found {
        // The guest derives it by itself.
        let derived = IpAddr::V6(facts.mac.link_local());
        facts.addresses.retain(|address| address.ip != derived);
    }
    found.sort_by_key(|facts| facts.index);
    Ok((found, left_out))
}

fn facts(link: &Link, message: &LinkMessage, addresses: Vec<Address>) -> Result<LinkFacts, Error> {
    let name = name(message);
    let (mut mac, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    let (Some(mac), Some(mtu), LinkLayerType::Ether) = (mac, mtu, message.header.link_layer_type) else {
        return Err(link.unsupported(&name, "is no Ethernet link"));
    };
    let no_arp = message.header.flags.contains(LinkFlags::Noarp);
    let up = message.header.flags.contains(LinkFlags::Up);
    let index = message.header.index;
    Ok(LinkFacts { name, index, mac, mtu, up, no_arp, addresses, routes: Vec::new(), neighbours: Vec::new() })
}

fn name(message: &LinkMessage) -> String {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn address(message: &AddressMessage) -> Option<Address> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point link `Address` is the other side's.
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let ip =
        local.or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))?;
    (!ip.is_loopback()).then_some(Address { ip, prefix: message.header.prefix_len })
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
    use super::*;

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
