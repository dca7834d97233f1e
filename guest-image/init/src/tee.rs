//! Whether this is a confidential VM, and of which kind.

use std::path::Path;

use crate::sys::cpuid;

/// A kind of confidential VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl Tee {
    /// The device through which the CPU's report is read, by its name in sysfs.
    pub const fn device(self) -> &'static str {
        match self {
            Tee::Snp => "sev-guest",
            Tee::Tdx => "tdx_guest",
        }
    }
}

/// What the processor says of itself, as far as it is asked here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Processor {
    /// EBX, EDX, ECX of leaf 0x21 (Intel, "TDX Module ABI", CPUID virtualization).
    leaf_21: [u32; 3],
    /// EAX of leaf 0x8000001f (AMD, "APM" volume 3, appendix E.4.17).
    leaf_8000001f: u32,
}

/// The VM is two kinds at once: somebody lies.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this machine says that it is a TDX guest and an SEV-SNP guest at once")]
pub struct Both;

/// The kind of this VM, or none. The processor says it, and so does the kernel by the device that it makes in such a VM
/// only (`sys` is /sys): one of both is enough, for whoever hides one would otherwise be believed to be no confidential VM,
/// and with it any initdata.
///
/// # Errors
///
/// [`Both`].
pub fn detect(sys: &Path) -> Result<Option<Tee>, Both> {
    decide(sys, ask())
}

fn ask() -> Processor {
    let mut answer = Processor::default();
    if cpuid(0)[0] >= 0x21 {
        let [_, ebx, ecx, edx] = cpuid(0x21);
        answer.leaf_21 = [ebx, edx, ecx];
    }
    if cpuid(0x8000_0000)[0] >= 0x8000_001f {
        answer.leaf_8000001f = cpuid(0x8000_001f)[0];
    }
    answer
}

fn decide(sys: &Path, processor: Processor) -> Result<Option<Tee>, Both> {
    let text: Vec<u8> = processor.leaf_21.into_iter().flat_map(u32::to_le_bytes).collect();
    let device = |tee: Tee| sys.join("class/misc").join(tee.device()).exists();
    let tdx = text == b"IntelTDX    " || device(Tee::Tdx);
    let snp = processor.leaf_8000001f & 1 << 4 != 0 || device(Tee::Snp);
    match (tdx, snp) {
        (true, true) => Err(Both),
        (true, false) => Ok(Some(Tee::Tdx)),
        (false, true) => Ok(Some(Tee::Snp)),
        (false, false) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TDX: Processor = Processor { leaf_21: [0x6574_6e49, 0x5844_546c, 0x2020_2020], leaf_8000001f: 0 };
    const SNP: Processor = Processor { leaf_21: [0; 3], leaf_8000001f: 0x1a };

    #[test]
    fn the_processor_says_it() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(decide(sys.path(), TDX), Ok(Some(Tee::Tdx)));
        assert_eq!(decide(sys.path(), SNP), Ok(Some(Tee::Snp)));
        // SEV and SEV-ES alone have no report.
        let sev = Processor { leaf_8000001f: 0xa, ..Processor::default() };
        assert_eq!(decide(sys.path(), sev), Ok(None));
        let both = Processor { leaf_8000001f: 0x10, ..TDX };
        assert_eq!(decide(sys.path(), both), Err(Both));
    }

    #[test]
    fn a_processor_that_hides_it_is_given_away_by_the_kernel() {
        for tee in [Tee::Snp, Tee::Tdx] {
            let sys = tempfile::tempdir().unwrap();
            fs::create_dir_all(sys.path().join("class/misc").join(tee.device())).unwrap();
            assert_eq!(decide(sys.path(), Processor::default()), Ok(Some(tee)));
        }
    }

    #[test]
    fn asking_this_processor_does_no_harm() {
        let _ = detect(Path::new("/nowhere"));
    }
}
