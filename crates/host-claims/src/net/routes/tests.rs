use rtnetlink::packet_route::route::RouteScope;
use shared_types::Mac;

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
    let message = message(attributes);
    let route = route(&message).unwrap();
    assert_eq!((route.destination, route.gateway), (None, Some(gateway.into())));
    assert_eq!((route.scope, route.flags, route.mtu), (253, 4, Some(1400)));
    assert_eq!(text(&message), "default via 10.0.0.1");
}

fn net(third: u8) -> Option<Address> {
    Some(Address { ip: Ipv4Addr::new(10, 0, third, 0).into(), prefix: 24 })
}

fn link(index: u32) -> LinkFacts {
    let address = Address { ip: Ipv4Addr::new(10, 0, 1, u8::try_from(index).unwrap()).into(), prefix: 24 };
    LinkFacts {
        name: format!("eth{index}"),
        index,
        mac: Mac([2; 6]),
        mtu: 1500,
        up: true,
        no_arp: false,
        addresses: vec![address],
        routes: Vec::new(),
        neighbours: Vec::new(),
    }
}

fn made(
    maker: Maker,
    link: u32,
    destination: Option<Address>,
    gateway: Option<u8>,
    metric: u32,
) -> Candidate {
    let gateway = gateway.map(|last| Ipv4Addr::new(10, 0, 1, last).into());
    let route =
        Route { v6: false, destination, gateway, source: None, scope: 0, flags: 0, mtu: None, metric };
    Candidate { link, maker, route }
}

/// The gateways by link, the addresses, and how many were left out.
fn told(candidates: &[Candidate]) -> (Vec<(u32, String)>, Vec<String>, usize) {
    let (mut links, mut left_out) = ([link(1), link(2)], Vec::new());
    choose(&mut links, candidates, false, &mut left_out);
    let of = |facts: &LinkFacts| {
        let index = facts.index;
        let routes = facts.routes.iter().map(move |route| {
            let to = route.destination.map_or_else(|| "default".to_owned(), |to| to.to_string());
            (index, format!("{to} {}", route.gateway.map_or_else(|| "-".to_owned(), |ip| ip.to_string())))
        });
        routes.collect::<Vec<_>>()
    };
    let routes = links.iter().flat_map(of).collect();
    let addresses = links.iter().map(|facts| facts.addresses[0].to_string()).collect();
    (routes, addresses, left_out.len())
}

#[test]
fn of_several_routes_to_one_destination_the_metric_decides_in_any_order() {
    use Maker::{Kernel, Somebody};
    let mut all = vec![
        made(Kernel, 1, net(1), None, 0),
        made(Kernel, 2, net(1), None, 0),
        made(Somebody, 1, None, Some(9), 200),
        made(Somebody, 1, net(7), Some(9), 0),
        made(Somebody, 2, None, Some(8), 100),
        made(Somebody, 2, None, Some(7), 50),
        made(Somebody, 2, net(7), Some(7), 10),
    ];
    let expected = vec![(1, "10.0.7.0/24 10.0.1.9".to_owned()), (2, "default 10.0.1.7".to_owned())];
    let (routes, addresses, left_out) = told(&all);
    assert_eq!((routes, left_out), (expected.clone(), 3));
    assert_eq!(addresses, ["10.0.1.1/24", "10.0.1.2/24"]);
    all.reverse();
    assert_eq!(told(&all).0, expected);
}

/// What the point-to-point plugin of CNI leaves: the gateway on the link, and the network behind it.
#[test]
fn an_address_whose_network_is_behind_a_gateway_goes_over_without_it() {
    let gateway = Some(Address { ip: Ipv4Addr::new(10, 0, 1, 9).into(), prefix: 32 });
    let routes = [
        made(Maker::Kernel, 2, net(1), None, 0),
        made(Maker::Somebody, 1, net(1), Some(9), 0),
        made(Maker::Somebody, 1, gateway, None, 0),
    ];
    let told_of = |metric| {
        let mut routes = routes.to_vec();
        routes[0].route.metric = metric;
        told(&routes)
    };
    let (routes, addresses, left_out) = told_of(5);
    let expected = vec![(1, "10.0.1.9/32 -".to_owned()), (1, "10.0.1.0/24 10.0.1.9".to_owned())];
    assert_eq!((routes, left_out), (expected, 0));
    assert_eq!(addresses, ["10.0.1.1/32", "10.0.1.2/32"]);
    // The kernel's own is preferred: then the guest's makes it too.
    let (routes, addresses, left_out) = told_of(0);
    assert_eq!((routes, left_out), (vec![(1, "10.0.1.9/32 -".to_owned())], 1));
    assert_eq!(addresses, ["10.0.1.1/32", "10.0.1.2/24"]);
}

#[test]
fn what_a_router_tells_reaches_the_guest_by_itself() {
    let routes = [made(Maker::Router, 1, None, Some(1), 10), made(Maker::Somebody, 1, None, Some(2), 20)];
    assert_eq!(told(&routes).0, []);
}

#[test]
fn networks_are_cut_off_at_their_prefix() {
    let of = |ip: &str, prefix| network(Address { ip: ip.parse().unwrap(), prefix }).0.to_string();
    assert_eq!(of("10.1.2.3", 20), "10.1.0.0");
    assert_eq!((of("10.1.2.3", 0), of("10.1.2.3", 32)), ("0.0.0.0".to_owned(), "10.1.2.3".to_owned()));
    assert_eq!((of("fd00:1::7", 64), of("fd00::7", 0)), ("fd00:1::".to_owned(), "::".to_owned()));
}

#[test]
fn an_address_without_any_route_brings_none_of_its_own() {
    assert_eq!(told(&[]).1, ["10.0.1.1/32", "10.0.1.2/32"]);
}
