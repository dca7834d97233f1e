//! SNP's report, taken apart as Trustee's verifier reads it: not its bytes, but the JSON of crate `sev`'s type
//! (`deps/verifier/src/snp/mod.rs`). The verifier puts the bytes together again and checks the signature over them, so nothing
//! here is believed.
//!
//! Layout: AMD 56860 (SEV-SNP Firmware ABI) 1.58, table 23. Versions 3 to 5 of it.

use serde_json::{Value, json};

use super::EvidenceError;

/// Length of a report.
const LENGTH: usize = 1184;
/// Versions that the verifier takes.
const VERSIONS: std::ops::RangeInclusive<u32> = 3..=5;
/// The family of Turin and what comes after it, whose versions (TCB) have another order.
const TURIN: u8 = 0x1a;

/// The report over `data` as evidence. The verifier fetches the chip's certificate itself: QEMU hands none to the guest.
///
/// # Errors
///
/// [`EvidenceError::Malformed`] for what is no report of this question.
pub fn evidence(report: &[u8], data: &[u8; 64]) -> Result<Value, EvidenceError> {
    let malformed = |what: &str| EvidenceError::Malformed(what.to_owned());
    let report: &[u8; LENGTH] = report.try_into().map_err(|_| malformed("its length is another"))?;
    let report = Report(report);
    if !VERSIONS.contains(&report.word(0)) {
        return Err(malformed("its version is not known"));
    }
    if report.at(0x50, 64) != data {
        return Err(malformed("it is over other data than was asked for"));
    }
    if report.word(0x30) != 0 {
        return Err(malformed("it is of another level of privilege (VMPL) than 0, which no verifier takes"));
    }
    Ok(json!({ "attestation_report": report.parts(), "cert_chain": null }))
}

struct Report<'a>(&'a [u8; LENGTH]);

impl Report<'_> {
    fn at(&self, place: usize, length: usize) -> &[u8] {
        &self.0[place..place + length]
    }

    fn word(&self, place: usize) -> u32 {
        self.0[place..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn long(&self, place: usize) -> u64 {
        self.0[place..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Versions of the firmware's parts.
    fn tcb(&self, place: usize) -> Value {
        let [a, b, c, d, .., g, h] = self.0[place..].first_chunk::<8>().copied().unwrap_or_default();
        if self.0[0x188] >= TURIN {
            json!({ "fmc": a, "bootloader": b, "tee": c, "snp": d, "microcode": h })
        } else {
            json!({ "fmc": null, "bootloader": a, "tee": b, "snp": g, "microcode": h })
        }
    }

    /// A version of the firmware: build, minor and major, in this order.
    fn version(&self, place: usize) -> Value {
        let [build, minor, major] = self.0[place..].first_chunk::<3>().copied().unwrap_or_default();
        json!({ "major": major, "minor": minor, "build": build })
    }

    fn parts(&self) -> Value {
        // Since version 5; earlier ones have zeros there.
        let mitigations = |place| if self.word(0) < 5 { Value::Null } else { self.long(place).into() };
        json!({
            "version": self.word(0),
            "guest_svn": self.word(0x4),
            "policy": self.long(0x8),
            "family_id": self.at(0x10, 16),
            "image_id": self.at(0x20, 16),
            "vmpl": self.word(0x30),
            "sig_algo": self.word(0x34),
            "current_tcb": self.tcb(0x38),
            "plat_info": self.long(0x40),
            "key_info": self.word(0x48),
            "report_data": self.at(0x50, 64),
            "measurement": self.at(0x90, 48),
            "host_data": self.at(0xc0, 32),
            "id_key_digest": self.at(0xe0, 48),
            "author_key_digest": self.at(0x110, 48),
            "report_id": self.at(0x140, 32),
            "report_id_ma": self.at(0x160, 32),
            "reported_tcb": self.tcb(0x180),
            "cpuid_fam_id": self.0[0x188],
            "cpuid_mod_id": self.0[0x189],
            "cpuid_step": self.0[0x18a],
            "chip_id": self.at(0x1a0, 64),
            "committed_tcb": self.tcb(0x1e0),
            "current": self.version(0x1e8),
            "committed": self.version(0x1ec),
            "launch_tcb": self.tcb(0x1f0),
            "launch_mit_vector": mitigations(0x1f8),
            "current_mit_vector": mitigations(0x200),
            "signature": { "r": self.at(0x2a0, 72), "s": self.at(0x2e8, 72) },
        })
    }
}

#[cfg(test)]
mod tests {
    use sev::firmware::guest::AttestationReport;
    use sev::parser::ByteParser as _;

    use super::*;

    /// A report with other bytes in each place that has a meaning.
    fn report(version: u32, family: u8) -> [u8; LENGTH] {
        let mut report = [0; LENGTH];
        let mut fill = |places: std::ops::Range<usize>| {
            for (byte, at) in report[places.clone()].iter_mut().zip(places) {
                *byte = u8::try_from(at * 7 % 251).unwrap() | 1;
            }
        };
        for places in
            [0x4..0x8, 0x10..0x30, 0x50..0x188, 0x1a0..0x1e0, 0x1e8..0x1eb, 0x1ec..0x1ef, 0x2a0..0x330]
        {
            fill(places);
        }
        let tcb: &[usize] = if family >= TURIN { &[0, 1, 2, 3, 7] } else { &[0, 1, 6, 7] };
        for place in [0x38, 0x180, 0x1e0, 0x1f0] {
            report[place..place + 8].fill(0);
            for at in tcb {
                report[place + at] = u8::try_from((place + at) % 200).unwrap() | 2;
            }
        }
        report[..4].copy_from_slice(&version.to_le_bytes());
        report[8..16].copy_from_slice(&0x30000_u64.to_le_bytes());
        report[0x34] = 1;
        report[0x40] = 0x25;
        report[0x48] = 1;
        report[0x188..0x18b].copy_from_slice(&[family, 0x11, 0x01]);
        if version >= 5 {
            report[0x1f8] = 9;
            report[0x200] = 11;
        }
        report
    }

    fn data(report: &[u8; LENGTH]) -> &[u8; 64] {
        report[0x50..].first_chunk().unwrap()
    }

    #[test]
    fn the_parts_are_those_of_the_verifiers_own_type() {
        for (version, family) in [(3, 0x19), (4, 0x19), (3, TURIN), (5, 0x19), (5, TURIN)] {
            let report = report(version, family);
            let parts = AttestationReport::from_bytes(&report).unwrap();
            let expected = json!({ "attestation_report": parts, "cert_chain": null });
            assert_eq!(evidence(&report, data(&report)).unwrap(), expected, "{version} {family:#x}");
        }
    }

    #[test]
    fn what_is_no_report_of_this_question_is_said() {
        let honest = report(3, 0x19);
        let refused = |change: fn(&mut [u8; LENGTH])| {
            let mut report = honest;
            change(&mut report);
            evidence(&report, data(&honest)).unwrap_err().to_string()
        };
        assert!(refused(|report| report[0] = 2).contains("version"));
        assert!(refused(|report| report[0] = 6).contains("version"));
        assert!(refused(|report| report[0x50] ^= 1).contains("other data"));
        assert!(refused(|report| report[0x30] = 1).contains("VMPL"));
        assert!(evidence(&honest[1..], data(&honest)).unwrap_err().to_string().contains("length"));
    }
}
