//! Links, addresses, routes and neighbours of the guest, over rtnetlink.

use std::net::IpAddr;

use agent_client::proto::types::{ARPNeighbor, IPAddress, IPFamily, Interface, Route};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteScope,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::error::{Error, Result};

/// Largest number of bytes of a link's name.
const NAME_MAX: usize = 15;

/// Handle on the kernel's network configuration.
#[derive(Clone)]
pub struct Network {
    handle: Handle,
}

fn failed(what: String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Network { what, source }
}

impl Network {
    /// Connects to the kernel and brings the loopback link up.
    pub async fn start() -> Result<Self> {
        let (connection, handle, _) = new_connection().map_err(Error::system("open a netlink socket"))?;
        tokio::spawn(connection);
        let network = Self { handle };
        if let Some(lo) = network.links().await?.into_iter().find(|link| name(link) == "lo") {
            network.set(LinkUnspec::new_with_index(lo.header.index).up().build(), "bring up lo").await?;
        }
        Ok(network)
    }

    /// Names, addresses, sizes and brings up the link that has the interface's hardware address.
    pub async fn update_interface(&self, interface: &Interface) -> Result<()> {
        if interface.name.is_empty() || interface.name.len() > NAME_MAX {
            return Err(Error::refused(format!("interface name {:?}", interface.name)));
        }
        let wanted = hardware_address(&interface.hwAddr)?;
        let links = self.links().await?;
        let link = links
            .iter()
            .find(|link| address(link) == wanted)
            .ok_or_else(|| Error::refused(format!("no link has hardware address {}", interface.hwAddr)))?;
        let index = link.header.index;
        // As kata-agent: who has the name gets the other's, by way of a third.
        let other = links.iter().find(|other| name(other) == interface.name && other.header.index != index);
        if let Some(other) = other {
            let (aside, what) = (format!("{}_temp", name(other)), format!("rename {}", name(other)));
            let index = other.header.index;
            self.set(LinkUnspec::new_with_index(index).down().build(), &what).await?;
            self.set(LinkUnspec::new_with_index(index).name(&aside).build(), &what).await?;
        }
        if link.header.flags.contains(LinkFlags::Up) {
            let what = format!("bring down {}", interface.name);
            self.set(LinkUnspec::new_with_index(index).down().build(), &what).await?;
        }
        let mut change = LinkUnspec::new_with_index(index).name(&interface.name);
        if interface.mtu > 0 {
            let mtu = u32::try_from(interface.mtu).map_err(|_| Error::refused("MTU out of range"))?;
            change = change.mtu(mtu);
        }
        self.set(change.build(), &format!("name {} and set its MTU", interface.name)).await?;
        // The link must be up first: bringing it down and up again drops IPv6 addresses.
        self.set(LinkUnspec::new_with_index(index).up().build(), &format!("bring up {}", interface.name))
            .await?;
        if let Some(other) = other {
            let what = format!("rename {}_temp", interface.name);
            let back = LinkUnspec::new_with_index(other.header.index).name(name(link)).up();
            self.set(back.build(), &what).await?;
        }
        for given in &interface.IPAddresses {
            let (ip, prefix) = ip_and_prefix(given)?;
            let mut request = self.handle.address().add(index, ip, prefix).replace();
            if ip.is_ipv6() {
                // Ready at once: the host has already made sure that nobody else has it.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request
                .execute()
                .await
                .map_err(failed(format!("add address {ip}/{prefix} to {}", interface.name)))?;
        }
        Ok(())
    }

    /// All links with their addresses.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        let addresses: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("list addresses".into()))?;
        let links = self.links().await?;
        let interface = |link: &LinkMessage| Interface {
            name: name(link).to_owned(),
            hwAddr: shown(address(link)),
            mtu: link.attributes.iter().find_map(mtu).unwrap_or_default().into(),
            IPAddresses: addresses
                .iter()
                .filter(|message| message.header.index == link.header.index)
                .filter_map(ip_address)
                .collect(),
            ..Default::default()
        };
        Ok(links.iter().map(interface).collect())
    }

    /// Adds or replaces routes; those without a gateway first, as the others need them.
    pub async fn update_routes(&self, routes: &[Route]) -> Result<()> {
        let links = self.links().await?;
        let (direct, through): (Vec<&Route>, Vec<&Route>) =
            routes.iter().partition(|route| route.gateway.is_empty());
        for route in direct.into_iter().chain(through) {
            let link = links
                .iter()
                .find(|link| name(link) == route.device)
                .ok_or_else(|| Error::refused(format!("route over unknown device {:?}", route.device)))?;
            let message = route_message(route, link.header.index)?;
            let what = format!("add route to {:?} over {}", route.dest, route.device);
            self.handle.route().add(message).replace().execute().await.map_err(failed(what))?;
        }
        Ok(())
    }

    /// The main table's routes, both families.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let links = self.links().await?;
        let mut list = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let messages: Vec<RouteMessage> = self
                .handle
                .route()
                .get(request)
                .execute()
                .try_collect()
                .await
                .map_err(failed("list routes".into()))?;
            let main = messages.iter().filter(|message| message.header.table == nix::libc::RT_TABLE_MAIN);
            list.extend(main.map(|message| route(message, &links)));
        }
        Ok(list)
    }

    /// Adds or replaces neighbours.
    pub async fn add_neighbours(&self, neighbours: &[ARPNeighbor]) -> Result<()> {
        let links = self.links().await?;
        for neighbour in neighbours {
            let link = links.iter().find(|link| name(link) == neighbour.device).ok_or_else(|| {
                Error::refused(format!("neighbour on unknown device {:?}", neighbour.device))
            })?;
            let text =
                neighbour.toIPAddress.as_ref().map(|address| address.address.as_str()).unwrap_or_default();
            let ip: IpAddr =
                text.parse().map_err(|_| Error::refused(format!("neighbour address {text:?}")))?;
            let state = match neighbour.state {
                0 => NeighbourState::Permanent,
                state => {
                    NeighbourState::from(u16::try_from(state).map_err(|_| Error::refused("neighbour state"))?)
                }
            };
            let flags = u8::try_from(neighbour.flags).map_err(|_| Error::refused("neighbour flags"))?;
            let request = self
                .handle
                .neighbours()
                .add(link.header.index, ip)
                .state(state)
                .flags(NeighbourFlags::from_bits_retain(flags))
                .link_layer_address(&hardware_address(&neighbour.lladdr)?)
                .replace();
            request.execute().await.map_err(failed(format!("add neighbour {ip}")))?;
        }
        Ok(())
    }

    async fn links(&self) -> Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.map_err(failed("list links".into()))
    }

    async fn set(&self, change: LinkMessage, what: &str) -> Result<()> {
        self.handle.link().set(change).execute().await.map_err(failed(what.to_owned()))
    }
}

fn name(link: &LinkMessage) -> &str {
    let name = |attribute: &'_ LinkAttribute| matches!(attribute, LinkAttribute::IfName(_));
    match link.attributes.iter().find(|attribute| name(attribute)) {
        Some(LinkAttribute::IfName(name)) => name,
        _ => "",
    }
}

fn address(link: &LinkMessage) -> &[u8] {
    let found = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    found.unwrap_or_default()
}

fn mtu(attribute: &LinkAttribute) -> Option<u32> {
    match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn hardware_address(text: &str) -> Result<Vec<u8>> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
        .collect();
    bytes.filter(|bytes| bytes.len() == 6).ok_or_else(|| Error::refused(format!("hardware address {text:?}")))
}

fn ip_and_prefix(given: &IPAddress) -> Result<(IpAddr, u8)> {
    let refused =
        || Error::refused(format!("address {:?} with prefix length {:?}", given.address, given.mask));
    let ip: IpAddr = given.address.parse().map_err(|_| refused())?;
    let prefix: u8 = given.mask.parse().map_err(|_| refused())?;
    let family = given.family.enum_value().map_err(|_| refused())?;
    let fits = prefix <= if ip.is_ipv6() { 128 } else { 32 } && (family == IPFamily::v6) == ip.is_ipv6();
    if fits { Ok((ip, prefix)) } else { Err(refused()) }
}

fn ip_address(message: &AddressMessage) -> Option<IPAddress> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })?;
    let family = if ip.is_ipv6() { IPFamily::v6 } else { IPFamily::v4 };
    Some(IPAddress {
        family: family.into(),
        address: ip.to_string(),
        mask: message.header.prefix_len.to_string(),
        ..Default::default()
    })
}

/// `<ip>/<prefix>`; a bare address is a host's, nothing is the default route's.
fn network(text: &str, v6: bool) -> Result<(IpAddr, u8)> {
    let refused = || Error::refused(format!("route address {text:?}"));
    let any: IpAddr = if v6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
    if text.is_empty() {
        return Ok((any, 0));
    }
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip: IpAddr = ip.parse().map_err(|_| refused())?;
    let longest = if v6 { 128 } else { 32 };
    let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| refused()))?;
    if ip.is_ipv6() == v6 && prefix <= longest { Ok((ip, prefix)) } else { Err(refused()) }
}

fn route_message(route: &Route, index: u32) -> Result<RouteMessage> {
    let v6 = route.family.enum_value().is_ok_and(|family| family == IPFamily::v6);
    let invalid = |_| Error::refused(format!("route to {:?}", route.dest));
    let (ip, prefix) = network(&route.dest, v6)?;
    let scope = u8::try_from(route.scope).map_err(|_| Error::refused("route scope"))?;
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(ip, prefix)
        .map_err(invalid)?
        .output_interface(index)
        .scope(RouteScope::from(scope));
    if !route.source.is_empty() {
        let (source, prefix) = network(&route.source, v6)?;
        // An address without a prefix has one of its own length.
        builder = if prefix > 0 {
            builder.source_prefix(source, prefix).map_err(invalid)?
        } else {
            builder.pref_source(source).map_err(invalid)?
        };
    }
    if !route.gateway.is_empty() {
        let gateway: IpAddr =
            route.gateway.parse().map_err(|_| Error::refused(format!("gateway {:?}", route.gateway)))?;
        builder = builder.gateway(gateway).map_err(invalid)?;
    }
    let mut message = builder.build();
    message.header.flags |= RouteFlags::from_bits_retain(route.flags);
    if route.mtu > 0 {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)]));
    }
    Ok(message)
}

fn route(message: &RouteMessage, links: &[LinkMessage]) -> Route {
    let v6 = message.header.address_family == AddressFamily::Inet6;
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => ip.to_string(),
        RouteAddress::Inet6(ip) => ip.to_string(),
        _ => String::new(),
    };
    let mut route = Route {
        scope: u8::from(message.header.scope).into(),
        family: if v6 { IPFamily::v6 } else { IPFamily::v4 }.into(),
        flags: message.header.flags.bits(),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.dest = format!("{}/{}", ip(address), message.header.destination_prefix_length);
            }
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Oif(index) => {
                let link = links.iter().find(|link| link.header.index == *index);
                route.device = link.map(name).unwrap_or_default().to_owned();
            }
            _ => {}
        }
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_have_six_bytes() {
        assert_eq!(hardware_address("02:00:ff:0A:0b:0c").unwrap(), [2, 0, 255, 10, 11, 12]);
        for text in ["", "02:00", "02:00:00:00:00:0g", "2:0:0:0:0:0", "02:00:00:00:00:00:00"] {
            assert!(hardware_address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn family_and_prefix_must_fit_the_address() {
        let address = |family: IPFamily, address: &str, mask: &str| {
            let family = family.into();
            ip_and_prefix(&IPAddress {
                family,
                address: address.into(),
                mask: mask.into(),
                ..Default::default()
            })
        };
        assert_eq!(address(IPFamily::v4, "10.0.0.2", "24").unwrap().1, 24);
        assert_eq!(address(IPFamily::v6, "fd00::2", "64").unwrap().1, 64);
        assert!(address(IPFamily::v4, "fd00::2", "64").is_err());
        assert!(address(IPFamily::v4, "10.0.0.2", "33").is_err());
        assert!(address(IPFamily::v4, "10.0.0.2", "255.255.255.0").is_err());
    }

    #[test]
    fn destinations_may_be_networks_hosts_or_all() {
        assert_eq!(network("", false).unwrap(), (IpAddr::from([0u8; 4]), 0));
        assert_eq!(network("10.1.0.0/16", false).unwrap().1, 16);
        assert_eq!(network("fd00::1", true).unwrap().1, 128);
        assert!(network("fd00::/64", false).is_err());
        assert!(network("10.0.0.0/40", false).is_err());
    }
}
