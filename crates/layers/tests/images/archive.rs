//! Files that `docker save` writes: the layout of Docker 25 and later, and what came before.

use std::fs;
use std::path::Path;

use layers::{Digest, Error, HashedImage, Problem, Source};
use serde_json::json;
use shared_types::one_line;
use tar::{Builder, EntryType, Header};

use crate::make::{Image, gzip, simple};

use crate::tools::Tools;

/// A file's name and content; a link's, with its target.
enum Part<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}

fn archive(path: &Path, parts: &[Part]) {
    let mut builder = Builder::new(Vec::new());
    for part in parts {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        match part {
            Part::File(name, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, *content).unwrap();
            }
            Part::Link(name, target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    fs::write(path, builder.into_inner().unwrap()).unwrap();
}

fn hash(tools: &Tools, path: &Path) -> Result<HashedImage, Error> {
    tools.hasher(&path.with_extension("cache")).image(&Source::Archive(path.to_owned()), &|_| {})
}

/// As Docker up to 24 wrote it: two layers are the same, and the second is a link.
fn old(path: &Path, layers: &[Vec<u8>; 2]) {
    let ids: Vec<_> = [&layers[0], &layers[1], &layers[1]].map(|layer| Digest::of(layer)).into();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ids}}).to_string();
    let saved = json!([{"Config": "c.json", "RepoTags": ["a:v1"], "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}]);
    archive(
        path,
        &[
            Part::File("1/layer.tar", &layers[0]),
            Part::File("2/layer.tar", &layers[1]),
            Part::Link("3/layer.tar", "../2/layer.tar"),
            Part::File("c.json", config.as_bytes()),
            Part::File("manifest.json", saved.to_string().as_bytes()),
        ],
    );
}

#[test]
fn an_old_archive_has_the_layers_of_an_uncompressed_image() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.tar");
    let layers = [simple("etc/passwd", "p"), simple("b", "b")];
    old(&path, &layers);
    let found = hash(&tools, &path).unwrap();
    assert_eq!(found.passwd.as_deref(), Some("p"));
    let mut image = Image::plain(&[layers[0].clone(), layers[1].clone(), layers[1].clone()]);
    image.layout(&dir.path().join("layout"));
    let source = Source::Layout { directory: dir.path().join("layout"), tag: None };
    let of_layout = tools.hasher(&dir.path().join("cache")).image(&source, &|_| {}).unwrap();
    assert_eq!(found.layers, of_layout.layers);
}

#[test]
fn a_new_archive_is_its_layout() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = simple("etc/passwd", "p");
    let mut image = Image::new(&[(gzip(&plain), plain)]);
    let index = json!({"schemaVersion": 2, "manifests": [image.seal()]}).to_string();
    let names: Vec<String> =
        image.blobs.keys().map(|digest| format!("blobs/{}", digest.replace(':', "/"))).collect();
    let mut parts: Vec<Part> =
        names.iter().zip(image.blobs.values()).map(|(name, content)| Part::File(name, content)).collect();
    parts.push(Part::File("index.json", index.as_bytes()));
    // Docker writes it for older readers; nobody needs it here.
    parts.push(Part::File("manifest.json", b"[]"));
    let path = dir.path().join("new.tar");
    archive(&path, &parts);
    let found = hash(&tools, &path).unwrap();
    image.layout(&dir.path().join("layout"));
    let source = Source::Layout { directory: dir.path().join("layout"), tag: None };
    let of_layout = tools.hasher(&dir.path().join("cache")).image(&source, &|_| {}).unwrap();
    assert_eq!((found.layers, found.digest), (of_layout.layers, of_layout.digest));
}

#[test]
fn what_is_no_archive_of_an_image_is_said() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let error = |content: &dyn Fn(&Path)| {
        content(&path);
        one_line(&hash(&tools, &path).unwrap_err())
    };
    let layers = [simple("a", "a"), simple("b", "b")];
    let found = error(&|path| {
        old(path, &layers);
        fs::write(path, gzip(&fs::read(path).unwrap())).unwrap();
    });
    assert!(found.contains("it is no plain tar"), "{found}");
    let found = error(&|path| archive(path, &[Part::File("a", b"a")]));
    assert!(found.contains("it has no file \"manifest.json\""), "{found}");
    let found = error(&|path| archive(path, &[Part::File("manifest.json", b"[]")]));
    assert!(found.contains("it has 0 images, and must have one"), "{found}");
    let saved = br#"[{"Config": "c.json", "Layers": ["x"]}]"#;
    let found = error(&|path| archive(path, &[Part::File("manifest.json", saved)]));
    assert!(found.contains("it has no file \"c.json\""), "{found}");
    let config = br#"{"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}}"#;
    let found = error(&|path| {
        archive(
            path,
            &[Part::File("manifest.json", saved), Part::File("c.json", config), Part::File("x", b"")],
        );
    });
    assert!(found.contains("it has 0 diffIDs, and the manifest has 1 layers"), "{found}");
    let found = error(&|path| fs::write(path, b"").unwrap());
    assert!(found.contains("it has no files"), "{found}");
    fs::remove_file(&path).unwrap();
    assert!(one_line(&hash(&tools, &path).unwrap_err()).contains("No such file"));
}

#[test]
fn a_changed_layer_of_an_old_archive_is_found() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.tar");
    let layers = [simple("a", "first"), simple("b", "b")];
    old(&path, &layers);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"first").unwrap();
    bytes[at] = b'F';
    fs::write(&path, bytes).unwrap();
    let error = hash(&tools, &path).unwrap_err();
    assert!(matches!(error, Error::Digest { what: "layer", .. }), "{}", one_line(&error));
}

#[test]
fn a_layout_with_several_images_needs_a_tag() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::plain(&[simple("a", "a")]);
    let entry = image.seal();
    let named = |name: &str| {
        let mut entry = entry.clone();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        entry
    };
    image.layout_of(dir.path(), &[named("v1"), named("v2")]);
    let hash = |tag: Option<&str>| {
        let source = Source::Layout { directory: dir.path().to_owned(), tag: tag.map(str::to_owned) };
        tools.hasher(&dir.path().join("cache")).image(&source, &|_| {})
    };
    assert!(hash(Some("v2")).is_ok());
    let error = hash(None).unwrap_err();
    assert!(
        matches!(error, Error::Manifest(Problem::NoSuchImage(_))) && one_line(&error).contains("v1, v2"),
        "{}",
        one_line(&error)
    );
    assert!(one_line(&hash(Some("v3")).unwrap_err()).contains("0 images with the tag \"v3\""));
    fs::remove_dir_all(dir.path().join("blobs")).unwrap();
    let error = tools.hasher(&dir.path().join("other"));
    let source = Source::Layout { directory: dir.path().to_owned(), tag: Some("v1".into()) };
    let error = error.image(&source, &|_| {}).unwrap_err();
    assert!(matches!(error, Error::NoBlob { what: "manifest", .. }), "{}", one_line(&error));
}
