//! Layers as archives, and what is found in them.

use std::io::Write;

use ::tar::{Builder, EntryType, Header};
use proptest::prelude::*;

use super::*;
use crate::tar::{Scanner, Unread};

const ROOT: &str = "root:x:0:0:root:/root:/bin/sh\n";

#[derive(Clone, Copy)]
enum Make<'a> {
    File(&'a str, &'a str),
    Symlink(&'a str, &'a str),
    Link(&'a str, &'a str),
    Directory(&'a str),
}
use Make::{Directory, File, Link, Symlink};

fn archive(entries: &[Make]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        match *entry {
            File(path, text) => {
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, path, text.as_bytes())
            }
            Symlink(path, target) | Link(path, target) => {
                let symbolic = matches!(entry, Symlink(..));
                header.set_entry_type(if symbolic { EntryType::Symlink } else { EntryType::Link });
                header.set_size(0);
                builder.append_link(&mut header, path, target)
            }
            Directory(path) => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, path, &[][..])
            }
        }
        .unwrap();
    }
    builder.into_inner().unwrap()
}

fn read(bytes: &[u8], step: usize) -> Result<Found, Unread> {
    let mut scanner = Scanner::default();
    bytes.chunks(step).for_each(|chunk| scanner.push(chunk));
    scanner.finish().map(|(found, _)| found)
}

fn scan(bytes: &[u8], step: usize) -> Found {
    read(bytes, step).unwrap()
}

/// passwd and group of an image, its layers given with the top one first.
fn image(layers: &[&[Make]]) -> (Option<String>, Option<String>) {
    let found: Vec<Found> = layers.iter().map(|entries| scan(&archive(entries), 1000)).collect();
    merge(&found.iter().collect::<Vec<_>>())
}

fn passwd(layers: &[&[Make]]) -> Option<String> {
    image(layers).0
}

#[test]
fn the_topmost_layer_that_has_a_file_decides() {
    let base: &[Make] = &[File("etc/passwd", ROOT), File("./etc/group", "root:x:0:\n"), File("bin/sh", "#!")];
    assert_eq!(image(&[base]), (Some(ROOT.into()), Some("root:x:0:\n".into())));
    assert_eq!(passwd(&[&[File("etc/passwd", "new")], base]).as_deref(), Some("new"));
    assert_eq!(passwd(&[&[File("etc/hosts", "x"), Directory("etc")], base]).as_deref(), Some(ROOT));
    assert_eq!(passwd(&[&[File("etc/passwd", "")], base]).as_deref(), Some(""));
    // The last of one layer counts.
    assert_eq!(passwd(&[&[File("etc/passwd", "1"), File("etc/passwd", "2")]]).as_deref(), Some("2"));
    assert_eq!(image(&[&[File("usr/passwd", "x")]]), (None, None));
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_beside() {
    let base: &[Make] = &[File("etc/passwd", ROOT)];
    let gone = |top: &[Make]| passwd(&[top, base]);
    assert_eq!(gone(&[File("etc/.wh.passwd", "")]), None);
    assert_eq!(gone(&[File(".wh.etc", "")]), None);
    assert_eq!(gone(&[File("etc/.wh..wh..opq", "")]), None);
    assert_eq!(gone(&[File(".wh..wh..opq", "")]), None);
    assert_eq!(gone(&[File("etc", "a file")]), None);
    assert_eq!(gone(&[Symlink("etc", "/other")]), None);
    assert_eq!(gone(&[Directory("etc/passwd")]), None);
    assert_eq!(gone(&[Directory("etc")]).as_deref(), Some(ROOT));
    assert_eq!(gone(&[File("etc/.wh.group", "")]).as_deref(), Some(ROOT));
    assert_eq!(gone(&[File("usr/.wh..wh..opq", "")]).as_deref(), Some(ROOT));
    // A whiteout says nothing of its own layer, before or behind it.
    for top in [
        [File("etc/passwd", "own"), File("etc/.wh..wh..opq", "")],
        [File("etc/.wh..wh..opq", ""), File("etc/passwd", "own")],
    ] {
        assert_eq!(gone(&top).as_deref(), Some("own"));
    }
    assert_eq!(passwd(&[&[], &[File("etc/.wh.passwd", "")], base]), None);
    assert_eq!(
        passwd(&[&[File("etc/passwd", "again")], &[File("etc/.wh.passwd", "")], base]).as_deref(),
        Some("again")
    );
}

#[test]
fn links_are_followed_inside_the_image() {
    let store: &[Make] = &[File("store/abc/etc/passwd", "store")];
    assert_eq!(passwd(&[&[Symlink("etc/passwd", "/store/abc/etc/passwd")], store]).as_deref(), Some("store"));
    assert_eq!(
        passwd(&[&[Symlink("etc/passwd", "../store/abc/etc/passwd")], store]).as_deref(),
        Some("store")
    );
    assert_eq!(passwd(&[&[Symlink("etc/passwd", "../../../etc/passwd")]]), None);
    assert_eq!(passwd(&[&[Symlink("etc/passwd", "passwd")]]), None);
    let hard: &[Make] = &[File("usr/passwd", "hard"), Link("etc/passwd", "usr/passwd")];
    assert_eq!(passwd(&[hard]).as_deref(), Some("hard"));
    // The link is to the file of its own layer, whatever is above it.
    assert_eq!(passwd(&[&[File("usr/passwd", "above")], hard]).as_deref(), Some("hard"));
}

#[test]
fn long_names_and_large_files_do_no_harm() {
    let long = format!("{}/passwd", "d".repeat(90)).repeat(3);
    let large = "x".repeat(1_100_000);
    let entries = [File(&long, "long"), File("etc/passwd", &large), File("etc/group", "g")];
    let found = scan(&archive(&entries), 4096);
    assert_eq!(found.entries.get(&long), Some(&Entry::File("long".into())));
    // What is too large is there, and is nobody's: it hides what is below.
    let below = scan(&archive(&[File("etc/passwd", ROOT)]), 4096);
    assert_eq!(merge(&[&found, &below]), (None, Some("g".into())));
    let names: Vec<String> = (0..100).map(|n| format!("d{n}/passwd")).collect();
    let mut many: Vec<Make> = names.iter().map(|name| File(name, "x")).collect();
    many.push(File("etc/passwd", ROOT));
    let found = scan(&archive(&many), 4096);
    assert_eq!(found.entries.len(), 65);
    assert_eq!(merge(&[&found]).0.as_deref(), Some(ROOT));
}

#[test]
fn pax_headers_name_what_does_not_fit() {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([("path", b"etc/passwd".as_slice()), ("mtime", b"1.5")]).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(3);
    builder.append_data(&mut header, "placeholder", &b"pax"[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    assert_eq!(merge(&[&scan(&archive, 7)]).0.as_deref(), Some("pax"));
}

/// Whatever it says would count for the entry behind it, whose name may be another one.
#[test]
fn a_header_that_cannot_be_read_is_an_error_that_names_its_entry() {
    let of = |kind: u8, content: &[u8]| {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, "PaxHeaders/0", content).unwrap();
        let mut file = Header::new_ustar();
        file.set_size(3);
        builder.append_data(&mut file, "etc/passwd", &b"own"[..]).unwrap();
        read(&builder.into_inner().unwrap(), 700)
    };
    let refused = |entry: &str, why| Err(Unread { entry: entry.to_owned(), why });
    for malformed in [
        &b"no record"[..],
        b"9 a=b",
        b"6 a=b ",
        b"0 a=b\n",
        b"11 nothing\n",
        b"12 size=abc\n",
        b"6 a=b\n\0\0",
    ] {
        let text = String::from_utf8_lossy(malformed);
        assert_eq!(of(b'x', malformed), refused("etc/passwd", "is malformed"), "{text:?}");
    }
    assert_eq!(of(b'x', b"16 path=etc/new\nx"), refused("etc/new", "is malformed"));
    let mut name = b"etc/group".to_vec();
    name.resize(1 << 20, 0);
    let found = of(b'L', &name).unwrap();
    assert_eq!(found.entries.keys().collect::<Vec<_>>(), ["etc/group"]);
    name.push(0);
    for kind in [b'x', b'L', b'K'] {
        assert_eq!(of(kind, &name), refused("etc/passwd", "has more than 1 MiB"), "{kind}");
    }
    // What is said of all entries names none of them.
    assert_eq!(merge(&[&of(b'g', &name).unwrap()]).0.as_deref(), Some("own"));
    assert_eq!(merge(&[&of(b'x', b"8 path=\n").unwrap()]).0.as_deref(), Some("own"));
}

#[test]
fn an_empty_stream_and_one_that_is_no_archive_have_nothing() {
    assert_eq!(scan(b"", 1), Found::default());
    assert_eq!(scan(&[0xff; 5000], 512), Found::default());
    assert_eq!(scan(&[0; 10240], 512), Found::default());
}

proptest! {
    #[test]
    fn how_the_stream_is_cut_makes_no_difference(step in 1_usize..3000, junk in prop::collection::vec(any::<u8>(), 0..2000)) {
        let text = "y".repeat(700);
        let entries = [File("etc/passwd", &text), File("etc/.wh.group", ""), Symlink("usr/group", "/etc/group")];
        let mut bytes = archive(&entries);
        bytes.write_all(&junk).unwrap();
        prop_assert_eq!(scan(&bytes, step), scan(&bytes, bytes.len()));
    }

    #[test]
    fn nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), kind in prop::sample::select(b"0x1L25gK".to_vec())) {
        if bytes.len() > 512 {
            bytes[124..136].copy_from_slice(b"00000000050\0");
            bytes[156] = kind;
        }
        let _ = read(&bytes, 100);
    }
}
