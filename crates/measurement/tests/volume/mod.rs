//! Builds the packed volume of a firmware, as far as it tells who accepts memory and what is measured. It holds names and no
//! drivers.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;

use lzma_rust2::{LzmaOptions, LzmaWriter};

/// edk2's TdxDxe: its file, and `EDKII_MEMORY_ACCEPT_PROTOCOL`.
pub const TDX: [&str; 2] = ["e750224e-7bce-40af-b5bb-47e3611eb5c2", "38c74800-5590-4db4-a0f3-675d9b8e8026"];
/// edk2's AmdSevDxe: its file, and `OVMF_SEV_MEMORY_ACCEPTANCE_PROTOCOL`.
pub const SNP: [&str; 2] = ["2ec9da37-ee35-4de9-86c5-6d9a81dc38a7", "c5a010fe-38a7-4531-8a4a-0500d2fd1649"];

/// edk2's SmbiosMeasurementDxe.
pub const SMBIOS_MEASUREMENT: &str = "d27fed59-abb4-4fed-bead-2a878c7e4a7e";

/// The text of the events by which edk2 measures ACPI tables.
pub const ACPI_EVENT: &str = "ACPI DATA";
/// What RTMR0 is predicted for: a firmware that is for TDX and measures ACPI tables.
pub const PREDICTED: [&str; 3] = [TDX[0], TDX[1], ACPI_EVENT];

const LZMA: &str = "ee4e5898-3914-4259-9d6e-dc7bd79403cf";

/// A section that holds these GUIDs and texts among zeros.
pub fn section(names: &[&str]) -> Vec<u8> {
    let mut volume = vec![0; 0x5000];
    for (at, name) in names.iter().enumerate() {
        let at = 0x1004 + at * 0x1000;
        let bytes = if name.len() == 36 { guid_bytes(name) } else { name.as_bytes().to_vec() };
        volume[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    around(&pack(&volume))
}

/// A section around packed bytes, or what passes for them.
pub fn around(packed: &[u8]) -> Vec<u8> {
    let size = u32::try_from(24 + packed.len()).unwrap().to_le_bytes();
    [&size[..3], &[2], &guid_bytes(LZMA), &[24, 0, 1, 0], packed].concat()
}

/// `bytes` as edk2 packs them: LZMA with its old header.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let options = LzmaOptions::with_preset(1);
    let size = Some(bytes.len() as u64);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, size).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn guid_bytes(text: &str) -> Vec<u8> {
    let hex: String = text.split('-').collect();
    let bytes: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].iter().map(|i| bytes[*i]).collect()
}
