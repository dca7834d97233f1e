//! `coffer gpu` over the kernel's own sysfs.

use std::fs;

use outer_vm::{Product, Slot};
use serde_json::Value;

use crate::gpus::{coffer, function, state};

/// `coffer gpu list` of one device.
fn listed(slot: Slot) -> Value {
    let text = coffer(&["gpu", "list", "--output", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    rows.into_iter().find(|row| row["address"] == slot.address().as_str()).unwrap()
}

/// The kernel's settings that must be as they were; without power management it has some of them not.
fn settings(slot: Slot) -> [Option<String>; 3] {
    let path = function(slot).path;
    ["power/control", "d3cold_allowed", "driver_override"]
        .map(|name| fs::read_to_string(path.join(name)).ok())
}

#[test]
fn all_devices_are_listed_with_what_the_kernel_says() {
    let table = coffer(&["gpu", "list"]);
    println!("{table}");
    let text = coffer(&["gpu", "list", "--output", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.len(), outer_vm::DEVICES.len(), "{text}");
    for product in [Product::H100, Product::Nvswitch, Product::B200, Product::H200, Product::RtxPro6000] {
        for slot in Slot::of(product) {
            let row = rows.iter().find(|row| row["address"] == slot.address().as_str()).unwrap();
            assert_eq!(row["problem"], Value::Null, "{row}");
            assert_eq!(
                (&row["driver"], &row["holder"], &row["quarantine"]),
                (&Value::Null, &Value::Null, &Value::Null)
            );
            assert!(row["iommu-group"].is_u64(), "{row}");
            assert_eq!(row["cc-capable"], product != Product::Nvswitch, "{row}");
            assert!(table.contains(&slot.address()));
        }
    }
}

#[test]
fn vfio_pci_is_bound_and_unbound() {
    let slot = Slot::of(Product::B200)[0];
    let (address, before) = (slot.address(), settings(slot));
    assert!(coffer(&["gpu", "bind", &address]).contains("bound to vfio-pci"));
    assert_eq!(function(slot).driver.as_deref(), Some("vfio-pci"));
    assert!(function(slot).vfio_device.is_some());
    assert!(coffer(&["gpu", "bind", &address]).contains("already"));
    let row = listed(slot);
    assert_eq!((&row["driver"], &row["cc-mode"]), (&Value::from("vfio-pci"), &Value::from("off")), "{row}");
    assert!(coffer(&["gpu", "unbind", &address]).contains("unbound from vfio-pci"));
    assert_eq!(function(slot).driver, None);
    assert!(coffer(&["gpu", "unbind", &address]).contains("already"));
    assert_eq!(settings(slot), before);
}

#[test]
fn modes_are_set_and_gpus_reset_with_and_without_vfio() {
    for (slot, bound) in [(Slot::of(Product::H200)[0], true), (Slot::of(Product::RtxPro6000)[0], false)] {
        let address = slot.address();
        if bound {
            coffer(&["gpu", "bind", &address]);
        }
        let before = settings(slot);
        for (mode, bits) in [("on", 1), ("devtools", 3), ("off", 0)] {
            let told = coffer(&["gpu", "cc-mode", mode, &address]);
            assert!(told.contains(&format!("{address} {mode}")), "{told}");
            assert_eq!(state(slot).mode_word & 3, bits, "{slot:?}");
        }
        let resets = state(slot).resets;
        coffer(&["gpu", "reset", &address]);
        assert!(state(slot).resets > resets);
        assert_eq!(settings(slot), before);
        if bound {
            coffer(&["gpu", "unbind", &address]);
        }
    }
}
