//! The sandbox inside the guest: network, hostname, shared memory; all that comes before the first container.

use agent_client::proto::agent as msg;
use agent_client::proto::types::{ARPNeighbor, IPAddress, IPFamily, Interface, Route};
use agent_client::{Agent, AgentError};
use host_claims::net::{Address, Endpoint, LinkFacts};
use slog::{Logger, info};

/// What the guest is told about its pod.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestSandbox {
    /// The sandbox's id.
    pub id: String,
    /// The pod's host name; empty leaves the image's.
    pub hostname: String,
    /// Size in bytes of the containers' shared `/dev/shm`.
    pub shm_size: u64,
}

/// Sets the sandbox up in the guest; returns what the agent says of itself.
///
/// # Errors
/// The agent refuses a step.
pub async fn set_up(
    agent: &Agent,
    endpoints: &[Endpoint],
    sandbox: GuestSandbox,
    log: &Logger,
) -> Result<msg::AgentDetails, AgentError> {
    for endpoint in endpoints {
        agent.update_interface(interface(&endpoint.facts)).await?;
    }
    let routes: Vec<Route> = endpoints.iter().flat_map(|endpoint| routes(&endpoint.facts)).collect();
    if !routes.is_empty() {
        agent.update_routes(routes).await?;
    }
    let neighbours: Vec<_> = endpoints.iter().flat_map(|endpoint| neighbours(&endpoint.facts)).collect();
    if !neighbours.is_empty() {
        agent.add_arp_neighbors(neighbours).await?;
    }
    agent
        .create_sandbox(msg::CreateSandboxRequest {
            hostname: sandbox.hostname,
            storages: vec![guest_spec::shm_storage(sandbox.shm_size)],
            // Not the id of a container: kata-agent tells no out-of-memory events of the one that has the sandbox's.
            sandbox_id: format!("sandbox-{}", sandbox.id),
            ..Default::default()
        })
        .await?;
    // kata-agent mounts shared memory without looking at its size; a remount sets it.
    agent.update_ephemeral_mounts(guest_spec::shm_remount(sandbox.shm_size)).await?;
    let details = agent.get_guest_details(msg::GuestDetailsRequest::default()).await?;
    let details = details.agent_details.into_option().unwrap_or_default();
    info!(log, "guest agent"; "version" => agent_client::sanitize(&details.version));
    Ok(details)
}

/// The guest finds the link by its hardware address: every NIC is there before the agent is.
fn interface(facts: &LinkFacts) -> Interface {
    Interface {
        device: facts.name.clone(),
        name: facts.name.clone(),
        IPAddresses: facts.addresses.iter().map(address).collect(),
        mtu: u64::from(facts.mtu),
        hwAddr: facts.mac.to_string(),
        // IFF_NOARP of linux/if.h
        raw_flags: if facts.no_arp { 0x80 } else { 0 },
        ..Default::default()
    }
}

fn address(address: &Address) -> IPAddress {
    IPAddress {
        family: family(address.ip.is_ipv6()).into(),
        address: address.ip.to_string(),
        mask: address.prefix.to_string(),
        ..Default::default()
    }
}

fn family(v6: bool) -> IPFamily {
    if v6 { IPFamily::v6 } else { IPFamily::v4 }
}

fn routes(facts: &LinkFacts) -> impl Iterator<Item = Route> {
    let text = |value: Option<String>| value.unwrap_or_default();
    facts.routes.iter().map(move |route| Route {
        dest: text(route.destination.map(|destination| destination.to_string())),
        gateway: text(route.gateway.map(|gateway| gateway.to_string())),
        device: facts.name.clone(),
        // With a prefix of its own length, which is what an address has without one, kata-agent 4.1.0 takes it for the
        // packets' source that the route is for (`netlink.rs`, `update_routes`).
        source: text(route.source.map(|source| format!("{source}/0"))),
        scope: u32::from(route.scope),
        family: family(route.v6).into(),
        flags: route.flags,
        mtu: route.mtu.unwrap_or(0),
        ..Default::default()
    })
}

fn neighbours(facts: &LinkFacts) -> impl Iterator<Item = ARPNeighbor> {
    facts.neighbours.iter().map(|neighbour| ARPNeighbor {
        toIPAddress: protobuf::MessageField::some(IPAddress {
            family: family(neighbour.ip.is_ipv6()).into(),
            address: neighbour.ip.to_string(),
            ..Default::default()
        }),
        device: facts.name.clone(),
        lladdr: neighbour.mac.to_string(),
        state: i32::from(neighbour.state),
        flags: i32::from(neighbour.flags),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use host_claims::net::{Neighbour, Route as HostRoute};
    use shared_types::Mac;

    use super::*;

    fn facts() -> LinkFacts {
        LinkFacts {
            name: "eth0".to_owned(),
            index: 2,
            mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1450,
            up: true,
            no_arp: false,
            addresses: vec![
                Address { ip: "10.4.0.5".parse().unwrap(), prefix: 16 },
                Address { ip: "fd00::5".parse().unwrap(), prefix: 64 },
            ],
            routes: vec![HostRoute {
                v6: false,
                destination: None,
                gateway: Some("10.4.0.1".parse().unwrap()),
                source: Some("10.4.0.5".parse().unwrap()),
                scope: 0,
                flags: 4,
                mtu: Some(1400),
                metric: 0,
            }],
            neighbours: vec![Neighbour {
                ip: "10.4.0.1".parse().unwrap(),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                state: 0x80,
                flags: 0,
            }],
        }
    }

    #[test]
    fn an_interface_keeps_name_and_addresses() {
        let interface = interface(&facts());
        assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1450));
        assert_eq!(interface.hwAddr, "02:00:00:00:00:09");
        let addresses: Vec<_> = interface
            .IPAddresses
            .iter()
            .map(|ip| format!("{}/{} {:?}", ip.address, ip.mask, ip.family))
            .collect();
        assert_eq!(addresses, ["10.4.0.5/16 v4", "fd00::5/64 v6"]);
    }

    #[test]
    fn a_default_route_has_no_destination() {
        let route = routes(&facts()).next().unwrap();
        assert_eq!((route.dest.as_str(), route.gateway.as_str()), ("", "10.4.0.1"));
        assert_eq!(route.source, "10.4.0.5/0");
        assert_eq!((route.device.as_str(), route.flags, route.mtu), ("eth0", 4, 1400));
    }

    #[test]
    fn a_permanent_neighbour_stays_permanent() {
        let neighbour = neighbours(&facts()).next().unwrap();
        assert_eq!(neighbour.state, 0x80);
        assert_eq!(neighbour.toIPAddress.address, "10.4.0.1");
    }
}
