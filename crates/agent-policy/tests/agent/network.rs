//! The loopback is the pod's own, in whatever spelling.

use serde_json::{Value, json};

use crate::engine::Agent;
use crate::honest::{boot, interface, neighbours, routes};
use crate::requests::json_of;

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    addresses_of_the_loopback_are_refused();
    routes_that_contain_it_are_refused();
    the_network_is_set_up_before_the_sandbox();
}

const LOOPBACK: [&str; 20] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "00127.0.0.1",
    "::1",
    "::",
    "0::1",
    "0:0:0:0:0:0:0:1",
    "0000:0000:0000:0000:0000:0000:0000:0001",
    "::0001",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "0:0:0:0:0:ffff:7f00:1",
];

#[test]
fn addresses_of_the_loopback_are_refused() {
    let mut agent = Agent::strict();
    for address in LOOPBACK {
        for family in [0, 1] {
            let mut request = json_of(&interface());
            let mask = if family == 0 { "8" } else { "128" };
            request["interface"]["IPAddresses"][0] =
                json!({ "family": family, "address": address, "mask": mask });
            agent.refuse("UpdateInterfaceRequest", &request, "interface.IPAddresses");
            let mut request = json_of(&neighbours());
            request["neighbors"]["ARPNeighbors"][0]["toIPAddress"] =
                json!({ "family": family, "address": address, "mask": "" });
            agent.refuse("AddARPNeighborsRequest", &request, "neighbors.ARPNeighbors[0]");
            for field in ["gateway", "source"] {
                let mut request = json_of(&routes());
                let route = &mut request["routes"]["Routes"][1];
                (route["family"], route[field]) = (family.into(), address.into());
                route["dest"] = "".into();
                agent.refuse("UpdateRoutesRequest", &request, "routes.Routes[1]");
            }
        }
    }
    // Masks that would take it in.
    for (index, mask) in [(0, "7"), (0, "0"), (0, ""), (0, "33"), (1, "15"), (1, "0"), (1, "129"), (1, "x")] {
        let mut request = json_of(&interface());
        request["interface"]["IPAddresses"][index]["mask"] = mask.into();
        agent.refuse("UpdateInterfaceRequest", &request, "interface.IPAddresses");
    }
    for mac in
        ["00:00:00:00:00:00", "0:0:0:0:0:0", "+0:0:0:0:0:0", "", "02:00:00:00:00:0G", "02:00:00:00:00:09:00"]
    {
        let mut request = json_of(&interface());
        request["interface"]["hwAddr"] = mac.into();
        agent.refuse("UpdateInterfaceRequest", &request, "interface.hwAddr");
    }
    for name in ["lo", "", "all", "default", "a/b", "..", "a-name-of-sixteen"] {
        let mut request = json_of(&interface());
        (request["interface"]["name"], request["interface"]["device"]) = (name.into(), name.into());
        agent.refuse("UpdateInterfaceRequest", &request, "interface.name");
    }
}

#[test]
fn routes_that_contain_it_are_refused() {
    let mut agent = Agent::strict();
    let mut check = |dest: &str, family: u8, is_right: bool| {
        let mut request = json_of(&routes());
        let mut route = request["routes"]["Routes"][2].take();
        (route["dest"], route["family"], route["gateway"]) = (dest.into(), family.into(), "".into());
        request["routes"]["Routes"] = Value::Array(vec![route]);
        if is_right {
            agent.accept("UpdateRoutesRequest", &request);
        } else {
            agent.refuse("UpdateRoutesRequest", &request, "routes.Routes[0]");
        }
    };
    for dest in [
        "127.0.0.0/8",
        "127.0.0.1/32",
        "126.0.0.0/7",
        "124.0.0.0/6",
        "120.0.0.0/5",
        "112.0.0.0/4",
        "96.0.0.0/3",
        "64.0.0.0/2",
        "1.0.0.0/1",
        "0.0.0.0/1",
        "0.0.0.0/0",
        "0x7f.0.0.0/8",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/x",
        "::1/128",
    ] {
        check(dest, 0, false);
    }
    for dest in [
        "::/0",
        "::1/128",
        "0::/64",
        "::/1",
        "4000::/1",
        "8000::/1",
        "1000::/3",
        "fd00::/2",
        "fc::/8",
        "::ffff:0:0/96",
        "10.0.0.0/8",
        "fd00::",
    ] {
        check(dest, 1, false);
    }
    check("", 2, false);
    for dest in ["10.0.0.0/8", "128.0.0.0/1", "224.0.0.0/4", "192.168.1.7/32", "12.0.0.0/6", "1.2.3.0/24"] {
        check(dest, 0, true);
    }
    for dest in ["2000::/3", "fe80::/10", "ff00::/8", "fd00::/16", "64:ff9b::/96", "2001:db8::7/128"] {
        check(dest, 1, true);
    }
}

#[test]
fn the_network_is_set_up_before_the_sandbox() {
    let mut agent = Agent::strict();
    boot(&mut agent);
    agent.refuse("UpdateInterfaceRequest", &interface(), "(the time)");
    agent.refuse("UpdateRoutesRequest", &routes(), "(the time)");
    agent.refuse("AddARPNeighborsRequest", &neighbours(), "(the time)");
}
