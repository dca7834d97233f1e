//! Which of an image's `VOLUME`s have nothing in them: there an empty directory hides nothing.
//!
//! It errs towards "something": a link on the way to the place, or a whiteout, is something. Then the directory is the root
//! file system's own, which is right in any case but where it is missing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_types::EmptyDirectory;

use crate::accounts::normal;

/// Permissions with the group's bit and the sticky one. With the user's bit nobody has a directory.
const MODES: u32 = 0o3777;

/// What a layer has at a place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Seen {
    #[default]
    Nothing,
    /// The directory, and nothing in it.
    Empty(EmptyDirectory),
    Something,
}

/// What one layer has at the places that somebody asks for: paths without the first slash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places(BTreeMap<String, Seen>);

impl Places {
    /// Nothing has been seen yet.
    pub(crate) fn new<'a>(asked: impl IntoIterator<Item = &'a String>) -> Self {
        Self(asked.into_iter().map(|place| (place.clone(), Seen::Nothing)).collect())
    }

    /// What was asked for.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Whether all of these were asked for.
    pub(crate) fn has(&self, asked: &BTreeSet<String>) -> bool {
        asked.iter().all(|place| self.0.contains_key(place))
    }

    /// A directory of the layer; `None` for one whose owner or mode cannot be told.
    pub(crate) fn directory(&mut self, path: &str, directory: Option<EmptyDirectory>) {
        for (place, seen) in &mut self.0 {
            if place == path {
                *seen = match (*seen, directory) {
                    (Seen::Nothing | Seen::Empty(_), Some(directory)) if directory.mode & !MODES == 0 => {
                        Seen::Empty(directory)
                    }
                    _ => Seen::Something,
                };
            } else if is_below(path, place) {
                *seen = Seen::Something;
            }
        }
    }

    /// Anything else of the layer.
    pub(crate) fn other(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let gone = name.strip_prefix(".wh.").map(|gone| match gone {
            ".wh..opq" => parent.to_owned(),
            gone if parent.is_empty() => gone.to_owned(),
            gone => format!("{parent}/{gone}"),
        });
        let paths = [Some(path), gone.as_deref()];
        for (place, seen) in &mut self.0 {
            let meets = |path: &str| place == path || is_below(path, place) || is_below(place, path);
            if paths.into_iter().flatten().any(meets) {
                *seen = Seen::Something;
            }
        }
    }

    /// An entry whose path is not known, or bytes that are not read.
    pub(crate) fn unknown(&mut self) {
        self.0.values_mut().for_each(|seen| *seen = Seen::Something);
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The volumes that an image's configuration names (`config.md`): their paths as they are, and without the first slash and
/// what else says nothing.
pub(crate) fn named(config: &[u8]) -> BTreeMap<String, String> {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let volumes = config.pointer("/config/Volumes").and_then(Value::as_object);
    let paths = volumes.into_iter().flatten().map(|(path, _)| path);
    let known = paths.filter_map(|path| Some((path.clone(), normal(path.as_bytes())?)));
    known.filter(|(_, place)| !place.is_empty()).collect()
}

/// The volumes that have nothing in them, of an image whose layers are given with the top one first.
pub(crate) fn merge(
    named: &BTreeMap<String, String>,
    layers: &[&Places],
) -> BTreeMap<String, EmptyDirectory> {
    let empty = |place: &String| {
        let seen: Option<Vec<Seen>> = layers.iter().map(|layer| layer.0.get(place).copied()).collect();
        let mut topmost = None;
        for seen in seen? {
            match seen {
                Seen::Nothing => {}
                Seen::Empty(directory) => topmost = topmost.or(Some(directory)),
                Seen::Something => return None,
            }
        }
        Some(topmost.unwrap_or(EmptyDirectory::NEW))
    };
    named.iter().filter_map(|(path, place)| Some((path.clone(), empty(place)?))).collect()
}

#[cfg(test)]
mod tests {
    use ::tar::{Builder, EntryType, Header};

    use super::*;
    use crate::tar::Scanner;

    const DIRECTORY: EmptyDirectory = EmptyDirectory { uid: 999, gid: 998, mode: 0o1770 };

    enum Entry {
        Directory(&'static str),
        Other(&'static str),
        Unknown,
    }
    use Entry::{Directory, Other, Unknown};

    fn found(layers: &[&[Entry]]) -> Option<EmptyDirectory> {
        let named = named(br#"{"config": {"Volumes": {"/srv/data/": {}}}}"#);
        let see = |entries: &&[Entry]| {
            let mut places = Places::new(named.values());
            for entry in *entries {
                match entry {
                    Directory(path) => places.directory(path, Some(DIRECTORY)),
                    Other(path) => places.other(path),
                    Unknown => places.unknown(),
                }
            }
            places
        };
        let seen: Vec<Places> = layers.iter().map(see).collect();
        merge(&named, &seen.iter().collect::<Vec<_>>()).remove("/srv/data/")
    }

    #[test]
    fn what_has_nothing_in_it_is_empty_or_missing() {
        assert_eq!(found(&[&[]]), Some(EmptyDirectory::NEW));
        assert_eq!(
            found(&[&[Directory("")], &[Directory("srv"), Other("srv/data2")]]),
            Some(EmptyDirectory::NEW)
        );
        let directory = [Directory("srv"), Directory("srv/data")];
        assert_eq!(found(&[&[Other("etc/passwd")], &directory]), Some(DIRECTORY));
    }

    #[test]
    fn what_may_have_something_in_it_is_not() {
        for entry in [
            Other("srv/data/seed"),
            Directory("srv/data/deep"),
            Other("srv/data/a/b/c"),
            Other("srv/data"),
            Other("srv"),
            Other("srv/.wh.data"),
            Other(".wh.srv"),
            Other("srv/.wh..wh..opq"),
            Other("srv/data/.wh..wh..opq"),
            Other(".wh..wh..opq"),
            Unknown,
        ] {
            let name = match &entry {
                Directory(path) | Other(path) => path,
                Unknown => "unknown",
            };
            let entries = [Directory("srv/data"), entry];
            assert_eq!(found(&[&[Directory("srv/data")], &entries]), None, "{name}");
            assert_eq!(found(&[&entries, &[]]), None, "{name}");
        }
    }

    #[test]
    fn a_directory_that_nobody_can_copy_is_something() {
        let asked = ["data".to_owned()];
        for directory in [None, Some(EmptyDirectory { mode: 0o4755, ..DIRECTORY })] {
            let mut places = Places::new(&asked);
            places.directory("data", directory);
            assert_eq!(places.0["data"], Seen::Something);
        }
    }

    #[test]
    fn an_archives_directory_has_its_owner_and_mode() {
        let scan = |bytes: &[u8]| {
            let mut scanner = Scanner::new(Places::new(&["data".to_owned()]));
            bytes.chunks(700).for_each(|chunk| scanner.push(chunk));
            scanner.finish().unwrap().1.0["data"]
        };
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o1770);
        header.set_uid(999);
        header.set_gid(998);
        let archive = |more: &[(&str, &[u8])], inside: Option<&str>| {
            let mut builder = Builder::new(Vec::new());
            builder.append_pax_extensions(more.iter().copied()).unwrap();
            builder.append_data(&mut header.clone(), "./data/", &[][..]).unwrap();
            if let Some(inside) = inside {
                builder.append_data(&mut header.clone(), inside, &[][..]).unwrap();
            }
            builder.into_inner().unwrap()
        };
        assert_eq!(scan(&archive(&[], None)), Seen::Empty(DIRECTORY));
        let large = EmptyDirectory { uid: 70_000_000, ..DIRECTORY };
        assert_eq!(scan(&archive(&[("uid", b"70000000")], None)), Seen::Empty(large));
        assert_eq!(scan(&archive(&[("gid", b"many")], None)), Seen::Something);
        assert_eq!(scan(&archive(&[], Some("data/x"))), Seen::Something);
        assert_eq!(scan(&archive(&[], Some("datax"))), Seen::Empty(DIRECTORY));
        assert_eq!(scan(&[0xff; 5000]), Seen::Something);
        assert_eq!(scan(&[0; 1024]), Seen::Nothing);
    }

    #[test]
    fn a_layer_that_was_not_asked_says_nothing() {
        let named = named(br#"{"config": {"Volumes": {"/data": {}}}}"#);
        assert_eq!(merge(&named, &[&Places::default()]), BTreeMap::new());
        assert!(!Places::default().has(&["data".to_owned()].into()));
        for none in [
            &b"x"[..],
            b"{}",
            br#"{"config": {"Volumes": null}}"#,
            br#"{"config": {"Volumes": {"/": {}, "/../x": {}}}}"#,
        ] {
            assert_eq!(super::named(none), BTreeMap::new());
        }
    }
}
