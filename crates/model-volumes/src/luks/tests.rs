use std::io::{self, Cursor, Read};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::header::{self, CHECKSUM, checksum};
use super::*;
use crate::superblock::{HEAD, Uuid, uuid};

const PASSPHRASE: &[u8] = b"the model's key";

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Read for Random {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        for byte in to.iter_mut() {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_be_bytes()[0];
        }
        Ok(to.len())
    }
}

fn made(content: &[u8]) -> Vec<u8> {
    let mut disk = Cursor::new(Vec::new());
    let uuid = Uuid::of_random([7; 16]);
    write(&mut disk, &mut &*content, uuid, PASSPHRASE, &mut Random(1)).unwrap();
    disk.into_inner()
}

/// The disk in a file, as the guest has it.
fn file(disk: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, disk).unwrap();
    file
}

fn opened(disk: &[u8], passphrase: &[u8]) -> Result<Mapping, LuksError> {
    open(&file(disk), disk.len() as u64, passphrase)
}

/// Changes the metadata in both areas, and makes the checksums fit: what a host can do.
fn forged(disk: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut disk = disk.to_vec();
    for offset in [0, 16 << 10] {
        let area = &mut disk[offset..offset + (16 << 10)];
        let end = area[HEAD..].iter().position(|byte| *byte == 0).unwrap();
        let mut json: Value = serde_json::from_slice(&area[HEAD..HEAD + end]).unwrap();
        change(&mut json);
        let text = json.to_string();
        area[HEAD..].fill(0);
        area[HEAD..HEAD + text.len()].copy_from_slice(text.as_bytes());
        let sum = checksum(area);
        area[CHECKSUM..CHECKSUM + 32].copy_from_slice(&sum);
    }
    disk
}

#[test]
fn what_is_written_is_opened_with_its_key_and_no_other() {
    let content: Vec<u8> = (0..10_000u32).map(|number| number.to_be_bytes()[3]).collect();
    let disk = made(&content);
    assert_eq!(uuid(&disk), Some(Uuid::of_random([7; 16])));
    let mapping = opened(&disk, PASSPHRASE).unwrap();
    assert_eq!((mapping.offset, mapping.size, mapping.sector, mapping.tweak), (DATA_START, 12288, 4096, 0));
    assert_eq!(mapping.key.hex().len(), 128);
    let mut plain = disk[usize::try_from(DATA_START).unwrap()..].to_vec();
    assert_ne!(plain[..content.len()], content);
    cipher::Cipher::new(mapping.key.as_bytes()).apply(cipher::Way::Decrypt, &mut plain, 4096, 0);
    assert_eq!(plain[..content.len()], content);
    for wrong in [&b"the model's kez"[..], b""] {
        let error = opened(&disk, wrong).unwrap_err();
        assert!(matches!(error, LuksError::WrongKey(1)), "{error}");
    }
}

/// IEEE 1619-2007, appendix B, vector 10: AES-256, data unit 0xff.
#[test]
fn the_cipher_is_xts_as_the_standard_has_it() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let key = hex(concat!(
        "2718281828459045235360287471352662497757247093699959574966967627",
        "3141592653589793238462643383279502884197169399375105820974944592"
    ));
    let mut data: Vec<u8> = (0..=255u8).cycle().take(512).collect();
    cipher::Cipher::new(&key.try_into().unwrap()).apply(cipher::Way::Encrypt, &mut data, 512, 0xff * 512);
    assert_eq!(data[..16], hex("1c3b3a102f770386e4836c99e370cf9b"));
    assert_eq!(data[496..], hex("c4f36ffda9fcea70b9c6e693e148c151"));
}

#[test]
fn a_header_of_the_hosts_opens_nothing_in_plain_text() {
    let disk = made(b"weights");
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 16] = [
        (|json| json["segments"]["0"]["encryption"] = json!("cipher_null-ecb"), "data's encryption"),
        (|json| json["segments"]["0"]["encryption"] = json!("aes-cbc-plain64"), "data's encryption"),
        (
            |json| json["keyslots"]["0"]["area"]["encryption"] = json!("cipher_null-ecb"),
            "key slot's encryption",
        ),
        (|json| json["segments"]["0"]["type"] = json!("linear"), "data segment's type"),
        (|json| json["segments"]["1"] = json["segments"]["0"].clone(), "no data segment, or several"),
        (|json| json["segments"]["0"]["sector_size"] = json!(0), "sector size"),
        (|json| json["segments"]["0"]["offset"] = json!("7"), "at a sector"),
        (|json| json["segments"]["0"]["size"] = json!("1099511627776"), "ends before its data"),
        (|json| json["segments"]["0"]["integrity"] = json!({"type": "none"}), "data's integrity"),
        (|json| json["digests"]["0"]["digest"] = json!(""), "another length"),
        (|json| json["digests"]["0"]["keyslots"] = json!([]), "none of its 0 key slots"),
        (|json| json["keyslots"]["0"]["kdf"]["iterations"] = json!(4_000_000_000u32), "number of iterations"),
        (|json| json["keyslots"]["0"]["af"]["stripes"] = json!(1), "number of stripes"),
        (|json| json["keyslots"]["0"]["kdf"]["salt"] = json!("AA=="), "a salt has 1 bytes"),
        (|json| json["keyslots"]["0"]["key_size"] = json!(32), "key's size"),
        (
            |json| json["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]}),
            "requirements",
        ),
    ];
    for (change, said) in changes {
        let error = opened(&forged(&disk, change), PASSPHRASE).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let argon = |kib: u32| {
        forged(&disk, move |json| {
            json["keyslots"]["0"]["kdf"] = json!({"type": "argon2id", "time": 1, "memory": kib, "cpus": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA=="});
        })
    };
    let error = opened(&argon(1 << 21), PASSPHRASE).unwrap_err().to_string();
    assert!(error.contains("at most 64 passes, 1 GiB"), "{error}");
    assert!(matches!(opened(&argon(64), PASSPHRASE), Err(LuksError::WrongKey(1))));
}

#[test]
fn a_torn_first_area_leaves_the_second_and_other_bytes_are_no_disk() {
    let disk = made(b"weights");
    let mut torn = disk.clone();
    torn[HEAD + 3] ^= 1;
    assert_eq!(opened(&torn, PASSPHRASE).unwrap(), opened(&disk, PASSPHRASE).unwrap());
    torn[(16 << 10) + HEAD + 3] ^= 1;
    assert!(matches!(opened(&torn, PASSPHRASE), Err(LuksError::Damaged("its checksum is another"))));
    assert!(matches!(opened(&[0; 8192], PASSPHRASE), Err(LuksError::Magic)));
    assert!(matches!(opened(&disk[..100], PASSPHRASE), Err(LuksError::Io { .. })));
    let short = &disk[..usize::try_from(DATA_START).unwrap()];
    assert!(matches!(opened(short, PASSPHRASE), Err(LuksError::Damaged(_))));
}

proptest! {
    #[test]
    fn any_metadata_is_read(text in "\\{(\"[a-z_0]{1,8}\": ?(\\{|\\[|\"[a-z0-9-]{0,8}\"|[0-9]{1,9})[\\]}]{0,2},?){0,9}\\}") {
        let _ = header::parse(text.as_bytes());
    }
}
