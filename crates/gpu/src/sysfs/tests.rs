use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const H100_RESOURCE: &str = "\
0x0000008042000000 0x0000008042ffffff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000006000000000 0x0000007fffffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000008040000000 0x0000008041ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
";

/// A sysfs in a folder.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(tree.path("bus/pci/devices")).unwrap();
        tree
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    fn write(&self, address: &str, name: &str, text: &str) {
        let path = self.path("devices/pci0000:00").join(address).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn device(&self, address: &str, vendor: &str, device: &str, class: &str) {
        for (name, text) in [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("subsystem_device", "0x16c1\n"),
            ("resource", H100_RESOURCE),
            ("numa_node", "-1\n"),
        ] {
            self.write(address, name, text);
        }
        let target = self.path("devices/pci0000:00").join(address);
        symlink(target, self.path("bus/pci/devices").join(address)).unwrap();
    }

    fn driver(&self, address: &str, driver: &str) {
        let target = self.path("bus/pci/drivers").join(driver);
        std::fs::create_dir_all(&target).unwrap();
        symlink(target, self.path("devices/pci0000:00").join(address).join("driver")).unwrap();
    }

    fn group(&self, id: u32, addresses: &[&str]) {
        let group = self.path("kernel/iommu_groups").join(id.to_string());
        std::fs::create_dir_all(group.join("devices")).unwrap();
        for address in addresses {
            let device = self.path("devices/pci0000:00").join(address);
            symlink(&group, device.join("iommu_group")).unwrap();
            symlink(&device, group.join("devices").join(address)).unwrap();
        }
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.0.path())
    }
}

#[test]
fn a_bound_h100_with_all_there_is_to_know() {
    let tree = Tree::new();
    tree.device("0000:41:00.0", "0x10de\n", "0x2330\n", "0x030200\n");
    tree.driver("0000:41:00.0", "vfio-pci");
    tree.device("0000:40:00.0", "0x8086\n", "0x352a\n", "0x060400\n");
    tree.driver("0000:40:00.0", "pcieport");
    tree.group(17, &["0000:41:00.0", "0000:40:00.0"]);
    tree.write("0000:41:00.0", "vfio-dev/vfio3/dev", "511:3\n");
    tree.write("0000:41:00.0", "numa_node", "1\n");
    tree.write("0000:41:00.0", "reset_method", "flr bus\n");

    let inventory = tree.sysfs().discover().unwrap();
    assert!(inventory.unreadable.is_empty(), "{:?}", inventory.unreadable);
    let [gpu] = &inventory.functions[..] else { panic!("{inventory:?}") };
    assert_eq!(gpu.kind, Kind::Gpu);
    assert_eq!(gpu.chip, Some(Chip::Gh100));
    assert_eq!(gpu.subsystem, 0x16c1);
    assert_eq!(gpu.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(gpu.numa_node, Some(1));
    assert_eq!(gpu.reset_methods, [ResetMethod::Function, ResetMethod::Bus]);
    assert_eq!(gpu.reset_kind(), Some(ResetKind::Function));
    let sizes: Vec<_> = gpu.bars.iter().map(|bar| (bar.index, bar.size, bar.prefetchable)).collect();
    assert_eq!(sizes, [(0, 16 << 20, false), (2, 128 << 30, true), (4, 32 << 20, true)]);
    let dev = Path::new("/dev");
    assert_eq!(gpu.vfio_device_node(dev).unwrap(), Path::new("/dev/vfio/devices/vfio3"));
    assert_eq!(gpu.vfio_group_node(dev).unwrap(), Path::new("/dev/vfio/17"));
    let group = gpu.group.as_ref().unwrap();
    assert_eq!(group.functions.len(), 2);
    assert_eq!(group.others(&[gpu.address]).count(), 0, "the bridge does not count");
}

#[test]
fn a_foreign_function_in_the_group_is_named() {
    let tree = Tree::new();
    tree.device("0000:41:00.0", "0x10de\n", "0x2bb5\n", "0x030000\n");
    tree.device("0000:41:00.1", "0x10de\n", "0x22e8\n", "0x040300\n");
    tree.driver("0000:41:00.1", "snd_hda_intel");
    tree.group(4, &["0000:41:00.0", "0000:41:00.1"]);
    let gpu = tree.sysfs().function("0000:41:00.0".parse().unwrap()).unwrap().unwrap();
    let claimed = [gpu.address];
    let others: Vec<_> = gpu.group.as_ref().unwrap().others(&claimed).collect();
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].driver.as_deref(), Some("snd_hda_intel"));
}

#[test]
fn switches_are_told_from_bridges_and_unknown_chips_are_named() {
    let tree = Tree::new();
    tree.device("0000:05:00.0", "0x10de\n", "0x22a3\n", "0x068000\n");
    tree.device("0000:06:00.0", "0x10de\n", "0x4242\n", "0x030200\n");
    tree.device("0000:07:00.0", "0x10de\n", "0x22f8\n", "0x060000\n");
    let found = tree.sysfs().discover().unwrap().functions;
    let [switch, unknown] = &found[..] else { panic!("{found:?}") };
    assert_eq!((switch.kind, switch.chip), (Kind::NvSwitch, Some(Chip::Ls10)));
    assert_eq!((unknown.kind, unknown.chip), (Kind::Gpu, None));
    assert_eq!(unknown.id.to_string(), "10de:4242");
    assert_eq!((unknown.group.as_ref(), unknown.numa_node), (None, None));
}

#[test]
fn one_broken_device_does_not_hide_the_others() {
    let tree = Tree::new();
    tree.device("0000:41:00.0", "0x10de\n", "0x2330\n", "0x030200\n");
    tree.device("0000:42:00.0", "0x10de\n", "0x2330\n", "0x030200\n");
    tree.write("0000:42:00.0", "resource", "nothing of the kernel's\n");
    let inventory = tree.sysfs().discover().unwrap();
    assert_eq!(inventory.functions.len(), 1);
    let [error] = &inventory.unreadable[..] else { panic!("{inventory:?}") };
    assert!(error.to_string().contains("0000:42:00.0/resource"), "{error}");
}

#[test]
fn a_function_without_a_reset_of_its_own_is_reset_over_its_bus() {
    let tree = Tree::new();
    tree.device("0000:41:00.0", "0x10de\n", "0x2330\n", "0x030200\n");
    let kind = || tree.sysfs().discover().unwrap().functions[0].reset_kind();
    assert_eq!(kind(), None);
    tree.write("0000:41:00.0", "reset_method", "bus\n");
    assert_eq!(kind(), Some(ResetKind::Bus));
    tree.write("0000:41:00.0", "reset_method", "pm bus\n");
    assert_eq!(kind(), Some(ResetKind::Function));
}

#[test]
fn a_host_without_pci_has_no_gpus() {
    let empty = tempfile::tempdir().unwrap();
    let sysfs = Sysfs::new(empty.path());
    assert!(sysfs.discover().unwrap().functions.is_empty());
    let error = sysfs.function("0000:41:00.0".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }));
}
