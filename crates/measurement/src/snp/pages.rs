//! The chain of pages that SNP's launch digest is (AMD 56860, 8.17.2, structure `PAGE_INFO`).

use sha2::{Digest as _, Sha384};

use crate::Sha384Digest;
use crate::ovmf::PAGE;

/// Size of `PAGE_INFO` in bytes.
const INFO: u16 = 0x70;

/// Address under which every VMSA is measured: -1, as a page address of 48 bits (Linux, `arch/x86/kvm/svm/sev.c`).
const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// What a page holds, as `PAGE_TYPE`.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// The digest of the pages so far.
#[derive(Debug, Default)]
pub(super) struct PageChain(Option<Sha384Digest>);

impl PageChain {
    /// Goes on after a known value.
    pub(super) const fn after(digest: Sha384Digest) -> Self {
        Self(Some(digest))
    }

    /// The value.
    pub(super) fn finish(self) -> Sha384Digest {
        self.0.unwrap_or(Sha384Digest::ZERO)
    }

    /// Pages with content, from `at` on.
    pub(super) fn normal(&mut self, at: u64, content: &[u8]) {
        for (address, page) in (at..).step_by(PAGE).zip(content.chunks(PAGE)) {
            self.add(PageType::Normal, address, Sha384Digest::of(page));
        }
    }

    /// A page of zeros.
    pub(super) fn zero(&mut self, at: u64) {
        self.add(PageType::Zero, at, Sha384Digest::ZERO);
    }

    /// The secrets page.
    pub(super) fn secrets(&mut self, at: u64) {
        self.add(PageType::Secrets, at, Sha384Digest::ZERO);
    }

    /// The CPUID page.
    pub(super) fn cpuid(&mut self, at: u64) {
        self.add(PageType::Cpuid, at, Sha384Digest::ZERO);
    }

    /// `count` vCPUs with the same register state.
    pub(super) fn vmsa(&mut self, page: &[u8; PAGE], count: u16) {
        let content = Sha384Digest::of(page);
        for _ in 0..count {
            self.add(PageType::Vmsa, VMSA_GPA, content);
        }
    }

    fn add(&mut self, page_type: PageType, at: u64, content: Sha384Digest) {
        let before = self.0.unwrap_or(Sha384Digest::ZERO);
        let mut hash = Sha384::new();
        hash.update(before.as_bytes());
        hash.update(content.as_bytes());
        hash.update(INFO.to_le_bytes());
        // Not an initial migration image; no permissions for VMPL 3, 2 and 1; reserved.
        hash.update([page_type as u8, 0, 0, 0, 0, 0]);
        hash.update(at.to_le_bytes());
        self.0 = Some(Sha384Digest::finish(hash));
    }
}
