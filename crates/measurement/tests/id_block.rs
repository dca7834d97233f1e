//! ID blocks against another implementation's.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use measurement::snp::LaunchDigest;
use measurement::snp::id_block::{AUTH, BLOCK, IdBlock, IdBlockError, Policy, SignedIdBlock};

// Written by `snp-create-id-block` of sev-snp-measure 0.0.13 (PyPI) with two keys made for it and thrown away.
const BLOCK_BASE64: &str = include_str!("data/id-block.base64");
const AUTH_BASE64: &str = include_str!("data/id-auth.base64");
const DIGEST: &str =
    "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa";
const ID_KEY: &str =
    "dba89724d507aefe4a3835f393e90d4b7c6c8738a6647f8c6191fdd0b6f4c095ac554f0d776c043cbe9a81e64975bf81";
const AUTHOR_KEY: &str =
    "f12d98b722bd23d5d7dbf2e08c5a99ba7e719648640c006da6f4388206d9c7b60cfc6b7142c60256c051e19e7fcd9408";

fn theirs() -> (Vec<u8>, Vec<u8>) {
    let decode = |text: &str| BASE64_STANDARD.decode(text.trim_end()).unwrap();
    (decode(BLOCK_BASE64), decode(AUTH_BASE64))
}

fn digest() -> LaunchDigest {
    LaunchDigest::from_digest(DIGEST.parse().unwrap())
}

#[test]
fn their_block_is_ours_and_their_signatures_hold() {
    let (block, auth) = theirs();
    let signed = SignedIdBlock::verify(&block, &auth, digest()).unwrap();
    let expected = IdBlock {
        launch_digest: digest(),
        family_id: [0; 16],
        image_id: [0; 16],
        guest_svn: 0,
        policy: Policy::DEFAULT,
    };
    assert_eq!(*signed.block(), expected);
    assert_eq!(expected.encode()[..], block);
    assert_eq!(signed.id_key_digest().to_string(), ID_KEY);
    assert_eq!(signed.author_key_digest().to_string(), AUTHOR_KEY);
}

#[test]
fn one_bit_anywhere_is_refused() {
    let (block, auth) = theirs();
    for at in 0..BLOCK {
        let mut block = block.clone();
        block[at] ^= 1;
        assert!(SignedIdBlock::verify(&block, &auth, digest()).is_err(), "byte {at} of the block");
    }
    // Each part of the authentication: its fields' first and last bytes, and the reserved ones between.
    for at in (0..AUTH).filter(|at| at % 0x40 < 8 || (0x3f..0x48).contains(&(at % 0x240))) {
        let mut auth = auth.clone();
        auth[at] ^= 1;
        assert!(
            SignedIdBlock::verify(&block, &auth, digest()).is_err(),
            "byte {at:#x} of the authentication"
        );
    }
}

#[test]
fn another_guest_and_other_sizes_are_refused() {
    let (block, auth) = theirs();
    let guest = LaunchDigest::from_digest(measurement::Sha384Digest::of(b"another"));
    let error = SignedIdBlock::verify(&block, &auth, guest).unwrap_err();
    assert_eq!(error, IdBlockError::Digest { block: digest(), guest });
    let error = SignedIdBlock::verify(&block[1..], &auth, digest()).unwrap_err();
    assert_eq!(error, IdBlockError::Length { what: "ID block", length: 95, expected: 96 });
    let error = SignedIdBlock::verify(&block, &auth[..AUTH - 1], digest()).unwrap_err();
    assert_eq!(error, IdBlockError::Length { what: "ID authentication", length: 4095, expected: 4096 });
}
