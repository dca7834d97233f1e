use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeWriter, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use model_volumes::{KeyPath, Uuid, Volumes};
use verity::{FormatError, RootHash};

use super::{Found, Layers, Mapper, Refusal};
use crate::dm::{Encrypted, Removal, Verified};
use crate::opener::Opening;
use crate::private::Device;
use crate::uevent::Uevent;

/// A kernel with disks by their minor number, and what was done with them.
#[derive(Debug, Default)]
struct Fake {
    disks: BTreeMap<u64, u8>,
    wrong_tree: bool,
    in_use: RefCell<bool>,
    nodes: RefCell<Vec<RootHash>>,
    mapped: RefCell<Vec<RootHash>>,
    /// Encrypted disks by their minor number.
    locked: BTreeMap<u64, Uuid>,
    /// The children that were started, with the names of their keys.
    children: RefCell<Vec<(String, PipeWriter)>>,
    /// Decrypting mappings.
    decrypted: RefCell<Vec<RootHash>>,
}

fn root(byte: u8) -> RootHash {
    RootHash::from_bytes([byte; 32])
}

impl Mapper for &Fake {
    fn inspect(&self, disk: Device) -> Result<Found, Refusal> {
        if let Some(uuid) = self.locked.get(&disk.minor) {
            return Ok(Found::Locked(*uuid));
        }
        let byte = self.disks.get(&disk.minor).ok_or_else(|| Refusal::Read(FormatError::NotErofs.into()))?;
        Ok(Found::Layer(Verified { disk, data_blocks: 1, hash_start: 2, root: root(*byte) }))
    }
    fn begin(&self, _: Device, key: &KeyPath) -> io::Result<Opening> {
        let (ours, theirs) = io::pipe()?;
        self.children.borrow_mut().push((key.as_str().to_owned(), theirs));
        Opening::of(ours)
    }
    fn decrypt(&self, volume: &Encrypted) -> io::Result<Device> {
        self.decrypted.borrow_mut().push(volume.root);
        Ok(Device { major: 253, minor: volume.disk.minor + 100 })
    }
    fn map(&self, layer: &Verified) -> io::Result<Device> {
        self.mapped.borrow_mut().push(layer.root);
        Ok(Device { major: 253, minor: layer.disk.minor + 1 })
    }
    fn try_read(&self, _: Device) -> io::Result<()> {
        if self.wrong_tree { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
    fn publish(&self, root: &RootHash, _: Device) -> io::Result<()> {
        self.nodes.borrow_mut().push(*root);
        Ok(())
    }
    fn withdraw(&self, root: &RootHash) {
        self.nodes.borrow_mut().retain(|node| node != root);
    }
    fn unmap(&self, root: &RootHash) -> io::Result<Removal> {
        if *self.in_use.borrow() {
            return Ok(Removal::Deferred);
        }
        self.mapped.borrow_mut().retain(|mapped| mapped != root);
        self.decrypted.borrow_mut().retain(|decrypted| decrypted != root);
        Ok(Removal::Done)
    }
}

const CONTROLLER: &str = "devices/pci0000:00/0000:00:02.0/virtio1";

fn sysfs() -> tempfile::TempDir {
    let sys = tempfile::tempdir().unwrap();
    fs::create_dir_all(sys.path().join("block")).unwrap();
    fs::create_dir_all(sys.path().join(CONTROLLER)).unwrap();
    fs::write(sys.path().join(CONTROLLER).join("device"), "0x0008\n").unwrap();
    sys
}

fn message(action: &str, path: &str, name: &str, major: u64, minor: u64, more: &str) -> Uevent {
    let text = format!(
        "{action}@/{path}\0ACTION={action}\0DEVPATH=/{path}\0SUBSYSTEM=block\0DEVTYPE=disk\0DEVNAME={name}\0\
         MAJOR={major}\0MINOR={minor}\0{more}"
    );
    Uevent::parse(text.as_bytes()).unwrap()
}

fn disk(action: &str, lun: u64, name: &str, minor: u64) -> Uevent {
    let path = format!("{CONTROLLER}/host0/target0:0:0/0:0:0:{lun}/block/{name}");
    message(action, &path, name, 8, minor, "")
}

fn mapping(action: &str, minor: u64, more: &str) -> Uevent {
    message(action, &format!("devices/virtual/block/dm-{minor}"), &format!("dm-{minor}"), 253, minor, more)
}

#[test]
fn a_disk_with_a_tree_becomes_a_layer_and_goes() {
    let (sys, fake) = (sysfs(), Fake { disks: [(16, 7)].into(), ..Fake::default() });
    let mut layers = Layers::new(&fake, Volumes::default());
    let ready = format!("layer {} ready", root(7));
    assert_eq!(layers.handle(sys.path(), &disk("add", 3, "sdb", 16)), [ready]);
    assert_eq!(*fake.nodes.borrow(), [root(7)]);
    // The same disk, found twice.
    assert!(layers.handle(sys.path(), &disk("add", 3, "sdb", 16)).is_empty());
    let gone = format!("layer {} gone", root(7));
    assert_eq!(layers.handle(sys.path(), &disk("remove", 3, "sdb", 16)), [gone]);
    assert!(fake.nodes.borrow().is_empty() && fake.mapped.borrow().is_empty());
    assert!(layers.handle(sys.path(), &mapping("remove", 17, "")).is_empty());
}

#[test]
fn a_disk_that_is_no_layer_is_refused_by_its_address() {
    let (sys, fake) = (sysfs(), Fake::default());
    let mut layers = Layers::new(&fake, Volumes::default());
    let lines = layers.handle(sys.path(), &disk("add", 3, "sdb", 16));
    assert_eq!(lines, ["disk 0:3 refused: it is no EROFS image"]);
    assert!(layers.handle(sys.path(), &disk("remove", 3, "sdb", 16)).is_empty());
}

#[test]
fn a_tree_that_is_not_the_datas_leaves_nothing_behind() {
    let (sys, fake) = (sysfs(), Fake { disks: [(0, 7)].into(), wrong_tree: true, ..Fake::default() });
    let lines = Layers::new(&fake, Volumes::default()).handle(sys.path(), &disk("add", 1, "sda", 0));
    assert!(
        lines[0].starts_with("disk 0:1 refused: its first block is not what its hash tree says"),
        "{lines:?}"
    );
    assert!(fake.nodes.borrow().is_empty() && fake.mapped.borrow().is_empty());
}

#[test]
fn the_second_disk_of_one_layer_is_refused_and_the_first_stays() {
    let (sys, fake) = (sysfs(), Fake { disks: [(0, 7), (16, 7)].into(), ..Fake::default() });
    let mut layers = Layers::new(&fake, Volumes::default());
    layers.handle(sys.path(), &disk("add", 1, "sda", 0));
    let lines = layers.handle(sys.path(), &disk("add", 2, "sdb", 16));
    assert_eq!(lines, [format!("disk 0:2 refused: layer {} is there already, from disk 0:1", root(7))]);
    assert!(layers.handle(sys.path(), &disk("remove", 2, "sdb", 16)).is_empty());
    assert_eq!(*fake.mapped.borrow(), [root(7)]);
}

#[test]
fn a_disk_that_leaves_a_layer_in_use_is_said_and_its_end_as_well() {
    let (sys, fake) = (sysfs(), Fake { disks: [(0, 7)].into(), ..Fake::default() });
    let mut layers = Layers::new(&fake, Volumes::default());
    layers.handle(sys.path(), &disk("add", 1, "sda", 0));
    *fake.in_use.borrow_mut() = true;
    let lines = layers.handle(sys.path(), &disk("remove", 1, "sda", 0));
    assert_eq!(lines, [format!("disk 0:1 left while its layer {} is in use", root(7))]);
    assert!(fake.nodes.borrow().is_empty());
    // Its content may not come back under the name of a mapping whose disk is not there.
    let lines = layers.handle(sys.path(), &disk("add", 1, "sda", 0));
    assert!(lines[0].starts_with("disk 0:1 refused: "), "{lines:?}");
    let lines = layers.handle(sys.path(), &mapping("remove", 1, ""));
    assert_eq!(lines, [format!("layer {} gone", root(7))]);
}

#[test]
fn damaged_blocks_are_named_once_and_not_without_end() {
    let (sys, fake) = (sysfs(), Fake { disks: [(0, 7)].into(), ..Fake::default() });
    let mut layers = Layers::new(&fake, Volumes::default());
    layers.handle(sys.path(), &disk("add", 1, "sda", 0));
    let mut damaged = |text: &str| {
        layers.handle(sys.path(), &mapping("change", 1, &format!("DM_VERITY_ERR_BLOCK_NR={text}\0")))
    };
    assert_eq!(damaged("0,12"), [format!("layer {}: data block 12 is not what its hash says", root(7))]);
    assert_eq!(damaged("1,12"), [format!("layer {}: metadata block 12 is not what its hash says", root(7))]);
    assert!(damaged("0,12").is_empty());
    assert!(damaged("0,x").is_empty());
    let lines: usize = (100..200).map(|block| damaged(&format!("0,{block}")).len()).sum();
    assert_eq!(lines, super::NAMED_BLOCKS - 2);
}

#[test]
fn other_devices_that_appear_are_ignored_and_said() {
    let (sys, fake) = (sysfs(), Fake { disks: [(0, 7)].into(), ..Fake::default() });
    let mut layers = Layers::new(&fake, Volumes::default());
    let path = "devices/pci0000:00/0000:00:09.0/virtio5/block/vdc";
    let lines = layers.handle(sys.path(), &message("add", path, "vdc", 254, 32, ""));
    assert_eq!(lines, ["ignored: block device vdc appeared and is no layer's disk"]);
    let pci = b"add@/x\0ACTION=add\0SUBSYSTEM=pci\0PCI_SLOT_NAME=0000:00:09.0\0";
    let lines = layers.handle(sys.path(), &Uevent::parse(pci).unwrap());
    assert_eq!(lines, ["ignored: PCI device 0000:00:09.0 appeared after the checks"]);
    assert!(fake.mapped.borrow().is_empty());
}

#[test]
fn lost_messages_are_made_up_for_by_looking() {
    let (sys, fake) = (sysfs(), Fake { disks: [(0, 7), (16, 8)].into(), ..Fake::default() });
    let attach = |lun: u64, name: &str, numbers: &str| {
        let path = format!("{CONTROLLER}/host0/target0:0:0/0:0:0:{lun}/block/{name}");
        fs::create_dir_all(sys.path().join(&path)).unwrap();
        fs::write(sys.path().join(&path).join("dev"), numbers).unwrap();
        symlink(format!("../{path}"), sys.path().join("block").join(name)).unwrap();
    };
    let mut layers = Layers::new(&fake, Volumes::default());
    attach(1, "sda", "8:0\n");
    assert_eq!(layers.look(sys.path()).unwrap(), [format!("layer {} ready", root(7))]);
    assert!(layers.look(sys.path()).unwrap().is_empty());
    fs::remove_file(sys.path().join("block/sda")).unwrap();
    attach(2, "sdb", "8:16\n");
    *fake.in_use.borrow_mut() = true;
    let lines = layers.look(sys.path()).unwrap();
    // The mapping's directory is not there, so it ended while nobody listened.
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[2], format!("layer {} gone", root(7)));
    assert!(layers.look(Path::new("/nowhere")).is_err());
}

const UUID: &str = "0f8a237d-48ca-4305-ba9f-d2efb00fcd98";

/// A kernel with an encrypted disk at minor number 16, in which there is the layer with this byte, and the declaration of
/// layer 7.
fn encrypted(inside: Option<u8>) -> (Fake, Volumes) {
    let disks = inside.map(|byte| (116, byte)).into_iter().collect();
    let fake = Fake { locked: [(16, UUID.parse().unwrap())].into(), disks, ..Fake::default() };
    let text = format!(
        "[weights]\nkind = \"luks2\"\nuuid = \"{UUID}\"\nkey = \"kbs:///default/key/w\"\nroot_hash = \"{}\"\n",
        root(7)
    );
    (fake, Volumes::parse(&text).unwrap())
}

/// Lets the only child say something and end.
fn says(fake: &Fake, line: &str) {
    let (key, mut pipe) = fake.children.borrow_mut().pop().unwrap();
    assert_eq!(key, "default/key/w");
    pipe.write_all(line.as_bytes()).unwrap();
}

fn opens() -> String {
    format!("open 1048576 8192 4096 0 {}\n", "5a".repeat(64))
}

#[test]
fn an_encrypted_volume_is_a_layer_once_its_key_is_there() {
    let (sys, (fake, volumes)) = (sysfs(), encrypted(Some(7)));
    let mut layers = Layers::new(&fake, volumes);
    assert!(layers.handle(sys.path(), &disk("add", 3, "sdb", 16)).is_empty());
    assert_eq!(layers.wanted().count(), 1);
    assert!(layers.progress().is_empty() && fake.decrypted.borrow().is_empty());
    says(&fake, &opens());
    assert_eq!(layers.progress(), [format!("layer {} ready", root(7))]);
    assert_eq!((fake.nodes.borrow().clone(), layers.wanted().count()), (vec![root(7)], 0));
    assert_eq!(*fake.decrypted.borrow(), [root(7)]);
    let gone = format!("layer {} gone", root(7));
    assert_eq!(layers.handle(sys.path(), &disk("remove", 3, "sdb", 16)), [gone]);
    assert!(fake.decrypted.borrow().is_empty() && fake.mapped.borrow().is_empty());
}

#[test]
fn an_encrypted_volume_that_is_another_or_stays_closed_is_refused_with_its_name() {
    for (inside, line, said) in [
        (
            Some(7),
            "refused no key: PolicyDeny\n".to_owned(),
            "volume weights cannot be opened: no key: PolicyDeny".to_owned(),
        ),
        (
            Some(7),
            String::new(),
            "volume weights cannot be opened: the program that opens it ended without a word".to_owned(),
        ),
        (
            Some(9),
            opens(),
            format!("volume weights holds {}, and the pod's initdata declares {}", root(9), root(7)),
        ),
        (None, opens(), "what volume weights holds is not usable: it is no EROFS image".to_owned()),
    ] {
        let (sys, (fake, volumes)) = (sysfs(), encrypted(inside));
        let mut layers = Layers::new(&fake, volumes);
        layers.handle(sys.path(), &disk("add", 3, "sdb", 16));
        says(&fake, &line);
        assert_eq!(layers.progress(), [format!("disk 0:3 refused: {said}")]);
        assert!(fake.nodes.borrow().is_empty() && fake.decrypted.borrow().is_empty(), "{said}");
    }
}

#[test]
fn no_key_is_asked_for_what_nobody_declared_or_has_left() {
    let (sys, (fake, volumes)) = (sysfs(), encrypted(Some(7)));
    let mut layers = Layers::new(&fake, Volumes::default());
    let lines = layers.handle(sys.path(), &disk("add", 3, "sdb", 16));
    let said = format!(
        "disk 0:3 refused: it is the LUKS2 volume {UUID}, which volumes.toml of the pod's initdata does not declare"
    );
    assert_eq!(lines, [said]);
    assert!(fake.children.borrow().is_empty());
    let mut layers = Layers::new(&fake, volumes);
    layers.handle(sys.path(), &disk("add", 3, "sdb", 16));
    layers.handle(sys.path(), &disk("remove", 3, "sdb", 16));
    // Nobody hears the child any more.
    let (_, mut pipe) = fake.children.borrow_mut().pop().unwrap();
    assert!(pipe.write_all(opens().as_bytes()).is_err());
    assert!(layers.progress().is_empty() && fake.decrypted.borrow().is_empty());
}
