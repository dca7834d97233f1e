//! Firmware, kernels, initdata and ID blocks: files of the host, and annotations of a pod.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use measurement::ovmf::{Firmware, PAGE};
use measurement::snp::id_block::SignedIdBlock;
use measurement::snp::{CpuSignature, Guest, GuestFeatures, LaunchDigest, VcpuCount, launch_digest};
use measurement::tdx::{PageOrder, acpi_files, mrtd, rtmr1};
use measurement::{Sha384Digest, initdata};

/// Memory whose digests are computed, too, in bytes. More takes long and shows nothing new.
const MEASURED: u64 = 1 << 20;

/// The end of a firmware image, where all that is read lies; it is filled up to whole pages.
pub(super) fn firmware(input: &[u8]) {
    let mut image = vec![0; input.len().next_multiple_of(PAGE) - input.len()];
    image.extend(input);
    let Ok(firmware) = Firmware::parse(&image) else { return };
    let _ = (firmware.kind(), firmware.snp_acceptance(), firmware.tdx_acceptance());
    if let Ok(Some(sev)) = firmware.sev() {
        let covered: u64 = sev.sections().iter().map(|section| section.range.size()).sum();
        if covered <= MEASURED
            && let (Ok(vcpus), Ok(cpu)) = (VcpuCount::new(2), CpuSignature::of_model("EPYC-Genoa"))
        {
            let guest = Guest { vcpus, cpu, features: GuestFeatures::SNP, kernel: None };
            let _ = launch_digest(&firmware, &guest);
        }
    }
    if let Ok(Some(tdvf)) = firmware.tdvf() {
        let covered: u64 = tdvf.sections().iter().map(|section| section.range.size()).sum();
        if covered <= MEASURED {
            let _ = mrtd(&firmware, PageOrder::SinglePass);
            let _ = mrtd(&firmware, PageOrder::TwoPass);
        }
    }
}

/// A kernel, read as the PE image that the firmware starts.
pub(super) fn pe(input: &[u8]) {
    let _ = rtmr1(input);
}

/// A document, and its way through annotation and disk.
pub(super) fn initdata_document(input: &[u8]) {
    let Ok(document) = initdata::InitData::parse(input.to_vec()) else { return };
    let _ = (document.host_data(), document.mr_config_id());
    if let Ok(text) = initdata::annotation::encode(&document) {
        assert_eq!(initdata::annotation::decode(&text).ok().as_ref(), Some(&document));
    }
    if let Ok(disk) = initdata::disk::encode(&document) {
        assert_eq!(initdata::disk::decode(&disk).ok().as_ref(), Some(&document));
    }
}

/// An annotation's text.
pub(super) fn initdata_annotation(input: &[u8]) {
    if let Ok(text) = str::from_utf8(input) {
        let _ = initdata::annotation::decode(text);
    }
}

/// What an annotation is the Base64 of.
pub(super) fn initdata_gzip(input: &[u8]) {
    let _ = initdata::annotation::decode(&BASE64_STANDARD.encode(input));
}

/// The disk, as PID 1 finds it.
pub(super) fn initdata_disk(input: &[u8]) {
    let _ = initdata::disk::decode(input);
}

/// An ID block of 96 bytes, and its authentication.
pub(super) fn id_block(input: &[u8]) {
    let (block, auth) = input.split_at(input.len().min(96));
    let guest = LaunchDigest::from_digest(Sha384Digest::ZERO);
    let _ = SignedIdBlock::verify(block, auth, guest);
}

/// QEMU's script for ACPI tables: a command names one file, and that briefly.
pub(super) fn acpi_script(input: &[u8]) {
    if let Ok(names) = acpi_files(input) {
        assert!(names.len() <= input.len() / 128);
        assert!(names.iter().all(|name| (1..56).contains(&name.len())), "{names:?}");
    }
}
