//! Images that are not what they say, and layers that are rare.

use std::fs;
use std::path::Path;
use std::time::Instant;

use layers::{Error, HashedImage, Problem, Source};
use serde_json::json;
use shared_types::one_line;

use crate::make::{Image, Item, gzip, simple, tar, zstd};

use crate::tools::Tools;

fn hash(tools: &Tools, directory: &Path, image: &Image) -> Result<HashedImage, Error> {
    let layout = tempfile::tempdir_in(directory).unwrap();
    image.clone().layout(layout.path());
    let source = Source::Layout { directory: layout.path().to_owned(), tag: None };
    tools.hasher(&directory.join("cache")).image(&source, &|_| {})
}

/// The error of an image with one layer that was changed.
fn error(tools: &Tools, change: impl FnOnce(&mut Image)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::plain(&[simple("a", "a")]);
    change(&mut image);
    hash(tools, dir.path(), &image).unwrap_err()
}

#[test]
fn a_changed_byte_is_found_wherever_it_is() {
    let Some(tools) = Tools::find() else { return };
    let last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let flipped = error(&tools, |image| last(image.layer_mut(0)));
    assert!(matches!(flipped, Error::Digest { what: "layer", .. }), "{}", one_line(&flipped));
    for damaged in [gzip(&simple("a", "b")), zstd(&simple("a", "b"))] {
        let plain = simple("a", "b");
        let change = |image: &mut Image, at: usize| {
            *image = Image::new(&[(damaged.clone(), plain.clone())]);
            let at = image.layer_mut(0).len() / 2 + at;
            image.layer_mut(0)[at] ^= 1;
        };
        let flipped = error(&tools, |image| change(image, 0));
        assert!(matches!(flipped, Error::Digest { what: "layer", .. }), "{}", one_line(&flipped));
        // The digest is right, and the bytes were damaged before it was made.
        let damaged = damaged[..damaged.len() - 6].to_vec();
        let cut = error(&tools, |image| *image = Image::new(&[(damaged, plain.clone())]));
        assert!(matches!(cut, Error::Unpack { .. }), "{}", one_line(&cut));
    }
    let longer = error(&tools, |image| image.layer_mut(0).push(0));
    assert!(matches!(longer, Error::Size { what: "layer", .. }), "{}", one_line(&longer));
    let shorter = error(&tools, |image| image.layer_mut(0).truncate(700));
    assert!(matches!(shorter, Error::Size { what: "layer", found: 700, .. }), "{}", one_line(&shorter));
    // Manifest and configuration.
    for name in ["manifest", "configuration"] {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::plain(&[simple("a", "a")]);
        let manifest = image.seal();
        let digest =
            if name == "manifest" { &manifest["digest"] } else { &image.manifest["config"]["digest"] };
        let digest = digest.as_str().unwrap().to_owned();
        let content = image.blobs.get_mut(&digest).unwrap();
        let at = content.iter().position(|&byte| byte == b'6').unwrap();
        content[at] = b'7';
        image.layout_of(dir.path(), &[manifest]);
        let source = Source::Layout { directory: dir.path().to_owned(), tag: None };
        let found = tools.hasher(&dir.path().join("cache")).image(&source, &|_| {}).unwrap_err();
        assert!(matches!(found, Error::Digest { what, .. } if what == name), "{}", one_line(&found));
    }
}

#[test]
fn a_layer_whose_content_is_another_is_refused() {
    let Some(tools) = Tools::find() else { return };
    let found = error(&tools, |image| {
        image.config["rootfs"]["diff_ids"][0] = json!(layers::Digest::of(b"something else"));
    });
    assert!(matches!(found, Error::DiffId { .. }), "{}", one_line(&found));
    let (a, b) = (simple("a", "a"), simple("a", "b"));
    let swapped = error(&tools, |image| *image = Image::new(&[(gzip(&a), b)]));
    assert!(matches!(swapped, Error::DiffId { .. }), "{}", one_line(&swapped));
}

#[test]
fn layers_that_a_registry_does_not_have_are_named() {
    let Some(tools) = Tools::find() else { return };
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let found = error(&tools, |image| image.manifest["layers"][0]["mediaType"] = foreign.into());
    assert!(matches!(found, Error::Foreign { .. }), "{}", one_line(&found));
    assert!(one_line(&found).contains("foreign (non-distributable)"));
}

#[test]
fn sizes_have_bounds() {
    let Some(tools) = Tools::find() else { return };
    let found = error(&tools, |image| image.config["padding"] = "x".repeat(5 << 20).into());
    assert!(matches!(found, Error::TooLarge { what: "configuration", .. }), "{}", one_line(&found));
    let found = error(&tools, |image| image.manifest["padding"] = "x".repeat(5 << 20).into());
    assert!(matches!(found, Error::TooLarge { what: "manifest", .. }), "{}", one_line(&found));
    let layer = simple("a", "a");
    let found = error(&tools, |image| *image = Image::plain(&vec![layer; 128]));
    assert!(matches!(found, Error::Manifest(Problem::Layers(128))), "{}", one_line(&found));
}

#[test]
fn an_image_may_have_127_layers_and_the_second_time_takes_no_time() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..127).map(|n| n.to_string()).collect();
    let layers: Vec<Vec<u8>> = names.iter().map(|name| simple("etc/passwd", name)).collect();
    let image = Image::plain(&layers);
    let first = hash(&tools, dir.path(), &image).unwrap();
    assert_eq!(first.layers.len(), 127);
    assert_eq!(first.passwd.as_deref(), Some("126"));
    assert_eq!(first.layers[126].diff_id, layers::Digest::of(&layers[0]));
    let conversions = tools.conversions();
    assert_eq!(conversions, 127);
    let start = Instant::now();
    let second = hash(&tools, dir.path(), &image).unwrap();
    // The bound of a whole command is 200 ms for 30 layers; this is a debug build among other tests.
    assert!(start.elapsed().as_millis() < 1500, "{:?}", start.elapsed());
    assert_eq!(second.layers, first.layers);
    assert_eq!(tools.conversions(), conversions);
}

#[test]
fn a_layer_of_no_bytes_is_an_empty_one() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut hashes = Vec::new();
    for empty in [Vec::new(), tar(&[])] {
        let image = hash(&tools, dir.path(), &Image::plain(&[simple("a", "a"), empty])).unwrap();
        hashes.push(image.layers[0].root_hash);
    }
    // Their blobs' digests are in them.
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn several_streams_in_one_blob_are_one_layer() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = simple("etc/group", "g");
    let (start, end) = plain.split_at(700);
    for pack in [gzip as fn(&[u8]) -> Vec<u8>, zstd] {
        let blob = [pack(start), pack(end)].concat();
        let image = hash(&tools, dir.path(), &Image::new(&[(blob, plain.clone())])).unwrap();
        assert_eq!(image.group.as_deref(), Some("g"));
    }
}

#[test]
fn a_converter_that_is_missing_old_or_fails_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::plain(&[simple("a", "a")]);
    let fails = |script: &str| {
        let script =
            format!("[ \"$1\" = --version ] && echo 'mkfs.erofs (erofs-utils) 1.9.4' && exit\n{script}");
        hash(&Tools::script(&script), dir.path(), &image).unwrap_err()
    };
    let failed = fails("echo 'no such thing' >&2; exit 3");
    assert!(
        one_line(&failed).contains("mkfs.erofs of erofs-utils 1.9.4 failed on layer sha256:"),
        "{}",
        one_line(&failed)
    );
    assert!(one_line(&failed).contains("no such thing"), "{}", one_line(&failed));
    let full = fails("cat >/dev/null; echo 'No space left on device' >&2; exit 1");
    assert!(matches!(full, Error::DiskFull { .. }), "{}", one_line(&full));
    // It is content with nothing.
    let nothing = fails("cat >/dev/null");
    assert!(one_line(&nothing).contains("cannot write a hash tree"), "{}", one_line(&nothing));
    let old = hash(&Tools::script("echo 'mkfs.erofs 1.5'"), dir.path(), &image).unwrap_err();
    assert!(
        one_line(&old).contains("of erofs-utils 1.5, and 1.8.2 or later is needed"),
        "{}",
        one_line(&old)
    );
    let tools = Tools::script("");
    fs::remove_file(tools.program()).unwrap();
    let none = hash(&tools, dir.path(), &image).unwrap_err();
    assert!(matches!(none, Error::NoMkfs), "{}", one_line(&none));
    // Nothing was left of it.
    let left: Vec<_> = fs::read_dir(dir.path().join("cache/layers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_layer_that_is_no_archive_is_what_mkfs_makes_of_it() {
    let Some(tools) = Tools::find() else { return };
    let found = error(&tools, |image| *image = Image::plain(&[vec![0xff; 20_000]]));
    assert!(matches!(found, Error::Mkfs { .. }), "{}", one_line(&found));
}

#[test]
fn a_layer_with_a_header_that_cannot_be_read_is_refused() {
    let Some(tools) = Tools::find() else { return };
    let mut layer = tar(&[Item::Pax("etc/x", "mtime", "1")]);
    let equals = layer.windows(6).position(|bytes| bytes == b"mtime=").unwrap() + 5;
    layer[equals] = b' ';
    let found = error(&tools, |image| *image = Image::plain(&[layer]));
    assert!(matches!(&found, Error::TarHeader { entry, .. } if entry == "etc/x"), "{}", one_line(&found));
}

#[test]
fn items_of_every_kind_are_converted() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let layer = tar(&[
        Item::Directory("etc/"),
        Item::File("etc/passwd", b"root:x:0:0::/:/bin/sh\n".to_vec()),
        Item::Hardlink("etc/passwd-", "etc/passwd"),
        Item::Symlink("etc/group", "passwd"),
        Item::File("etc/.wh.shadow", Vec::new()),
        Item::Directory("usr/"),
        Item::File("usr/.wh..wh..opq", Vec::new()),
        Item::Pax("etc/x", "SCHILY.xattr.user.x", "y"),
        Item::Pax("etc/t", "mtime", "1700000000.048943502"),
    ]);
    let image = hash(&tools, dir.path(), &Image::plain(&[simple("etc/shadow", "s"), layer])).unwrap();
    assert_eq!(image.passwd, image.group);
    assert_eq!(image.layers.len(), 2);
}
