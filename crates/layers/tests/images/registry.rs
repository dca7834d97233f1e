//! Images in a registry.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use layers::{Error, HashedImage, Places, RegistryError, Source};
use serde_json::json;
use shared_types::one_line;

use crate::fake_registry::{FakeRegistry, Fault, Login, REPOSITORY};
use crate::make::{Image, Item, gzip, noise, simple, tar, zstd};

use crate::tools::Tools;

/// Three layers, each in one of the forms that layers come in.
fn image() -> Image {
    let [plain, zipped, zstandard] = ["a", "b", "c"].map(|name| simple("etc/passwd", name));
    Image::new(&[(plain.clone(), plain), (gzip(&zipped), zipped), (zstd(&zstandard), zstandard)])
}

fn hash(tools: &Tools, cache: &Path, reference: &str, logins: Places) -> Result<HashedImage, Error> {
    let mut hasher = tools.hasher(cache);
    hasher.registries.logins = logins;
    hasher.registries.silence = Some(Duration::from_millis(600));
    hasher.image(&reference.parse().unwrap(), &|_| {})
}

fn registry_error(result: Result<HashedImage, Error>) -> RegistryError {
    match result {
        Err(Error::Registry(error)) => error,
        Err(error) => panic!("{}", one_line(&error)),
        Ok(image) => panic!("{image:?}"),
    }
}

fn logins(directory: &Path, registry: &FakeRegistry, password: &str) -> Places {
    let file = directory.join("auth.json");
    let auth = BASE64_STANDARD.encode(format!("user:{password}"));
    let content = json!({"auths": {format!("127.0.0.1:{}", registry.port): {"auth": auth}}});
    fs::write(&file, content.to_string()).unwrap();
    Places { auth_file: Some(file), others: Vec::new() }
}

#[test]
fn an_image_is_the_same_wherever_it_comes_from_and_a_tag_is_written_down_with_its_digest() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut image = image();
    let registry = FakeRegistry::serve(&mut image, Login::Nobody, Fault::None);
    let digest = image.seal()["digest"].as_str().unwrap().to_owned();
    let from_registry =
        hash(&tools, &dir.path().join("a"), &registry.reference(), Places::default()).unwrap();
    assert_eq!(from_registry.reference, format!("{}@{digest}", registry.reference()));
    assert_eq!(from_registry.passwd.as_deref(), Some("c"));
    image.layout(&dir.path().join("layout"));
    let source = Source::Layout { directory: dir.path().join("layout"), tag: None };
    let from_layout = tools.hasher(&dir.path().join("b")).image(&source, &|_| {}).unwrap();
    assert_eq!(from_registry.layers, from_layout.layers);
    assert_eq!((from_registry.digest, from_registry.config), (from_layout.digest, from_layout.config));
    assert_eq!(tools.conversions(), 6);
}

#[test]
fn a_known_image_needs_no_registry() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut image = image();
    let registry = FakeRegistry::serve(&mut image, Login::Nobody, Fault::None);
    let digest = image.seal()["digest"].as_str().unwrap().to_owned();
    let pinned = format!("127.0.0.1:{}/{REPOSITORY}@{digest}", registry.port);
    let first = hash(&tools, dir.path(), &pinned, Places::default()).unwrap();
    let (requests, conversions) = (registry.requests(), tools.conversions());
    let second = hash(&tools, dir.path(), &pinned, Places::default()).unwrap();
    assert_eq!((&second.layers, &second.config), (&first.layers, &first.config));
    assert_eq!((registry.requests(), tools.conversions()), (requests, conversions));
    // A tag is asked for, and nothing else but the login.
    hash(&tools, dir.path(), &registry.reference(), Places::default()).unwrap();
    assert_eq!((registry.requests(), tools.conversions()), (requests + 2, conversions));
}

#[test]
fn a_digest_is_held_against_what_comes() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut image = image();
    let digest = image.seal()["digest"].as_str().unwrap().to_owned();
    // The registry has something else under this digest.
    let other = b"{\"schemaVersion\": 2}".to_vec();
    image.blobs.insert(digest.clone(), other);
    let registry = FakeRegistry::serve_as(&image, &digest, Login::Nobody, Fault::None);
    let pinned = format!("127.0.0.1:{}/{REPOSITORY}@{digest}", registry.port);
    let error = hash(&tools, dir.path(), &pinned, Places::default()).unwrap_err();
    assert!(matches!(error, Error::Digest { what: "manifest", .. }), "{}", one_line(&error));
}

#[test]
fn an_index_leads_to_the_image_for_this_machine() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut image = image();
    let mut entry = image.seal();
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let arm =
        json!({"digest": entry["digest"], "size": 1, "platform": {"os": "linux", "architecture": "arm64"}});
    let mut index = |entries: serde_json::Value| {
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
        image.blob("index", index.to_string().into_bytes())["digest"].as_str().unwrap().to_owned()
    };
    let (both, none) = (index(json!([arm, entry])), index(json!([arm, arm])));
    let registry = FakeRegistry::serve_as(&image, &both, Login::Nobody, Fault::None);
    let found = hash(&tools, dir.path(), &registry.reference(), Places::default()).unwrap();
    assert_eq!(found.digest.to_string(), both);
    let registry = FakeRegistry::serve_as(&image, &none, Login::Nobody, Fault::None);
    let error = hash(&tools, dir.path(), &registry.reference(), Places::default()).unwrap_err();
    assert!(
        one_line(&error).contains("it has no image for linux/amd64; it has: linux/arm64, linux/arm64"),
        "{}",
        one_line(&error)
    );
}

#[test]
fn an_image_that_does_not_exist_is_named() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::serve(&mut image(), Login::Nobody, Fault::None);
    let missing = registry.reference().replace(":v1", ":v2");
    let error = registry_error(hash(&tools, dir.path(), &missing, Places::default()));
    assert!(matches!(&error, RegistryError::NotFound { image } if *image == missing), "{error}");
    let missing = format!("127.0.0.1:{}/other/app:v1", registry.port);
    let error = registry_error(hash(&tools, dir.path(), &missing, Places::default()));
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[test]
fn a_login_is_asked_for_refused_or_taken() {
    let Some(tools) = Tools::find() else { return };
    for login in [Login::Basic, Login::Bearer] {
        let dir = tempfile::tempdir().unwrap();
        let registry = FakeRegistry::serve(&mut image(), login, Fault::None);
        let ask = |places: Places| hash(&tools, &dir.path().join("cache"), &registry.reference(), places);
        let error = registry_error(ask(Places::default()));
        assert!(matches!(error, RegistryError::NeedsLogin { .. }), "{login:?}: {error}");
        let error = registry_error(ask(logins(dir.path(), &registry, "guess")));
        assert!(matches!(error, RegistryError::Refused { .. }), "{login:?}: {error}");
        let image = ask(logins(dir.path(), &registry, "secret")).unwrap();
        assert_eq!(image.layers.len(), 3, "{login:?}");
    }
}

#[test]
fn a_registry_that_hangs_is_not_waited_for_for_ever() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let large = tar(&[Item::File("large", noise(3 << 20, 5))]);
    let mut image = Image::plain(&[large]);
    for (fault, what) in [(Fault::SilentAtOnce, "a login"), (Fault::SilentInLayer, "layer sha256:")] {
        let registry = FakeRegistry::serve(&mut image, Login::Nobody, fault);
        let start = Instant::now();
        let error = registry_error(hash(&tools, dir.path(), &registry.reference(), Places::default()));
        assert!(start.elapsed() < Duration::from_secs(20), "{fault:?}");
        assert!(
            matches!(&error, RegistryError::Silent { what: found, .. } if found.starts_with(what)),
            "{error:?}"
        );
    }
}

#[test]
fn what_a_registry_does_wrong_is_said() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut large = Image::plain(&[tar(&[Item::File("large", noise(3 << 20, 7))])]);
    let mut fails = |fault: Fault| {
        let registry = FakeRegistry::serve(&mut large, Login::Nobody, fault);
        hash(&tools, dir.path(), &registry.reference(), Places::default()).unwrap_err()
    };
    let error = fails(Fault::Status500);
    assert!(one_line(&error).contains("answered 500 when asked for manifest v1"), "{}", one_line(&error));
    let error = fails(Fault::EndlessManifest);
    assert!(matches!(error, Error::TooLarge { .. }), "{}", one_line(&error));
    let error = fails(Fault::CutInLayer);
    assert!(matches!(error, Error::Registry(RegistryError::Client { .. })), "{}", one_line(&error));
    // Nothing listens.
    let error = hash(&tools, dir.path(), "127.0.0.1:1/a:v1", Places::default()).unwrap_err();
    assert!(one_line(&error).contains("cannot be asked for a login"), "{}", one_line(&error));
}
