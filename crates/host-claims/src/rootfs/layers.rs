//! containerd's EROFS snapshotter: finds the layers behind the mounts that it hands out.
//!
//! 2.1 gives an overlay whose lower directories have the image beside them (`<n>/fs`, `<n>/layer.erofs`).
//! 2.2 and later give a mount per layer and last an overlay that refers to them by template. A single layer
//! is one `erofs` mount in all of them.

use std::path::{Path, PathBuf};

use super::{Error, Mount, layer};

/// The layers, the top one first. `None` when another snapshotter made the mounts, or when the upper
/// directory has content that would be lost.
pub(super) fn find(mounts: &[Mount]) -> Result<Option<Vec<PathBuf>>, Error> {
    let Some((last, before)) = mounts.split_last() else { return Ok(None) };
    let layers = match (last.fstype.rsplit('/').next(), before) {
        (Some("erofs"), []) => blobs(last),
        (Some("overlay"), []) => siblings(last),
        (Some("overlay" | "bind"), _) if last.fstype.starts_with("format/") => templated(last, before)?,
        _ => None,
    };
    let Some(layers) = layers else { return Ok(None) };
    if !upper_is_empty(mounts)? {
        return Ok(None);
    }
    layers.iter().try_for_each(|image| layer::open(image).map(drop))?;
    Ok(Some(layers))
}

/// A mount's blobs, the top one first. One with `device=` is a merged index over complete layers, named from
/// the bottom up: those are what the guest stacks itself.
fn blobs(mount: &Mount) -> Option<Vec<PathBuf>> {
    let mut devices: Vec<PathBuf> =
        mount.options.iter().filter_map(|option| option.strip_prefix("device=")).map(PathBuf::from).collect();
    devices.reverse();
    Some(if devices.is_empty() { vec![PathBuf::from(&mount.source)] } else { devices })
}

fn siblings(overlay: &Mount) -> Option<Vec<PathBuf>> {
    let sibling = |lower: &str| {
        let image = Path::new(lower).parent()?.join("layer.erofs");
        image.exists().then_some(image)
    };
    overlay.option("lowerdir")?.split(':').map(sibling).collect()
}

fn templated(last: &Mount, before: &[Mount]) -> Result<Option<Vec<PathBuf>>, Error> {
    let malformed = |reason| Error::Unsupported { fstype: last.fstype.clone(), reason };
    let lower =
        if last.fstype.ends_with("bind") { Some(last.source.as_str()) } else { last.option("lowerdir") };
    let Some(lower) = lower else { return Ok(None) };
    let indices =
        indices(lower).ok_or_else(|| malformed("its lower directories are no template that we know"))?;
    let mut layers = Vec::new();
    for index in indices {
        match before.get(index) {
            Some(mount) if mount.fstype == "erofs" => layers.extend(blobs(mount).unwrap_or_default()),
            _ => return Err(malformed("a lower directory is no EROFS layer")),
        }
    }
    Ok(Some(layers))
}

/// `{{ mount 1 }}` or `{{ overlay 1 4 }}`, whose ends are inclusive and may run either way.
fn indices(template: &str) -> Option<Vec<usize>> {
    let inside = template.strip_prefix("{{")?.strip_suffix("}}")?;
    match inside.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["mount", at] => Some(vec![at.parse().ok()?]),
        ["overlay", first, last] => {
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            // More layers than any image has: do not let a number allocate.
            if first.abs_diff(last) > 1024 {
                return None;
            }
            Some(if first <= last { (first..=last).collect() } else { (last..=first).rev().collect() })
        }
        _ => None,
    }
}

/// Nothing was written yet. An upper directory inside an ext4 image that is still to be made is empty.
pub(super) fn upper_is_empty(mounts: &[Mount]) -> Result<bool, Error> {
    let Some((last, before)) = mounts.split_last() else { return Ok(true) };
    let Some(upper) = last.option("upperdir") else { return Ok(true) };
    if upper.starts_with("{{") {
        let disk = before.iter().find(|mount| mount.fstype.starts_with("mkfs/"));
        return Ok(disk.is_some_and(|disk| !Path::new(&disk.source).exists()));
    }
    let mut entries = std::fs::read_dir(upper).map_err(Error::file("list", upper))?;
    Ok(entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn mount(fstype: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            fstype: fstype.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    /// `snapshots/<n>/{fs,layer.erofs}` for n in 1..=3, and an active one, 9.
    fn snapshotter() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for n in 1..=3 {
            let dir = root.path().join(n.to_string());
            std::fs::create_dir_all(dir.join("fs")).unwrap();
            image(&dir.join("layer.erofs"));
        }
        std::fs::create_dir_all(root.path().join("9/fs")).unwrap();
        root
    }

    fn image(path: &Path) {
        layer::make(path, 0);
    }

    fn names(root: &Path, layers: Option<Vec<PathBuf>>) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        layers.unwrap().into_iter().map(name).collect()
    }

    fn overlay(root: &Path, lower: &[&str]) -> Mount {
        let root = root.to_str().unwrap();
        let lower: Vec<String> = lower.iter().map(|n| format!("{root}/{n}/fs")).collect();
        let options = [format!("upperdir={root}/9/fs"), format!("lowerdir={}", lower.join(":"))];
        mount("overlay", "overlay", &options.each_ref().map(String::as_str))
    }

    #[test]
    fn an_overlay_of_2_1_has_its_layers_beside_the_lower_directories() {
        let root = snapshotter();
        let found = find(&[overlay(root.path(), &["3", "2", "1"])]).unwrap();
        assert_eq!(names(root.path(), found), ["3/layer.erofs", "2/layer.erofs", "1/layer.erofs"]);
    }

    #[test]
    fn an_upper_directory_with_content_is_not_lost() {
        let root = snapshotter();
        std::fs::write(root.path().join("9/fs/state"), "").unwrap();
        assert_eq!(find(&[overlay(root.path(), &["1"])]).unwrap(), None);
    }

    #[test]
    fn templates_of_2_2_refer_to_the_mounts_before() {
        let root = snapshotter();
        let path = |n: &str| root.path().join(n).join("layer.erofs").to_str().unwrap().to_owned();
        let layer = |n: &str| mount("erofs", &path(n), &["ro", "loop"]);
        let upper = format!("upperdir={}/9/fs", root.path().to_str().unwrap());
        let last = |lower: &str| mount("format/mkdir/overlay", "overlay", &[&upper, lower]);
        let find_names = |mounts: &[Mount]| names(root.path(), find(mounts).unwrap());
        let three = [layer("3"), layer("2"), layer("1"), last("lowerdir={{ overlay 0 2 }}")];
        assert_eq!(find_names(&three), ["3/layer.erofs", "2/layer.erofs", "1/layer.erofs"]);
        let reversed = [layer("1"), layer("2"), last("lowerdir={{ overlay 1 0 }}")];
        assert_eq!(find_names(&reversed), ["2/layer.erofs", "1/layer.erofs"]);
        assert_eq!(find_names(&[layer("1"), last("lowerdir={{ mount 0 }}")]), ["1/layer.erofs"]);
        let merged = mount(
            "erofs",
            "/meta",
            &["ro", &format!("device={}", path("1")), &format!("device={}", path("2"))],
        );
        let over_merged = [layer("3"), merged, last("lowerdir={{ overlay 0 1 }}")];
        assert_eq!(find_names(&over_merged), ["3/layer.erofs", "2/layer.erofs", "1/layer.erofs"]);
        let view = [layer("1"), mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"])];
        assert_eq!(find_names(&view), ["1/layer.erofs"]);
        assert!(find(&[layer("1"), last("lowerdir={{ overlay 0 7 }}")]).is_err());
        assert!(find(&[layer("1"), last("lowerdir={{ surprise }}")]).is_err());
    }

    #[test]
    fn a_fresh_ext4_upper_is_empty_and_an_old_one_is_not() {
        let root = snapshotter();
        let layer = root.path().join("1/layer.erofs");
        let disk = root.path().join("rw.img");
        let mounts = [
            mount("mkfs/ext4", disk.to_str().unwrap(), &["rw"]),
            mount("erofs", layer.to_str().unwrap(), &["ro"]),
            mount(
                "format/mkdir/overlay",
                "overlay",
                &["upperdir={{ mount 0 }}/upper", "lowerdir={{ mount 1 }}"],
            ),
        ];
        assert!(find(&mounts).unwrap().is_some());
        std::fs::write(&disk, "").unwrap();
        assert!(find(&mounts).unwrap().is_none());
    }

    #[test]
    fn other_snapshotters_have_no_layers() {
        let root = snapshotter();
        assert_eq!(find(&[]).unwrap(), None);
        assert_eq!(find(&[mount("bind", "/srv", &["rbind"])]).unwrap(), None);
        std::fs::remove_file(root.path().join("2/layer.erofs")).unwrap();
        assert_eq!(find(&[overlay(root.path(), &["2", "1"])]).unwrap(), None);
    }

    #[test]
    fn a_layer_that_is_no_image_is_refused() {
        let root = snapshotter();
        let single = |path: &Path| find(&[mount("erofs", path.to_str().unwrap(), &["ro", "loop"])]);
        let layer = root.path().join("1/layer.erofs");
        assert!(single(&layer).unwrap().is_some());
        let link = root.path().join("link");
        symlink(&layer, &link).unwrap();
        let short = root.path().join("short");
        std::fs::write(&short, "x").unwrap();
        let zeroes = root.path().join("zeroes");
        std::fs::write(&zeroes, vec![0; 4096]).unwrap();
        for path in [&link, &short, &zeroes, Path::new("relative"), root.path()] {
            assert!(matches!(single(path), Err(Error::Untrusted { .. })), "{path:?}");
        }
        assert!(matches!(single(Path::new("/there/is/none")), Err(Error::File { .. })));
    }

    proptest! {
        #[test]
        fn a_template_never_panics_and_never_grows(text in "\\{\\{ (mount|overlay) [0-9 -]{0,24} \\}\\}") {
            if let Some(found) = indices(&text) {
                prop_assert!(found.len() <= 1025);
            }
        }
    }
}
