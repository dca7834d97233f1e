//! What the tenant's cache is good for, and what it must not be.

use std::fs;

use layers::Source;

use crate::make::{Image, simple};
use crate::tools::Tools;

#[test]
fn another_version_of_the_converter_and_a_spoiled_note_make_it_anew() {
    let Some(tools) = Tools::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    Image::plain(&[simple("a", "a")]).layout(&dir.path().join("layout"));
    let source = Source::Layout { directory: dir.path().join("layout"), tag: None };
    let hasher = tools.hasher(&dir.path().join("cache"));
    let hash = || hasher.image(&source, &|_| {}).unwrap().layers;
    let first = hash();
    let notes = || fs::read_dir(dir.path().join("cache/layers")).unwrap().map(|entry| entry.unwrap().path());
    let note = notes().next().unwrap();
    assert_eq!(notes().count(), 1, "nothing of the layer is kept");
    let text = fs::read_to_string(&note).unwrap();
    let version = text.split("\"erofs_utils\":\"").nth(1).unwrap().split('"').next().unwrap();
    let other_digest = text.replace(&first[0].digest.to_string(), &layers::Digest::of(b"").to_string());
    let spoiled = [text.replace(version, "1.8.2"), other_digest, "{".into(), String::new()];
    for (number, spoiled) in spoiled.into_iter().enumerate() {
        fs::write(&note, spoiled).unwrap();
        assert_eq!(hash(), first);
        assert_eq!(tools.conversions(), number + 2);
    }
    assert_eq!(fs::read_to_string(&note).unwrap(), text);
}
