use std::os::unix::fs::symlink;

use super::*;

/// A VM as vmm-config makes one: board, root disk, controller, vsock, pvpanic, a NIC.
const PLAIN: [(u32, u32, u32); 7] = [
    (0x8086, 0x29c0, 0x06_0000),
    (0x1af4, 0x1042, 0x01_0000),
    (0x1af4, 0x1048, 0x01_0000),
    (0x1af4, 0x1053, 0x07_8000),
    (0x1b36, 0x0011, 0x08_8000),
    (0x1af4, 0x1041, 0x02_0000),
    (0x8086, 0x2918, 0x06_0100),
];
const H100: (u32, u32, u32) = (0x10de, 0x2330, 0x03_0200);
const SWITCH: (u32, u32, u32) = (0x10de, 0x22a3, 0x06_8000);
const ROOT_PORT: (u32, u32, u32) = (0x1b36, 0x000c, 0x06_0400);

fn check(more: &[(u32, u32, u32)], profile: Profile) -> Result<Declared, InventoryError> {
    check_all(more, profile).map(|found| found.count())
}

fn check_all(more: &[(u32, u32, u32)], profile: Profile) -> Result<Found, InventoryError> {
    let sys = tempfile::tempdir().unwrap();
    for (slot, (vendor, device, class)) in PLAIN.iter().chain(more).enumerate() {
        let folder = sys.path().join(format!("bus/pci/devices/0000:00:{slot:02x}.0"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vendor"), format!("{vendor:#06x}\n")).unwrap();
        fs::write(folder.join("device"), format!("{device:#06x}\n")).unwrap();
        fs::write(folder.join("class"), format!("{class:#08x}\n")).unwrap();
    }
    pci(sys.path(), profile)
}

#[test]
fn a_pod_vm_passes() {
    assert_eq!(check(&[], Profile::Release).unwrap(), Declared::default());
    let nics_and_initdata = [(0x1af4, 0x1041, 0x02_0000), (0x1af4, 0x1042, 0x01_0000)];
    assert_eq!(check(&nics_and_initdata, Profile::Release).unwrap(), Declared::default());
}

#[test]
fn gpus_are_counted_exactly() {
    let found = check(&[ROOT_PORT, H100, ROOT_PORT, H100, ROOT_PORT, SWITCH], Profile::Release).unwrap();
    let two = Declared { gpus: 2, switches: 1 };
    assert_eq!(found, two);
    assert!(gpus(found, two).is_ok());
    for other in [
        Declared::default(),
        Declared { gpus: 1, ..two },
        Declared { gpus: 3, ..two },
        Declared { switches: 0, ..two },
    ] {
        let error = gpus(found, other).unwrap_err();
        assert!(
            error.to_string().starts_with("the VM has 2 GPUs and 1 switches, and coffer.toml"),
            "{error}"
        );
    }
}

#[test]
fn devices_of_no_pod_vm_are_refused() {
    for (what, device) in [
        ("virtio console", (0x1af4, 0x1043, 0x07_8000)),
        ("virtio-fs", (0x1af4, 0x105a, 0x01_8000)),
        ("virtio-9p", (0x1af4, 0x1049, 0x00_0200)),
        ("balloon", (0x1af4, 0x1045, 0x00_ff00)),
        ("transitional NIC", (0x1af4, 0x1000, 0x02_0000)),
        ("e1000e", (0x8086, 0x10d3, 0x02_0000)),
        ("serial port", (0x1b36, 0x0002, 0x07_0002)),
        ("NVMe", (0x1b36, 0x0010, 0x01_0802)),
        ("xHCI", (0x1b36, 0x000d, 0x0c_0330)),
        ("SATA", (0x8086, 0x2922, 0x01_0601)),
        ("ivshmem", (0x1af4, 0x1110, 0x05_0000)),
        ("edu", (0x1234, 0x11e8, 0x00_ff00)),
        ("sound of a GPU", (0x10de, 0x22ba, 0x04_0300)),
    ] {
        for profile in [Profile::Dev, Profile::Release] {
            let error = check(&[device], profile).unwrap_err();
            let text = format!("PCI device 0000:00:07.0 ({:04x}:{:04x}", device.0, device.1);
            assert!(error.to_string().starts_with(&text), "{what}: {error}");
        }
    }
}

#[test]
fn randomness_of_the_host_is_for_dev_images() {
    let rng = (0x1af4, 0x1044, 0x00_ff00);
    assert!(check(&[rng], Profile::Dev).is_ok());
    for profile in [Profile::Debug, Profile::Release] {
        assert!(matches!(check(&[rng], profile), Err(InventoryError::Pci { .. })), "{profile:?}");
    }
}

#[test]
fn what_is_there_once_is_there_once() {
    for (device, what) in
        [((0x1af4, 0x1048, 0x01_0000), "SCSI controller"), ((0x1af4, 0x1053, 0x07_8000), "vsock device")]
    {
        let error = check(&[device], Profile::Dev).unwrap_err();
        assert_eq!(error.to_string(), format!("PCI device 0000:00:07.0 is one {what} too many"));
    }
    let disk = (0x1af4, 0x1042, 0x01_0000);
    let many = [disk; 4];
    assert!(matches!(check(&many, Profile::Dev), Err(InventoryError::TooMany { what: "disk", .. })));
}

#[test]
fn a_class_that_is_no_number_is_refused() {
    let sys = tempfile::tempdir().unwrap();
    let folder = sys.path().join("bus/pci/devices/0000:00:00.0");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("vendor"), "0x8086\n").unwrap();
    fs::write(folder.join("device"), "?\n").unwrap();
    assert!(matches!(pci(sys.path(), Profile::Dev), Err(InventoryError::Read { .. })));
}

/// A root file system on vda, and more disks: name, serial number, whether it is a LUN.
fn block(more: &[(&str, &str, bool)]) -> Result<Disks, InventoryError> {
    let sys = tempfile::tempdir().unwrap();
    let block = sys.path().join("block");
    fs::create_dir_all(block.join("dm-0/slaves/vda")).unwrap();
    let all = [("vda", "", false)];
    for (at, (name, serial, lun)) in all.iter().chain(more).enumerate() {
        let parent = match lun {
            true => format!("devices/pci0000:00/0000:00:02.0/virtio1/host0/target0:0:0/0:0:0:{at}"),
            false => format!("devices/pci0000:00/0000:00:01.{at}/virtio{}", at + 4),
        };
        let controller = sys.path().join("devices/pci0000:00/0000:00:02.0/virtio1");
        fs::create_dir_all(&controller).unwrap();
        fs::write(controller.join("device"), "0x0008\n").unwrap();
        let folder = sys.path().join(&parent).join("block").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("serial"), serial).unwrap();
        fs::write(folder.join("size"), "2048\n").unwrap();
        fs::write(folder.join("dev"), format!("254:{}\n", at * 16)).unwrap();
        symlink(format!("../{parent}/block/{name}"), block.join(name)).unwrap();
    }
    disks(sys.path())
}

#[test]
fn the_initdata_disk_is_found_by_its_serial_number() {
    assert_eq!(block(&[]).unwrap().initdata, None);
    let found = block(&[("vdb", "coffer-initdata", false), ("sda", "", true)]).unwrap();
    assert_eq!(found.initdata, Some(Device { major: 254, minor: 16 }));
}

#[test]
fn two_initdata_disks_are_refused() {
    let error = block(&[("vdb", INITDATA, false), ("vdc", INITDATA, false)]).unwrap_err();
    assert_eq!(error.to_string(), "block devices vdb and vdc have the same serial number");
}

#[test]
fn the_scratch_disk_is_found_with_its_size_and_is_there_once() {
    let found = block(&[("vdb", "coffer-scratch", false), ("vdc", INITDATA, false)]).unwrap();
    let device = Device { major: 254, minor: 16 };
    assert_eq!(found.scratch, Some(Scratch { device, sectors: 2048 }));
    let error = block(&[("vdb", "coffer-scratch", false), ("vdd", "coffer-scratch", false)]).unwrap_err();
    assert_eq!(error.to_string(), "block devices vdb and vdd have the same serial number");
}

#[test]
fn other_disks_are_refused() {
    for serial in ["", "root", "coffer-initdata2", "xcoffer-initdata"] {
        let error = block(&[("vdb", serial, false)]).unwrap_err();
        assert!(matches!(error, InventoryError::Disk { .. }), "{error}");
        assert!(error.to_string().starts_with("block device vdb"), "{error}");
    }
    #[cfg(not(feature = "fake-report"))]
    assert!(matches!(block(&[("vdb", "coffer-fake-report", false)]), Err(InventoryError::Disk { .. })));
}

#[test]
fn a_root_that_is_on_no_verity_disk_is_refused() {
    let sys = tempfile::tempdir().unwrap();
    assert!(matches!(disks(sys.path()), Err(InventoryError::Read { .. })));
    fs::create_dir_all(sys.path().join("block/dm-0/slaves")).unwrap();
    assert!(matches!(disks(sys.path()), Err(InventoryError::Root(0))));
}

#[test]
fn gpus_are_known_by_their_place_on_the_bus() {
    let found = check_all(&[H100, ROOT_PORT, H100], Profile::Release).unwrap();
    let places: Vec<String> = found.gpus.iter().map(PciAddress::to_string).collect();
    assert_eq!(places, ["0000:00:07.0", "0000:00:09.0"]);
}
