//! Whole command lines: golden files for each platform, and properties that hold for every VM.

mod tee;

use std::collections::BTreeMap;

use proptest::prelude::*;

use shared_types::Accelerator;

use crate::config::{AutoOr, NodeConfig};
use crate::passthrough::tests::{Board, devices};
use crate::passthrough::{Access, HostDevices};
use crate::path::{AbsolutePath, SocketPath};
use crate::plan::tests::{image, nic, request, vhost, vhost_user};
use crate::plan::{HostFacts, NicFacts, plan};
use crate::qemu::CONTROLLER_ID;
use crate::qemu::read::properties;
use crate::request::PodRequest;

/// One option per line, as a person would type it.
fn command_line(config: &NodeConfig, vcpus: i64, host: &HostFacts) -> String {
    let args = plan(config, &image(), &request(vcpus), host).unwrap().qemu_args();
    args.join(" ").replace(" -", "\n-")
}

#[test]
fn plain_kvm_with_vhost_vsock_and_two_queues() {
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 2, &vhost(vec![nic(2, true)])));
}

#[test]
fn plain_tcg_with_vhost_user_vsock_and_no_nic() {
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 1, &vhost_user(vec![])));
}

#[test]
fn plain_tcg_with_vhost_user_vsock_and_one_queue() {
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 1, &vhost_user(vec![nic(1, false)])));
}

#[test]
fn plain_kvm_with_firmware_and_odd_paths() {
    let config = NodeConfig {
        image: AbsolutePath::new("/srv/images/a,b=c").unwrap(),
        firmware: Some(AbsolutePath::new("/usr/share/qemu/OVMF.fd").unwrap()),
        ..NodeConfig::default()
    };
    insta::assert_snapshot!(command_line(&config, 16, &vhost(vec![])));
}

#[test]
fn plain_kvm_with_a_scratch_disk() {
    let asked = PodRequest { scratch: Some("100Gi".parse().unwrap()), ..request(2) };
    let host = vhost(vec![nic(1, true)]);
    let args = plan(&NodeConfig::default(), &image(), &asked, &host).unwrap().qemu_args();
    insta::assert_snapshot!(args.join(" ").replace(" -", "\n-"));
}

/// A VM with host devices, KVM and vhost-vsock.
fn with(passthrough: HostDevices) -> HostFacts {
    HostFacts { passthrough, ..vhost(vec![]) }
}

fn ovmf() -> NodeConfig {
    NodeConfig {
        firmware: Some(AbsolutePath::new("/usr/share/qemu/OVMF.fd").unwrap()),
        ..NodeConfig::default()
    }
}

#[test]
fn one_h100() {
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 2, &with(devices(&Board::h100(1)))));
}

#[test]
fn one_h100_over_its_group() {
    let board = Board { access: |_| Access::Group, ..Board::h100(1) };
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 2, &with(devices(&board))));
}

#[test]
fn a_board_of_eight_h100_and_four_switches_with_firmware() {
    let board = Board { switches: 4, ..Board::h100(8) };
    insta::assert_snapshot!(command_line(&ovmf(), 16, &with(devices(&board))));
}

#[test]
fn a_board_of_eight_b200() {
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 16, &with(devices(&Board::b200(8)))));
}

#[test]
fn four_b200_on_two_numa_nodes() {
    let board = Board { nodes: 2, ..Board::b200(4) };
    insta::assert_snapshot!(command_line(&ovmf(), 16, &with(devices(&board))));
}

#[test]
fn two_h100_on_one_of_two_numa_nodes() {
    let mut host = devices(&Board { nodes: 2, ..Board::h100(4) });
    host.devices.truncate(2);
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 2, &with(host)));
}

#[test]
fn an_emulated_h100_under_tcg() {
    let socket = |_| Access::VfioUser { socket: SocketPath::new("/run/gpu.sock").unwrap() };
    let host = devices(&Board { access: socket, ..Board::h100(1) });
    let host = HostFacts { passthrough: host, ..vhost_user(vec![]) };
    insta::assert_snapshot!(command_line(&NodeConfig::default(), 1, &host));
}

/// Properties that name something defined elsewhere, and the options that define it.
const REFERENCES: [&str; 8] =
    ["drive", "netdev", "chardev", "memory-backend", "memdev", "rng", "bus", "iommufd"];
/// Defined by the board.
const BOARD: [&str; 1] = ["pcie.0"];
/// Named only by commands and answers of the control socket.
fn is_qmp_only(id: &str) -> bool {
    id == CONTROLLER_ID || id.strip_prefix("host").is_some_and(|rank| rank.parse::<u8>().is_ok())
}

/// Every other pod asks for a scratch disk.
fn any_request(vcpus: i64) -> PodRequest {
    PodRequest { scratch: (vcpus % 2 == 0).then(|| "64Mi".parse().unwrap()), ..request(vcpus) }
}

fn any_host() -> impl Strategy<Value = (i64, HostFacts, AutoOr<Accelerator>)> {
    let nics = proptest::collection::vec((1u16..=8, any::<bool>()), 0..=23);
    let board = (0usize..=8, 0usize..=4, 1u32..=4, any::<bool>());
    (1i64..=255, nics, any::<bool>(), any::<bool>(), board).prop_map(|(vcpus, nics, user, tcg, board)| {
        let mut nics: Vec<NicFacts> = nics.into_iter().map(|(queues, vhost)| nic(queues, vhost)).collect();
        let (gpus, switches, nodes, group) = board;
        let access = if group { |_| Access::Group } else { |_| Access::Iommufd };
        let passthrough = devices(&Board { switches, nodes, access, ..Board::h100(gpus) });
        let host_slots = passthrough.devices.len() + 4;
        nics.truncate(23_usize.saturating_sub(if passthrough.devices.is_empty() { 0 } else { host_slots }));
        let host = if user { vhost_user(nics) } else { vhost(nics) };
        let host = HostFacts { passthrough, ..host };
        (vcpus, host, if tcg { AutoOr::Is(Accelerator::Tcg) } else { AutoOr::Auto })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ids_are_defined_once_and_used((vcpus, host, accel) in any_host()) {
        let config = NodeConfig { accel, ..NodeConfig::default() };
        let args = plan(&config, &image(), &any_request(vcpus), &host).unwrap().qemu_args();
        let mut defined: BTreeMap<String, u32> = BTreeMap::new();
        let mut used: Vec<String> = Vec::new();
        let mut slots: BTreeMap<String, u32> = BTreeMap::new();
        let listed =
            ["-device", "-object", "-blockdev", "-chardev", "-netdev", "-machine", "-qmp", "-numa"];
        for pair in args.windows(2).filter(|pair| listed.contains(&pair[0].as_str())) {
            let properties = properties(&pair[1]);
            if let Some(chardev) = pair[1].strip_prefix("chardev:") {
                used.push(chardev.to_owned());
            }
            let bus = properties.iter().find(|(key, _)| key == "bus").map_or("", |(_, bus)| bus).to_owned();
            for (key, value) in properties {
                match key.as_str() {
                    "id" | "node-name" => *defined.entry(value).or_default() += 1,
                    "addr" => *slots.entry(format!("{bus} {value}")).or_default() += 1,
                    "chassis" => *slots.entry(format!("chassis {value}")).or_default() += 1,
                    key if REFERENCES.contains(&key) => used.push(value),
                    _ => {}
                }
            }
        }
        prop_assert!(defined.values().all(|n| *n == 1), "defined twice: {defined:?}");
        prop_assert!(slots.values().all(|n| *n == 1), "slot used twice: {slots:?}");
        for id in &used {
            prop_assert!(defined.contains_key(id) || BOARD.contains(&id.as_str()), "{id} is not defined");
        }
        for id in defined.keys() {
            prop_assert!(used.contains(id) || is_qmp_only(id), "{id} is not used");
        }
        let devices = args.windows(2).filter(|p| p[0] == "-device" && p[1].contains("bus=")).count();
        prop_assert_eq!(devices, slots.keys().filter(|slot| !slot.starts_with("chassis")).count());
    }

    #[test]
    fn descriptors_on_the_command_line_are_the_promised_ones((vcpus, host, accel) in any_host()) {
        let config = NodeConfig { accel, ..NodeConfig::default() };
        let spec = plan(&config, &image(), &any_request(vcpus), &host).unwrap();
        let mut on_line: Vec<u32> = Vec::new();
        for value in spec.qemu_args() {
            for (key, value) in properties(&value) {
                // The first of `-add-fd`'s has no option before it.
                let (key, value) = match value.strip_prefix("fd=") {
                    Some(number) if key.is_empty() => ("fd".to_owned(), number.to_owned()),
                    _ => (key, value),
                };
                if ["fd", "fds", "vhostfd", "vhostfds"].contains(&key.as_str()) {
                    on_line.extend(value.split(':').map(|n| n.parse::<u32>().unwrap()));
                }
            }
        }
        on_line.sort_unstable();
        let promised: Vec<u32> = spec.fds().iter().map(|(fd, _)| fd.number()).collect();
        prop_assert_eq!(on_line, promised);
    }

    #[test]
    fn nothing_is_opened_by_a_name_that_is_not_told((vcpus, host, accel) in any_host()) {
        let config = NodeConfig { accel, ..ovmf() };
        let spec = plan(&config, &image(), &any_request(vcpus), &host).unwrap();
        prop_assert_eq!(untold(&spec), Vec::<String>::new());
    }
}

/// Absolute paths on the command line that the VM does not say it opens.
fn untold(spec: &crate::spec::VmSpec) -> Vec<String> {
    let opens = spec.opens();
    let told: Vec<&str> = [&opens.files, &opens.nodes, &opens.sockets]
        .into_iter()
        .flatten()
        .map(|path| path.to_str().unwrap())
        .collect();
    let args = spec.qemu_args();
    let values = args.windows(2).filter(|pair| pair[0] != "-append").flat_map(|pair| {
        let nested = pair[1].split('"').map(|part| (String::new(), part.to_owned()));
        properties(&pair[1]).into_iter().chain(nested.collect::<Vec<_>>())
    });
    // A set of descriptors is a name for QEMU only, not for the kernel.
    let is_path = |value: &String| value.starts_with('/') && !value.starts_with("/dev/fdset/");
    let paths = values.map(|(_, value)| value).filter(is_path);
    paths.filter(|path| !told.contains(&path.as_str())).collect()
}

#[test]
fn what_is_opened_by_name_depends_on_the_vm() {
    let opens = |config: &NodeConfig, host: &HostFacts| {
        let spec = plan(config, &image(), &request(1), host).unwrap();
        assert_eq!(untold(&spec), Vec::<String>::new());
        spec.opens()
    };
    let plain = opens(&NodeConfig::default(), &vhost(vec![nic(2, true)]));
    assert_eq!((plain.files.len(), plain.nodes), (2, vec!["/dev/kvm".into()]));
    let emulated = opens(&NodeConfig { accel: AutoOr::Is(Accelerator::Tcg), ..ovmf() }, &vhost_user(vec![]));
    assert_eq!((emulated.files.len(), emulated.nodes.len(), emulated.sockets.len()), (3, 0, 0));
    let board = Board { access: |_| Access::Group, ..Board::h100(2) };
    let by_group = opens(&NodeConfig::default(), &with(devices(&board)));
    assert!(by_group.groups.len() == 2 && by_group.files.contains(&"/sys/bus".into()));
    let socket = |_| Access::VfioUser { socket: SocketPath::new("/run/gpu.sock").unwrap() };
    let host = devices(&Board { access: socket, ..Board::h100(1) });
    let played = opens(&NodeConfig::default(), &HostFacts { passthrough: host, ..vhost_user(vec![]) });
    assert_eq!(played.sockets, [std::path::PathBuf::from("/run/gpu.sock")]);
}
