//! Whole images, against cryptsetup's veritysetup.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::fs::{self, File};
use std::io::{Cursor, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use verity::{BLOCK, FormatError, Layout, ReadError, RootHash, Superblock, append, read_root};

/// 00112233-4455-6677-8899-aabbccddeeff.
const UUID: [u8; 16] =
    [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

/// Blocks, root hash, SHA-256 of superblock and tree: what veritysetup 2.8.8 made of [`image`] with
/// `format --salt=<64 zeros> --data-blocks=N --hash-offset=N*4096 --uuid=00112233-4455-6677-8899-aabbccddeeff`.
const GOLDEN: [(u32, &str, &str); 6] = [
    (
        1,
        "edb498ddf6498fc941e8b65b2ff56294aa659e3313d644c7111b3adc1bb4ae7e",
        "d26b386d2b2952565a5b4e0dcdb295aafc59c3a0aa8d2b69f3a3e0b01dab5b15",
    ),
    (
        2,
        "266fb0332373b9d9b58d1c4f044e8989a3a0d796f39ef6a2dbb98c171cece956",
        "22b391919459a7eec05ef840495f99695f372895b50eb8c903379b1982e0759f",
    ),
    (
        128,
        "be3724ce42f881b3550905b25f431e1cd662b0e76c0502846cb32e77ef68b740",
        "5a2f2fc808221f14192512fe56ed51b114f11a2ea767649bdd765135b24d9974",
    ),
    (
        129,
        "e492d25fc4c447a3d0db60899e09b83234af854d380d1d226a5dec20944348e3",
        "eaa993313c658ff8681696fad3bb950d48667be6fec163ceac8f4382206bb217",
    ),
    (
        16384,
        "ba0df93803d7ed5ef983efa534aba0ccc6ab46ec55843c28df4c2e6d211e1d8b",
        "bd7240d58721eda9aad273e6a93bc27304ad5c38cbe2736a76bee464cb484fad",
    ),
    (
        16385,
        "7a40b4325a5f29450f736edf03e0c559a0fb5c58f2c599e12d47222f99632e91",
        "09548f0b4a3e5f671e067f7ca896dc7595b0b76fcbb68530987a22f1d5b46b28",
    ),
];

/// What passes for an EROFS image of so many blocks: its superblock, then in each block the block's number, over and
/// over, and in every seventh zeros.
fn image(blocks: u32) -> Vec<u8> {
    let mut image = vec![0; BLOCK];
    image[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
    image[1024 + 12] = 12;
    image[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
    for number in 1..u64::from(blocks) {
        let word = if number % 7 == 3 { 0 } else { number };
        image.extend(word.to_le_bytes().repeat(BLOCK / 8));
    }
    image
}

fn formatted(blocks: u32) -> (RootHash, Vec<u8>) {
    let mut image = Cursor::new(image(blocks));
    let root = append(&mut image, UUID).unwrap();
    (root, image.into_inner())
}

fn on_disk(image: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    file
}

#[test]
fn the_bytes_are_those_of_veritysetup() {
    for (blocks, root, tree) in GOLDEN {
        let (found, image) = formatted(blocks);
        assert_eq!(found.to_string(), root, "{blocks}");
        let behind = Sha256::digest(&image[blocks as usize * BLOCK..]);
        let behind: String = behind.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(behind, tree, "{blocks}");
        let (read, layout) = read_root(&on_disk(&image)).unwrap();
        assert_eq!(read, found, "{blocks}");
        assert_eq!(layout.end(), image.len() as u64, "{blocks}");
    }
}

/// The program where a Debian has it, or else in the checkout's forky root, which has libraries of its own.
fn veritysetup(directory: &Path) -> Option<(Command, PathBuf)> {
    if Path::new("/usr/sbin/veritysetup").exists() {
        return Some((Command::new("/usr/sbin/veritysetup"), directory.to_owned()));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/forky");
    let chroot = Path::new("/usr/sbin/chroot");
    // It is mounted read-only wherever it is used, and nothing but this test writes to its /tmp.
    if !root.join("usr/sbin/veritysetup").exists() || !chroot.exists() {
        return None;
    }
    let mut command = Command::new(chroot);
    command.arg(&root).arg("/usr/sbin/veritysetup");
    Some((command, root.join("tmp")))
}

#[test]
fn veritysetup_accepts_what_we_write() {
    let own = tempfile::tempdir().unwrap();
    let Some((_, directory)) = veritysetup(own.path()) else {
        eprintln!("SKIPPED: no veritysetup; run tools/forky-root");
        return;
    };
    let shared = tempfile::tempdir_in(&directory).unwrap();
    let inside = |name: &str| match directory == own.path() {
        true => shared.path().join(name),
        false => Path::new("/tmp").join(shared.path().file_name().unwrap()).join(name),
    };
    for blocks in [2, 129, 16385] {
        let (root, mut image) = formatted(blocks);
        fs::write(shared.path().join("image"), &image).unwrap();
        let offset = format!("--hash-offset={}", u64::from(blocks) * BLOCK as u64);
        let verify = || {
            let (mut command, _) = veritysetup(own.path()).unwrap();
            let path = inside("image");
            command.arg("verify").arg(&path).arg(&path).arg(root.to_string()).arg(&offset);
            command.output().unwrap()
        };
        let output = verify();
        if String::from_utf8_lossy(&output.stderr).contains("Operation not permitted") {
            eprintln!("SKIPPED: no right to enter the forky root");
            return;
        }
        assert!(output.status.success(), "{blocks}: {}", String::from_utf8_lossy(&output.stderr));
        image[BLOCK + 5] ^= 1;
        fs::write(shared.path().join("image"), &image).unwrap();
        assert!(!verify().status.success(), "{blocks}");
    }
}

#[test]
fn a_second_append_changes_nothing() {
    let (root, once) = formatted(129);
    let mut image = Cursor::new(once.clone());
    assert_eq!(append(&mut image, UUID).unwrap(), root);
    assert_eq!(image.into_inner(), once);
}

#[test]
fn what_is_no_image_gets_no_tree() {
    let kind = |bytes: &[u8]| append(&mut Cursor::new(bytes.to_vec()), UUID).unwrap_err().kind();
    assert_eq!(kind(&[0; 2 * BLOCK]), ErrorKind::InvalidData);
    assert_eq!(kind(&[0; 100]), ErrorKind::UnexpectedEof);
    assert_eq!(kind(&image(5)[..5 * BLOCK - 1]), ErrorKind::UnexpectedEof);
}

/// An image that was formatted, and then changed.
fn hostile(blocks: u32, change: impl FnOnce(&mut Vec<u8>)) -> ReadError {
    let (_, mut image) = formatted(blocks);
    change(&mut image);
    read_root(&on_disk(&image)).unwrap_err()
}

#[test]
fn superblocks_that_lie_are_refused_by_name() {
    let superblock = |blocks: u32, data_blocks: u64| {
        move |image: &mut Vec<u8>| {
            let at = blocks as usize * BLOCK;
            let bytes = Superblock { data_blocks, uuid: UUID }.to_bytes();
            image[at..at + BLOCK].copy_from_slice(&bytes);
        }
    };
    let format = |error| match error {
        ReadError::Format(error) => error,
        error => panic!("{error}"),
    };
    // A tree that is right for fewer blocks than the file system has would leave the rest unverified.
    for claimed in [1, 4, 6, 128] {
        let error = format(hostile(5, superblock(5, claimed)));
        assert_eq!(error, FormatError::Covers { verity: claimed, erofs: 5 });
    }
    let erofs_claims = |blocks: u8| move |image: &mut Vec<u8>| image[1024 + 36] = blocks;
    assert_eq!(format(hostile(5, erofs_claims(4))), FormatError::NoSuperblock);
    assert_eq!(format(hostile(5, erofs_claims(6))), FormatError::NoSuperblock);
    assert!(matches!(hostile(5, erofs_claims(200)), ReadError::Short { .. }));
    assert_eq!(format(hostile(5, |image| image[1024] = 0)), FormatError::NotErofs);
    assert_eq!(format(hostile(5, |image| image[5 * BLOCK] = 0)), FormatError::NoSuperblock);
}

#[test]
fn a_short_disk_is_refused_wherever_it_ends() {
    let (_, image) = formatted(129);
    let end = usize::try_from(Layout::of(129).unwrap().end()).unwrap();
    assert_eq!(image.len(), end);
    for length in [0, 1024, BLOCK, 129 * BLOCK, 129 * BLOCK + 511, 130 * BLOCK, end - 1] {
        let error = hostile(129, |image| image.truncate(length));
        assert!(matches!(error, ReadError::Short { .. }), "{length}: {error}");
    }
}

#[test]
fn another_tree_is_another_root_hash() {
    let (root, mut image) = formatted(129);
    let top = usize::try_from(Layout::of(129).unwrap().top()).unwrap();
    image[top] ^= 1;
    assert_ne!(read_root(&on_disk(&image)).unwrap().0, root);
}

/// The kernel's view: from the root hash down to a data block.
fn verified(image: &File, root: RootHash, block: u64) -> bool {
    let layout = Layout::of(
        Superblock::parse(&{
            let mut bytes = [0; 512];
            image.read_exact_at(&mut bytes, verity::erofs_bytes(&head(image)).unwrap()).unwrap();
            bytes
        })
        .unwrap()
        .data_blocks,
    )
    .unwrap();
    let mut expected = *root.as_bytes();
    let places = layout.levels().iter().zip((0..layout.levels().len() as u64).rev()).map(|(level, above)| {
        let index = block >> (7 * above);
        (level.offset + index / 128 * BLOCK as u64, (index % 128) as usize)
    });
    for (offset, slot) in places.chain([(block * BLOCK as u64, 0)]) {
        let mut bytes = [0; BLOCK];
        image.read_exact_at(&mut bytes, offset).unwrap();
        if *verity::root_of(&bytes).as_bytes() != expected {
            return false;
        }
        expected.copy_from_slice(&bytes[slot * 32..slot * 32 + 32]);
    }
    true
}

fn head(image: &File) -> [u8; 2048] {
    let mut head = [0; 2048];
    image.read_exact_at(&mut head, 0).unwrap();
    head
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_block_is_reached_from_the_root_and_a_changed_bit_is_found(
        blocks in prop_oneof![1_u32..5, 120..140_u32, 1000..1100_u32],
        at: prop::sample::Index,
        bit in 0_usize..BLOCK * 8,
    ) {
        let (root, mut image) = formatted(blocks);
        let block = at.index(blocks as usize);
        prop_assert!(verified(&on_disk(&image), root, block as u64));
        // The first block says where everything is, so leave that alone.
        if block > 0 {
            image[block * BLOCK + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verified(&on_disk(&image), root, block as u64));
        }
    }

    #[test]
    fn any_bytes_behind_an_image_are_read_without_a_panic(
        blocks in 1_u32..4,
        at in 0_usize..BLOCK,
        bytes in prop::collection::vec(any::<u8>(), 1..64),
        cut: prop::sample::Index,
    ) {
        let (_, mut image) = formatted(blocks);
        let start = blocks as usize * BLOCK + at;
        for (to, from) in image.iter_mut().skip(start).zip(bytes) {
            *to = from;
        }
        image.truncate(cut.index(image.len() + 1));
        let _ = read_root(&on_disk(&image));
    }
}
