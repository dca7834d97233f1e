//! Layers on the node: of containerd's images, each converted once.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use jail::{Builder, Role, UserRange};
use layers::{ContainerdError, Error, Held, Node, NodeLayer};
use shared_types::one_line;
use verity::RootHash;

use crate::fake_containerd::{FakeContainerd, NAMESPACE};
use crate::make::{Image, Item, gzip, noise, simple, tar, zstd};

use crate::tools::Tools;

const NAME: &str = "r.example.com/app:v1";

fn node(tools: &Tools, cache: &Path) -> Node {
    Node {
        cache: cache.to_owned(),
        bytes: 1 << 30,
        patience: Duration::from_secs(60),
        search: tools.search(),
        builder: None,
    }
}

type Found = Result<Option<(Vec<NodeLayer>, Held)>, Error>;

fn convert(node: &Node, containerd: &FakeContainerd, wanted: Option<&[RootHash]>) -> Found {
    node.container(&containerd.socket(), NAMESPACE, "c", wanted, &|_| {})
}

fn layers(found: Found) -> Vec<NodeLayer> {
    match found {
        Ok(Some((layers, _))) => layers,
        Ok(None) => panic!("no image"),
        Err(error) => panic!("{}", one_line(&error)),
    }
}

fn failed(found: Found) -> Error {
    match found {
        Err(error) => error,
        Ok(found) => panic!("{found:?}"),
    }
}

/// A containerd with a container `c` of an image with three layers.
fn containerd() -> (FakeContainerd, Image) {
    let [a, b] = ["a", "b"].map(|name| simple("f", name));
    let large = tar(&[Item::File("large", noise(5 << 20, 3))]);
    let mut image = Image::new(&[(gzip(&a), a), (zstd(&b), b), (large.clone(), large)]);
    let containerd = FakeContainerd::new();
    containerd.image(NAME, &mut image);
    containerd.container("c", NAME);
    (containerd, image)
}

#[test]
fn a_layer_is_converted_once_and_is_what_the_tenant_computed() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, mut image) = containerd();
    let cache = containerd.directory().join("layers");
    let first = layers(convert(&node(&tools, &cache), &containerd, None));
    assert_eq!(tools.conversions(), 3);
    for layer in &first {
        let file = File::open(&layer.path).unwrap();
        assert_eq!(verity::read_root(&file).unwrap().0, layer.root_hash);
        assert_eq!(layer.path, cache.join(format!("{}.erofs", layer.digest.hex())));
    }
    let layout = containerd.directory().join("layout");
    image.layout(&layout);
    let source = layers::Source::Layout { directory: layout, tag: None };
    let tenant = tools.hasher(&containerd.directory().join("tenant")).image(&source, &|_| {}).unwrap();
    let hashes: Vec<RootHash> = tenant.layers.iter().map(|layer| layer.root_hash).collect();
    assert_eq!(first.iter().map(|layer| layer.root_hash).collect::<Vec<_>>(), hashes);
    // Neither the converter nor the layers' blobs are needed any more.
    for layer in &first {
        containerd.discard(&layer.digest.to_string());
    }
    let mut again = node(&tools, &cache);
    again.search.clear();
    assert_eq!(layers(convert(&again, &containerd, Some(&hashes))), first);
}

#[test]
fn what_containerd_does_not_have_is_named() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, image) = containerd();
    let cache = containerd.directory().join("layers");
    let node = node(&tools, &cache);
    let ask = |namespace: &str, id: &str| node.container(&containerd.socket(), namespace, id, None, &|_| {});
    for (namespace, id) in [(NAMESPACE, "other"), ("other", "c")] {
        let error = failed(ask(namespace, id));
        assert!(
            matches!(error, Error::Containerd(ContainerdError::NoContainer { .. })),
            "{}",
            one_line(&error)
        );
    }
    containerd.container("rootfs", "");
    assert!(ask(NAMESPACE, "rootfs").unwrap().is_none());
    containerd.container("lost", "r.example.com/lost:v1");
    let error = failed(ask(NAMESPACE, "lost"));
    assert!(matches!(error, Error::Containerd(ContainerdError::NoImage { .. })), "{}", one_line(&error));
    let digest = image.manifest["layers"][1]["digest"].as_str().unwrap();
    containerd.discard(digest);
    let error = failed(ask(NAMESPACE, "c"));
    assert!(matches!(error, Error::Containerd(ContainerdError::Discarded { .. })), "{}", one_line(&error));
    assert!(one_line(&error).contains("discard_unpacked_layers") && one_line(&error).contains(digest));
    let error = failed(node.container(&cache.join("none"), NAMESPACE, "c", None, &|_| {}));
    assert!(matches!(error, Error::Containerd(ContainerdError::Connect { .. })), "{}", one_line(&error));
    // Nothing half made is left.
    let left = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<_> =
        left.filter(|path| path.extension().is_none_or(|e| e == "tmp" || e == "lock")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The jail is played: what the real one keeps from a program is tested where there is one, with the command that is it.
#[test]
fn a_jailed_conversion_makes_the_same_bytes_and_leaves_them_to_the_node() {
    let Some(tools) = Tools::find() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED, it needs root");
        return;
    }
    let (containerd, _) = containerd();
    let open = layers(convert(&node(&tools, &containerd.directory().join("open")), &containerd, None));
    let jailer = Tools::script(
        "[ \"$1\" = jail ] || exit 9\n\
         work=$(echo \"$2\" | sed 's/.*\"home\":\"\\([^\"]*\\)\".*/\\1/')\n\
         output=$(echo \"$2\" | sed 's/.*\"output\":\"\\([^\"]*\\)\".*/\\1/')\n\
         stat -c %u \"$work\" \"$output\" >>\"$(dirname \"$0\")/owners\"\n\
         export TMPDIR=$work; shift 2; while [ $# -gt 1 ]; do set -- \"$@\" \"$1\"; shift; [ \"$1\" = /vm/output ] && break; done\n\
         shift; exec \"$@\" \"$output\"",
    );
    let user = UserRange::default().of_process(1, Role::ImageBuilder);
    let cache = containerd.directory().join("jailed");
    let builder = Builder { user, jailer: jailer.program() };
    let kept = layers(convert(&Node { builder: Some(builder), ..node(&tools, &cache) }, &containerd, None));
    let bytes = |layers: &[NodeLayer]| -> Vec<Vec<u8>> {
        layers.iter().map(|layer| fs::read(&layer.path).unwrap()).collect()
    };
    assert_eq!(bytes(&kept), bytes(&open));
    let owners = fs::read_to_string(jailer.program().with_file_name("owners")).unwrap();
    assert_eq!(owners, format!("{user}\n").repeat(2 * kept.len()));
    for layer in &kept {
        assert_eq!(fs::metadata(&layer.path).unwrap().uid(), 0);
    }
    let left = fs::read_dir(&cache).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(left.count(), 0);
}

#[test]
fn other_bytes_than_the_pods_are_named_with_the_version_that_made_them() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, _) = containerd();
    let cache = containerd.directory().join("layers");
    let node = node(&tools, &cache);
    let made = layers(convert(&node, &containerd, None));
    let hashes: Vec<RootHash> = made.iter().map(|layer| layer.root_hash).collect();
    assert_eq!(layers(convert(&node, &containerd, Some(&hashes))), made);
    let other = RootHash::from_bytes([7; 32]);
    let wanted = [hashes[0], other, hashes[2]];
    let expected = |error: &Error| {
        let text = one_line(error);
        assert!(text.contains("erofs-utils 1."), "{text}");
        assert!(
            text.contains(&format!("made {} of layer {}, the pod wants {other}", hashes[1], made[1].digest)),
            "{text}"
        );
    };
    expected(&failed(convert(&node, &containerd, Some(&wanted))));
    assert_eq!(tools.conversions(), 3, "the same version makes the same bytes");
    // Also where nothing is there yet, and then nothing of it is kept.
    let fresh = Node { cache: containerd.directory().join("fresh"), ..self::node(&tools, &cache) };
    expected(&failed(convert(&fresh, &containerd, Some(&wanted))));
    assert!(!fresh.cache.join(format!("{}.erofs", made[1].digest.hex())).exists());
    let reordered = [hashes[1], hashes[0], hashes[2]];
    assert!(matches!(failed(convert(&node, &containerd, Some(&reordered))), Error::Unwanted { .. }));
    for wanted in [&hashes[..2], &[hashes.clone(), vec![other]].concat()[..], &[]] {
        let error = failed(convert(&node, &containerd, Some(wanted)));
        assert!(matches!(error, Error::UnwantedNumber { found: 3, .. }), "{}", one_line(&error));
    }
}

#[test]
fn another_version_gets_a_chance_to_make_what_the_pod_wants() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, _) = containerd();
    let cache = containerd.directory().join("layers");
    let node = node(&tools, &cache);
    let made = layers(convert(&node, &containerd, None));
    let hashes: Vec<RootHash> = made.iter().map(|layer| layer.root_hash).collect();
    // As if an older version had made other bytes of the top layer: an image with another tree.
    let top = &made[0];
    let mut image = fs::read(&top.path).unwrap();
    image[2000] ^= 1;
    let blocks = verity::erofs_bytes(&image).unwrap();
    fs::write(&top.path, &image[..usize::try_from(blocks).unwrap()]).unwrap();
    let mut file = File::options().read(true).write(true).open(&top.path).unwrap();
    let old = verity::append(&mut file, [1; 16]).unwrap();
    let note = top.path.with_extension("json");
    let text = fs::read_to_string(&note).unwrap();
    let version = text.split("\"erofs_utils\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let text = text.replace(&top.root_hash.to_string(), &old.to_string()).replace(&version, "1.8.2");
    fs::write(&note, text).unwrap();
    // Nobody minds.
    assert_eq!(layers(convert(&node, &containerd, None))[0].root_hash, old);
    assert_eq!(tools.conversions(), 3);
    // A pod minds.
    assert_eq!(layers(convert(&node, &containerd, Some(&hashes))), made);
    assert_eq!(tools.conversions(), 4);
}

#[test]
fn several_at_once_convert_each_layer_once() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, _) = containerd();
    let cache = containerd.directory().join("layers");
    let node = node(&tools, &cache);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| layers(convert(&node, &containerd, None)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|result| *result == results[0]));
    assert_eq!(tools.conversions(), 3);
}

#[test]
fn a_layer_that_another_process_never_ends_with_is_named() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, image) = containerd();
    let cache = containerd.directory().join("layers");
    fs::create_dir(&cache).unwrap();
    let digest = image.manifest["layers"][0]["digest"].as_str().unwrap();
    let lock = File::create(cache.join(format!("{}.lock", digest.strip_prefix("sha256:").unwrap()))).unwrap();
    lock.lock().unwrap();
    let impatient = Node { patience: Duration::from_millis(100), ..node(&tools, &cache) };
    let error = failed(convert(&impatient, &containerd, None));
    assert!(matches!(error, Error::Busy { .. }), "{}", one_line(&error));
}

#[test]
fn a_spoiled_layer_is_made_anew() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, _) = containerd();
    let cache = containerd.directory().join("layers");
    let node = node(&tools, &cache);
    let made = layers(convert(&node, &containerd, None));
    let spoil: [&dyn Fn(&Path); 4] = [
        &|path| fs::write(path, b"short").unwrap(),
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::write(path.with_extension("json"), b"{}").unwrap(),
        &|path| fs::remove_file(path.with_extension("json")).unwrap(),
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        spoil(&made[0].path);
        assert_eq!(layers(convert(&node, &containerd, None)), made);
        assert_eq!(tools.conversions(), 4 + number);
    }
}

#[test]
fn what_nobody_uses_goes_when_the_cache_is_too_large() {
    let Some(tools) = Tools::find() else { return };
    let (containerd, _) = containerd();
    let cache = containerd.directory().join("layers");
    let small = Node { bytes: 1, ..node(&tools, &cache) };
    let images = || {
        fs::read_dir(&cache).unwrap().flatten().filter(|e| e.path().extension().unwrap() == "erofs").count()
    };
    let found = convert(&small, &containerd, None);
    // Held by this call, and after it by nobody.
    assert_eq!(images(), 3);
    drop(found);
    let mut other = Image::plain(&[simple("o", "o")]);
    containerd.image("r.example.com/other:v1", &mut other);
    containerd.container("c", "r.example.com/other:v1");
    let kept = layers(convert(&small, &containerd, None));
    assert_eq!(images(), 1);
    assert!(kept[0].path.exists());
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 2, "notes go with their layers");
    // One that somebody uses stays.
    let in_use = File::open(&kept[0].path).unwrap();
    in_use.lock_shared().unwrap();
    containerd.container("c", NAME);
    drop(convert(&small, &containerd, None));
    assert!(kept[0].path.exists());
}
