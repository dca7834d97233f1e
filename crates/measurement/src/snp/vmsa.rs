//! The register state (VMSA) with which KVM starts a vCPU that QEMU has reset.
//!
//! Offsets: AMD, "APM Volume 2" (24593), table B-4. Values: what QEMU's x86 reset sets, plus what KVM adds
//! (EFER.SVME, CR4.MCE). All else is zero.

use super::{CpuSignature, GuestFeatures, PAGE};

/// Where the first vCPU starts: the x86 reset vector.
pub(super) const BOOT_EIP: u32 = 0xffff_fff0;

/// The VMSA of a vCPU that starts at `eip`.
pub(super) fn page(eip: u32, cpu: CpuSignature, features: GuestFeatures) -> [u8; PAGE] {
    let mut vmsa = Vmsa([0; PAGE]);
    let data = Segment { selector: 0, attributes: 0x93, base: 0 };
    vmsa.segment(0x00, data); // ES
    vmsa.segment(0x10, Segment { selector: 0xf000, attributes: 0x9b, base: eip & 0xffff_0000 }); // CS
    vmsa.segment(0x20, data); // SS
    vmsa.segment(0x30, data); // DS
    vmsa.segment(0x40, data); // FS
    vmsa.segment(0x50, data); // GS
    vmsa.segment(0x60, Segment { attributes: 0, ..data }); // GDTR
    vmsa.segment(0x70, Segment { attributes: 0x82, ..data }); // LDTR
    vmsa.segment(0x80, Segment { attributes: 0, ..data }); // IDTR
    vmsa.segment(0x90, Segment { attributes: 0x8b, ..data }); // TR
    vmsa.quad(0x0d0, 0x1000); // EFER: SVME
    vmsa.quad(0x148, 0x40); // CR4: MCE
    vmsa.quad(0x158, 0x10); // CR0: ET
    vmsa.quad(0x160, 0x400); // DR7
    vmsa.quad(0x168, 0xffff_0ff0); // DR6
    vmsa.quad(0x170, 0x2); // RFLAGS
    vmsa.quad(0x178, u64::from(eip & 0xffff)); // RIP
    vmsa.quad(0x268, 0x0007_0406_0007_0406); // G_PAT
    vmsa.quad(0x310, u64::from(cpu.bits())); // RDX
    vmsa.quad(0x3b0, features.bits()); // SEV_FEATURES
    vmsa.quad(0x3e8, 0x1); // XCR0: x87
    vmsa.bytes(0x408, &0x1f80_u32.to_le_bytes()); // MXCSR
    vmsa.bytes(0x410, &0x037f_u16.to_le_bytes()); // x87 FCW
    vmsa.0
}

#[derive(Clone, Copy)]
struct Segment {
    selector: u16,
    attributes: u16,
    base: u32,
}

struct Vmsa([u8; PAGE]);

impl Vmsa {
    fn bytes(&mut self, offset: usize, value: &[u8]) {
        self.0[offset..offset + value.len()].copy_from_slice(value);
    }

    fn quad(&mut self, offset: usize, value: u64) {
        self.bytes(offset, &value.to_le_bytes());
    }

    fn segment(&mut self, offset: usize, Segment { selector, attributes, base }: Segment) {
        self.bytes(offset, &selector.to_le_bytes());
        self.bytes(offset + 2, &attributes.to_le_bytes());
        self.bytes(offset + 4, &0xffff_u32.to_le_bytes());
        self.quad(offset + 8, u64::from(base));
    }
}
