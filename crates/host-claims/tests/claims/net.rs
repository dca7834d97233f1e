//! A pod's network end to end: namespaces and links as CNI makes them, and a test that plays the guest on
//! the tap. Needs root; without it the tests say so and pass.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::pod::{Pod, command};
use host_claims::net::{Error, NetPlan, Network};

/// The virtio-net header that `IFF_VNET_HDR` puts before every frame.
const VNET_HEADER: usize = 10;
const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

async fn claim(pod: &Pod, vcpus: u16) -> Network {
    NetPlan::inspect(&pod.path).await.unwrap().claim(vcpus).await.unwrap()
}

#[tokio::test]
async fn the_guest_is_told_what_cni_configured() {
    let Some(pod) = Pod::make() else { return };
    pod.ip("link set eth0 mtu 1400");
    pod.ip("-6 addr add fd00:88::2/64 dev eth0 nodad");
    pod.ip("route add default via 10.88.0.1 mtu 1300 metric 5");
    pod.ip("route add default via 10.88.0.3 metric 50");
    pod.ip("route add default via 10.88.0.4 metric 20");
    pod.ip("route add 192.0.2.0/24 dev eth0 src 10.88.0.2");
    pod.ip("route add 198.51.100.7 via 169.254.1.1 dev eth0 onlink");
    pod.ip("route add 203.0.113.0/24 dev eth0 table 7");
    pod.ip("-6 route add default via fd00:88::7 metric 300");
    pod.ip("-6 route add default via fd00:88::1 metric 30");
    pod.ip("neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 nud permanent dev eth0");
    pod.ip("neigh add 10.88.0.8 lladdr 02:00:00:00:00:08 nud stale dev eth0");
    let network = claim(&pod, 3).await;
    let [endpoint] = &network.endpoints[..] else { panic!("one link, one endpoint") };
    let facts = &endpoint.facts;
    assert_eq!((facts.name.as_str(), facts.mtu, facts.no_arp), ("eth0", 1400, false));
    assert_eq!(facts.mac.to_string(), pod.mac("eth0"));
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.88.0.2/24", "fd00:88::2/64"]);
    let routes: Vec<String> = facts.routes.iter().map(describe).collect();
    let expected = [
        "192.0.2.0/24 via - src 10.88.0.2 flags 0 mtu -",
        "default via 10.88.0.1 src - flags 0 mtu 1300",
        "198.51.100.7/32 via 169.254.1.1 src - flags 4 mtu -",
        "default via fd00:88::1 src - flags 0 mtu -",
    ];
    assert_eq!(routes, expected);
    assert_eq!(facts.neighbours.len(), 1);
    assert_eq!(facts.neighbours[0].ip.to_string(), "10.88.0.9");
    assert_eq!(endpoint.tap.len(), 3);
    assert!(pod.ip("-o link show tap0_coffer").contains("mtu 1400"));
    network.release().await.unwrap();
}

fn describe(route: &host_claims::net::Route) -> String {
    fn or<T: ToString>(value: Option<&T>, otherwise: &str) -> String {
        value.map_or_else(|| otherwise.to_owned(), ToString::to_string)
    }
    format!(
        "{} via {} src {} flags {} mtu {}",
        or(route.destination.as_ref(), "default"),
        or(route.gateway.as_ref(), "-"),
        or(route.source.as_ref(), "-"),
        route.flags,
        or(route.mtu.as_ref(), "-")
    )
}

#[tokio::test]
async fn frames_go_both_ways_between_the_peer_and_the_guest() {
    let Some(pod) = Pod::make() else { return };
    let mut network = claim(&pod, 1).await;
    let endpoint = network.endpoints.remove(0);
    let mac = endpoint.facts.mac.0;
    let mut guest = Guest::on(endpoint.tap);

    guest.send(&arp(1, mac, POD_IP, [0; 6], PEER_IP));
    let reply = guest.receive(|frame| is_arp(frame, 2));
    assert_eq!(&reply[28..32], PEER_IP.octets());

    guest.send(&echo_request(mac, &reply[22..28]));
    let reply = guest.receive(|frame| is_icmp(frame, 0));
    assert_eq!((&reply[..6], &reply[30..34]), (&mac[..], &POD_IP.octets()[..]));

    drop(guest);
    network.release().await.unwrap();
}

#[tokio::test]
async fn release_leaves_nothing_and_can_be_repeated_from_the_record() {
    let Some(pod) = Pod::make() else { return };
    let before = (pod.ip("-o link"), pod.tc("qdisc show"));
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    let record = plan.record();
    let network = plan.claim(2).await.unwrap();
    assert!(pod.tc("qdisc show dev eth0").contains("ingress"));
    network.release().await.unwrap();
    assert_eq!((pod.ip("-o link"), pod.tc("qdisc show")), before);
    record.release().await.unwrap();
    let path = pod.path.clone();
    drop(pod);
    assert!(!path.exists());
    record.release().await.unwrap();
}

#[tokio::test]
async fn a_shim_that_died_is_released_by_its_record() {
    let Some(pod) = Pod::make() else { return };
    let before = (pod.ip("-o link"), pod.tc("qdisc show"));
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    let record = plan.record();
    drop(plan.claim(2).await.unwrap());
    assert!(pod.tc("qdisc show dev eth0").contains("ingress"), "what a dead shim leaves");
    record.release().await.unwrap();
    assert_eq!((pod.ip("-o link"), pod.tc("qdisc show")), before);
    let again = claim(&pod, 1).await;
    again.release().await.unwrap();
}

#[tokio::test]
async fn a_foreign_ingress_qdisc_is_refused_and_survives() {
    let Some(pod) = Pod::make() else { return };
    pod.tc("qdisc add dev eth0 ingress");
    pod.tc("filter add dev eth0 ingress pref 9 protocol all u32 match u8 0 0 action mirred egress redirect dev lo");
    let before = (pod.ip("-o link"), pod.tc("filter show dev eth0 ingress"));
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    let record = plan.record();
    assert!(matches!(plan.claim(1).await.unwrap_err(), Error::Unsupported { link, .. } if link == "eth0"));
    record.release().await.unwrap();
    assert_eq!((pod.ip("-o link"), pod.tc("filter show dev eth0 ingress")), before);
}

#[tokio::test]
async fn two_links_give_two_endpoints() {
    let Some(pod) = Pod::make() else { return };
    pod.ip("link add link eth0 name net1 type macvlan mode bridge");
    pod.ip("addr add 10.99.0.2/24 dev net1");
    pod.ip("link set net1 up");
    let network = claim(&pod, 1).await;
    let names: Vec<_> =
        network.endpoints.iter().map(|e| (e.facts.name.as_str(), e.tap_name.as_str())).collect();
    assert_eq!(names, [("eth0", "tap0_coffer"), ("net1", "tap1_coffer")]);
    network.release().await.unwrap();
}

#[tokio::test]
async fn an_empty_namespace_gives_no_nic_and_the_hosts_own_is_refused() {
    let Some(pod) = Pod::make() else { return };
    for own in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        let error = NetPlan::inspect(own.as_ref()).await.unwrap_err();
        assert!(matches!(error, Error::HostsOwn { .. }) && error.to_string().contains(own), "{error}");
    }
    pod.ip("link del eth0");
    pod.ip("link add dummy0 type veth peer name dummy1");
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    assert!(!plan.has_links() && plan.left_out().is_empty(), "{plan:?}");
    // That the guest has no NIC although somebody set a link up is told.
    pod.ip("link set dummy0 addrgenmode none");
    pod.ip("link set dummy0 up");
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    assert!(!plan.has_links(), "{plan:?}");
    assert_eq!(plan.left_out(), ["link dummy0, which has no address"]);
}

/// What the plugin `ptp` of CNI does.
#[tokio::test]
async fn a_network_behind_a_gateway_is_no_network_of_the_address() {
    let Some(pod) = Pod::make() else { return };
    pod.ip("route del 10.88.0.0/24 dev eth0");
    pod.ip("route add 10.88.0.1 dev eth0 scope link src 10.88.0.2");
    pod.ip("route add 10.88.0.0/24 via 10.88.0.1 dev eth0");
    pod.ip("-6 addr add fd00:88::2/64 dev eth0 nodad noprefixroute");
    pod.ip("-6 addr add fd00:99::2/64 dev eth0 nodad");
    pod.ip("-6 route add fd00:88::/64 via fd00:99::1 dev eth0");
    // A route that an address does not make goes over, though the kernel made it.
    pod.ip("addr add 10.77.0.2 peer 10.77.0.1/32 dev eth0");
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    assert_eq!(plan.left_out(), [] as [&str; 0]);
    let network = plan.claim(1).await.unwrap();
    let facts = &network.endpoints[0].facts;
    let mut addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    addresses.sort();
    assert_eq!(addresses, ["10.77.0.2/32", "10.88.0.2/32", "fd00:88::2/128", "fd00:99::2/64"]);
    let mut routes: Vec<String> = facts.routes.iter().map(describe).collect();
    routes.sort();
    let expected = [
        "10.77.0.1/32 via - src 10.77.0.2 flags 0 mtu -",
        "10.88.0.0/24 via 10.88.0.1 src - flags 0 mtu -",
        "10.88.0.1/32 via - src 10.88.0.2 flags 0 mtu -",
        "fd00:88::/64 via fd00:99::1 src - flags 0 mtu -",
    ];
    assert_eq!(routes, expected);
    network.release().await.unwrap();
}

#[tokio::test]
async fn what_the_agent_cannot_set_is_told() {
    let Some(pod) = Pod::make() else { return };
    pod.ip("route add default via 10.88.0.1");
    pod.ip("route add default via 10.88.0.3 metric 7");
    pod.ip("route add 192.0.2.0/24 via 10.88.0.1 advmss 1200 mtu lock 1300");
    pod.ip("route add 192.0.2.0/24 via 10.88.0.1 tos 0x10");
    pod.ip("route add local 198.51.100.0/24 dev lo");
    pod.ip("route add default via 10.88.0.9 dev eth0 table 100");
    pod.ip("rule add from 10.88.0.2 lookup 100 priority 50");
    pod.ip("-6 rule add fwmark 5 prohibit priority 60");
    // A link without an address, with a route over it; one that is down was never set up.
    pod.ip("link add link eth0 name net1 type macvlan mode bridge");
    pod.ip("link set net1 addrgenmode none");
    pod.ip("link set net1 up");
    pod.ip("link add link eth0 name net2 type macvlan mode bridge");
    pod.ip("route add 203.0.113.0/24 dev net1");
    pod.ip("route add multicast 233.252.0.0/24 dev eth0 table main");
    let plan = NetPlan::inspect(&pod.path).await.unwrap();
    let mut told = plan.left_out().to_vec();
    told.sort();
    let expected = [
        "link net1, which has no address",
        "route 192.0.2.0/24 via 10.88.0.1, which is for some packets only",
        "route 203.0.113.0/24 dev net1: the guest does not have its link",
        "route default via 10.88.0.3 metric 7: another one to there is preferred",
        "route local 198.51.100.0/24",
        "route multicast 233.252.0.0/24",
        "rule 50: from 10.88.0.2/32 lookup 100",
        "rule 60: fwmark 0x5 prohibit",
        "the lock of the MTU, advmss of route 192.0.2.0/24 via 10.88.0.1",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_route_that_keeps_packets_back_is_refused_by_name() {
    for kind in ["blackhole", "prohibit", "unreachable"] {
        let Some(pod) = Pod::make() else { return };
        pod.ip(&format!("route add {kind} 192.0.2.0/24"));
        let error = NetPlan::inspect(&pod.path).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{kind} 192.0.2.0/24")), "{error}");
        pod.ip("route flush 192.0.2.0/24 table main");
        pod.ip(&format!("-6 route add {kind} fd00:1::/64"));
        let error = NetPlan::inspect(&pod.path).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{kind} fd00:1::/64")), "{error}");
    }
}

#[tokio::test]
async fn of_two_links_the_metric_decides_whose_default_route_it_is() {
    for (first, second, wins) in [(100, 50, "net1"), (50, 100, "eth0")] {
        let Some(pod) = Pod::make() else { return };
        pod.ip("link add link eth0 name net1 type macvlan mode bridge");
        pod.ip("addr add 10.99.0.2/24 dev net1");
        pod.ip("link set net1 up");
        pod.ip("-6 addr add fd00:88::2/64 dev eth0 nodad");
        pod.ip("-6 addr add fd00:99::2/64 dev net1 nodad");
        pod.ip(&format!("route add default via 10.88.0.1 dev eth0 metric {first}"));
        pod.ip(&format!("route add default via 10.99.0.1 dev net1 metric {second}"));
        pod.ip(&format!("-6 route add default via fd00:88::1 dev eth0 metric {first}"));
        pod.ip(&format!("-6 route add default via fd00:99::1 dev net1 metric {second}"));
        let network = claim(&pod, 1).await;
        let with_defaults = network.endpoints.iter().filter(|endpoint| {
            endpoint.facts.routes.iter().filter(|route| route.destination.is_none()).count() == 2
        });
        let names: Vec<_> = with_defaults.map(|endpoint| endpoint.facts.name.as_str()).collect();
        assert_eq!(names, [wins]);
        network.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_route_with_several_next_hops_is_refused() {
    let Some(pod) = Pod::make() else { return };
    pod.ip("route add default nexthop via 10.88.0.1 dev eth0 nexthop via 10.88.0.9 dev eth0");
    assert!(matches!(NetPlan::inspect(&pod.path).await, Err(Error::Unsupported { .. })));
}

/// The VM's side of a tap.
struct Guest(std::fs::File);

impl Guest {
    fn on(mut queues: Vec<OwnedFd>) -> Self {
        Self(queues.remove(0).into())
    }

    fn send(&mut self, frame: &[u8]) {
        let mut packet = vec![0; VNET_HEADER];
        packet.extend_from_slice(frame);
        self.0.write_all(&packet).unwrap();
    }

    #[track_caller]
    fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut packet = [0; 65600];
        while Instant::now() < deadline {
            match self.0.read(&mut packet) {
                Ok(length) if wanted(&packet[VNET_HEADER..length]) => {
                    return packet[VNET_HEADER..length].to_vec();
                }
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => panic!("reading the tap: {e}"),
            }
        }
        panic!("the frame did not come within 10 s");
    }
}

fn arp(operation: u8, mac: [u8; 6], ip: Ipv4Addr, to: [u8; 6], to_ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(to);
    frame.extend(to_ip.octets());
    frame
}

fn is_arp(frame: &[u8], operation: u8) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == operation
}

fn is_icmp(frame: &[u8], kind: u8) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == kind
}

/// A ping from the guest, answered by the kernel on the other end.
fn echo_request(mac: [u8; 6], to: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    header.extend(POD_IP.octets());
    header.extend(PEER_IP.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let mut ping = vec![8, 0, 0, 0, 0, 7, 0, 1];
    let sum = checksum(&ping);
    ping[2..4].copy_from_slice(&sum);
    [to, &mac, &[8, 0], &header, &ping].concat()
}

/// RFC 1071.
fn checksum(data: &[u8]) -> [u8; 2] {
    let mut sum: u32 = data.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

#[test]
fn the_rig_reports_failing_commands() {
    assert!(std::panic::catch_unwind(|| command("false", &[])).is_err());
}
