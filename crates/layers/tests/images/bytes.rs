//! The bytes are what mkfs.erofs with containerd's options makes, and veritysetup after it.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use layers::{Digest, Source};

use crate::make::{Image, Item, gzip, noise, tar};
use crate::tools::Tools;

fn layer() -> Vec<u8> {
    let mut items = vec![
        Item::Directory("etc/"),
        Item::File("etc/passwd", b"root:x:0:0::/:/bin/sh\n".to_vec()),
        Item::Hardlink("etc/passwd-", "etc/passwd"),
        Item::Symlink("etc/l", "passwd"),
        Item::File("etc/.wh.shadow", Vec::new()),
        Item::Directory("usr/"),
        Item::File("usr/.wh..wh..opq", Vec::new()),
        Item::Pax("etc/x", "SCHILY.xattr.user.x", "y"),
        Item::Pax("etc/t", "mtime", "1700000000.048943502"),
    ];
    items.extend((0..20).map(|n| Item::File("usr/bin/large", noise(100_000 + n, n as u64))));
    tar(&items)
}

/// By hand: a UUID as containerd makes it, options as its documentation has them.
#[test]
fn a_root_hash_is_that_of_the_image_made_by_hand() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (plain, path) = (layer(), |name: &str| dir.path().join(name));
    let blob = gzip(&plain);
    Image::new(&[(blob.clone(), plain.clone())]).layout(&path("layout"));
    let source = Source::Layout { directory: path("layout"), tag: None };
    let image = tools.hasher(&path("cache")).image(&source, &|_| {}).unwrap();

    let name = format!("erofs:blobs/{}", Digest::of(&blob));
    let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes());
    fs::write(path("tar"), &plain).unwrap();
    let mut command = Command::new(tools.program());
    command.args(["--tar=f", "--aufs", "--quiet", "-Enoinline_data", "-b4096"]);
    command.args(["-T0", "--mkfs-time", "--sort=none", "-U", &uuid.to_string()]).arg(path("erofs"));
    command.stdin(Stdio::from(File::open(path("tar")).unwrap())).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
    // Where the image ends is where containerd puts the hash tree; verity is held against veritysetup by its own tests.
    let made = fs::read(path("erofs")).unwrap();
    assert_eq!(verity::erofs_bytes(&made), Ok(made.len() as u64));
    let mut file = File::options().read(true).write(true).open(path("erofs")).unwrap();
    assert_eq!(verity::append(&mut file, [1; 16]).unwrap(), image.layers[0].root_hash);
}
