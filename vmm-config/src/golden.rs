//! Whole command lines: golden files for each platform, and properties that hold for every VM.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::config::{Accel, NodeConfig};
use crate::path::AbsolutePath;
use crate::plan::tests::{image, nic, request, vhost, vhost_user};
use crate::plan::{HostFacts, NicFacts, plan};
use crate::qemu::CONTROLLER_ID;
use crate::qemu::read::properties;

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

/// Properties that name something defined elsewhere, and the options that define it.
const REFERENCES: [&str; 6] = ["drive", "netdev", "chardev", "memory-backend", "rng", "bus"];
/// Defined by the board.
const BOARD: [&str; 1] = ["pcie.0"];
/// Named only by commands of the control socket.
const QMP_ONLY: [&str; 1] = [CONTROLLER_ID];

fn any_host() -> impl Strategy<Value = (i64, HostFacts, Accel)> {
    let nics = proptest::collection::vec((1u16..=8, any::<bool>()), 0..=25);
    (1i64..=255, nics, any::<bool>(), any::<bool>()).prop_map(|(vcpus, nics, user, tcg)| {
        let nics: Vec<NicFacts> = nics.into_iter().map(|(queues, vhost)| nic(queues, vhost)).collect();
        let host = if user { vhost_user(nics) } else { vhost(nics) };
        (vcpus, host, if tcg { Accel::Tcg } else { Accel::Auto })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ids_are_defined_once_and_used((vcpus, host, accel) in any_host()) {
        let config = NodeConfig { accel, ..NodeConfig::default() };
        let args = plan(&config, &image(), &request(vcpus), &host).unwrap().qemu_args();
        let mut defined: BTreeMap<String, u32> = BTreeMap::new();
        let mut used: Vec<String> = Vec::new();
        let mut slots: BTreeMap<String, u32> = BTreeMap::new();
        let listed = ["-device", "-object", "-blockdev", "-chardev", "-netdev", "-machine", "-qmp"];
        for pair in args.windows(2).filter(|pair| listed.contains(&pair[0].as_str())) {
            let properties = properties(&pair[1]);
            if let Some(chardev) = pair[1].strip_prefix("chardev:") {
                used.push(chardev.to_owned());
            }
            for (key, value) in properties {
                match key.as_str() {
                    "id" | "node-name" => *defined.entry(value).or_default() += 1,
                    "addr" => *slots.entry(value).or_default() += 1,
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
            prop_assert!(used.contains(id) || QMP_ONLY.contains(&id.as_str()), "{id} is not used");
        }
        let devices = args.windows(2).filter(|p| p[0] == "-device" && p[1].contains("bus=pcie.0")).count();
        prop_assert_eq!(devices, slots.len());
    }

    #[test]
    fn descriptors_on_the_command_line_are_the_promised_ones((vcpus, host, accel) in any_host()) {
        let config = NodeConfig { accel, ..NodeConfig::default() };
        let spec = plan(&config, &image(), &request(vcpus), &host).unwrap();
        let mut on_line: Vec<u32> = Vec::new();
        for value in spec.qemu_args() {
            for (key, value) in properties(&value) {
                if ["fd", "fds", "vhostfd", "vhostfds"].contains(&key.as_str()) {
                    on_line.extend(value.split(':').map(|n| n.parse::<u32>().unwrap()));
                }
            }
        }
        on_line.sort_unstable();
        let promised: Vec<u32> = spec.fds().iter().map(|(fd, _)| fd.number()).collect();
        prop_assert_eq!(on_line, promised);
    }
}
