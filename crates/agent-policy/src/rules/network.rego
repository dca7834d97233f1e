# The network is the host's, before the sandbox is there; only the loopback is the pod's own. So addresses are accepted
# in forms of which the rules can tell that they are not it, and links by a hardware address that is not its.

UpdateInterfaceRequest if right(interface_faults)

interface_faults contains "(the time)" if memory

interface_faults contains "interface.device" if not input.interface.device == input.interface.name

interface_faults contains "interface.name" if not is_link(input.interface.name)

# The agent finds the link by it. The loopback's is all zeros.
interface_faults contains "interface.hwAddr" if not is_mac(input.interface.hwAddr)

interface_faults contains "interface.mtu" if not is_between(input.interface.mtu, 68, 65535)

interface_faults contains "interface.devicePath" if not input.interface.devicePath == ""

interface_faults contains "interface.type" if not input.interface.type_ == ""

# IFF_NOARP
interface_faults contains "interface.raw_flags" if not input.interface.raw_flags in {0, 128}

interface_faults contains "interface.IPAddresses" if not addresses_right

addresses_right if {
	every address in input.interface.IPAddresses { is_local(address.address, address.mask, address.family) }
}

is_local(address, mask, 0) if {
	is_v4(address)
	is_between(to_number(mask), 8, 32)
}

is_local(address, mask, 1) if {
	is_v6(address)
	is_between(to_number(mask), 16, 128)
}

is_link(name) if {
	regex.match(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`, name)
	not name in {"lo", "all", "default"}
}

is_mac(address) if {
	regex.match(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`, address)
	address != "00:00:00:00:00:00"
}

# In decimal without leading zeros; no host of 0/8 and 127/8, no group.
is_v4(address) if {
	first := first_octet(address)
	first > 0
	first != 127
	first < 224
}

first_octet(address) := to_number(split(address, ".")[0]) if {
	regex.match(`^(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}$`, address)
}

# Its first 16 bits are not zero: so it is not ::, ::1 in any spelling, and no IPv4 address as IPv6.
is_v6(address) if regex.match(`^[1-9a-f][0-9a-f]{0,3}(:[0-9a-f]{0,4}){2,7}$`, address)

is_address(address, 0) if is_v4(address)

is_address(address, 1) if is_v6(address)

UpdateRoutesRequest if right(route_faults)

route_faults contains "(the time)" if memory

route_faults contains "routes" if is_null(input.routes)

route_faults contains sprintf("routes.Routes[%d]", [i]) if {
	some i, route in input.routes.Routes
	not is_route(route)
}

is_route(route) if {
	is_destination(route.dest, route.family)
	is_empty_or_address(route.gateway, route.family)
	is_source(route.source, route.family)
	is_link(route.device)

	# The world, a site, a link.
	route.scope in {0, 200, 253}

	# RTNH_F_ONLINK
	route.flags in {0, 4}
	is_between(route.mtu, 0, 65535)
}

is_source(text, _) if text == ""

# kata-agent 4.1.0 takes a source with the length 0 for the address that packets are sent from, and any other one for a
# match of their source (netlink.rs, update_routes).
is_source(text, family) if is_address(trim_suffix(text, "/0"), family)

is_empty_or_address(text, _) if text == ""

is_empty_or_address(address, family) if is_address(address, family)

is_destination(prefix, family) if {
	prefix == ""
	family in {0, 1}
}

# It does not contain 127/8: its first bits are others.
is_destination(prefix, 0) if {
	[address, length] := split(prefix, "/")
	first := first_octet(address)
	bits := to_number(length)
	is_between(bits, 1, 32)
	rest := max([0, 8 - bits])
	bits.rsh(first, rest) != bits.rsh(127, rest)
	first > 0
}

# It contains neither ::1 nor an IPv4 address as IPv6: among the bits that count one is set.
is_destination(prefix, 1) if {
	[address, length] := split(prefix, "/")
	is_v6(address)
	is_between(to_number(length), 16, 128)
}

is_destination(prefix, 1) if {
	[address, length] := split(prefix, "/")
	is_v6(address)
	regex.match(`^[2-9a-f][0-9a-f]{3}:`, address)
	is_between(to_number(length), 3, 15)
}

AddARPNeighborsRequest if right(neighbour_faults)

neighbour_faults contains "(the time)" if memory

neighbour_faults contains "neighbors" if is_null(input.neighbors)

neighbour_faults contains sprintf("neighbors.ARPNeighbors[%d]", [i]) if {
	some i, neighbour in input.neighbors.ARPNeighbors
	not is_neighbour(neighbour)
}

is_neighbour(neighbour) if {
	is_address(neighbour.toIPAddress.address, neighbour.toIPAddress.family)
	neighbour.toIPAddress.mask == ""
	is_link(neighbour.device)
	is_mac(neighbour.lladdr)

	# NUD_PERMANENT, without a flag or with that of a router.
	neighbour.state == 128
	neighbour.flags in {0, 128}
}
