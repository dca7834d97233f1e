//! RTMR1 and RTMR2 of a kernel that QEMU hands to the firmware with `-kernel`.
//!
//! Sources: edk2, `OvmfPkg/Tcg/TdTcg2Dxe` (which events, and RTMR1 for PCRs 2 to 6, RTMR2 for PCR 8 and above) and
//! `OvmfPkg/Library/GenericQemuLoadImageLib` (the kernel's load options); Linux 6.9 and later,
//! `drivers/firmware/efi/libstub/efi-stub-helper.c` (what the kernel measures into PCR 9).

use super::log::{Event, EventLog};
use super::pe::{self, PeError};
use crate::Cmdline;

/// Where the firmware puts its `initrd=initrd` on the command line when there is an initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitrdOption {
    /// In front: edk2 since it knows QEMU's `-shim`, Debian's 2026.08 for one.
    Before,
    /// Behind: earlier edk2, Debian's 2022.11 and 2025.02 for two, and so what `guest-image/build firmware` makes.
    #[default]
    After,
}

/// The events of RTMR1: the kernel, and the firmware's way to it.
///
/// QEMU must hand over the kernel's file as it is. It does so for confidential guests from 10.2 on; earlier ones
/// patch the kernel's setup header first, depending on memory size and initrd.
///
/// # Errors
/// [`PeError`] for a kernel that is no PE image for x86-64, and so would not be started by the firmware.
pub fn rtmr1(kernel: &[u8]) -> Result<EventLog, PeError> {
    Ok(EventLog::new(vec![
        Event { name: "kernel (Authenticode)", digest: pe::authenticode_sha384(kernel)? },
        Event::of("boot attempt", b"Calling EFI Application from Boot Option"),
        Event::of("separator", &[0; 4]),
        Event::of("exit boot services", b"Exit Boot Services Invocation"),
        Event::of("boot services exited", b"Exit Boot Services Returned with Success"),
    ]))
}

/// The events of RTMR2: the command line and the initrd, as the kernel's EFI stub measures them.
///
/// An empty initrd is none. Without initrd and command line there are no events.
pub fn rtmr2(cmdline: Cmdline<'_>, initrd: Option<&[u8]>, option: InitrdOption) -> EventLog {
    let initrd = initrd.filter(|initrd| !initrd.is_empty());
    let text = cmdline.as_str();
    let options = match (initrd, option) {
        (None, _) => text.to_owned(),
        (Some(_), InitrdOption::Before) => format!("initrd=initrd {text}"),
        (Some(_), InitrdOption::After) => format!("{text} initrd=initrd"),
    };
    let mut events = Vec::new();
    if !options.is_empty() {
        let utf16: Vec<u8> = options.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        events.push(Event::of("load options", &utf16));
    }
    events.extend(initrd.map(|initrd| Event::of("initrd", initrd)));
    EventLog::new(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sha384Digest;

    fn digests(log: &EventLog) -> Vec<Sha384Digest> {
        log.events().iter().map(|event| event.digest).collect()
    }

    fn cmdline(text: &str) -> Cmdline<'_> {
        Cmdline::new(text).unwrap()
    }

    #[test]
    fn options_are_utf16_with_a_nul() {
        let log = rtmr2(cmdline("a b"), None, InitrdOption::Before);
        assert_eq!(digests(&log), [Sha384Digest::of(b"a\0 \0b\0\0\0")]);
        // The extension of a register of zeros, computed by hand.
        let extended = [&[0; 48][..], log.events()[0].digest.as_bytes()].concat();
        assert_eq!(log.value().digest(), Sha384Digest::of(&extended));
    }

    #[test]
    fn an_initrd_adds_its_option_and_itself() {
        let utf16 = |text: &str| text.bytes().chain([0]).flat_map(|b| [b, 0]).collect::<Vec<_>>();
        for (option, options) in
            [(InitrdOption::Before, "initrd=initrd x=1"), (InitrdOption::After, "x=1 initrd=initrd")]
        {
            let log = rtmr2(cmdline("x=1"), Some(b"cpio"), option);
            assert_eq!(digests(&log), [Sha384Digest::of(&utf16(options)), Sha384Digest::of(b"cpio")]);
        }
        let log = rtmr2(cmdline(""), Some(b"cpio"), InitrdOption::Before);
        assert_eq!(digests(&log)[0], Sha384Digest::of(&utf16("initrd=initrd ")));
    }

    #[test]
    fn nothing_is_no_event() {
        assert_eq!(rtmr2(cmdline(""), None, InitrdOption::Before).events(), []);
        assert_eq!(rtmr2(cmdline(""), Some(b""), InitrdOption::Before).value().digest(), Sha384Digest::ZERO);
    }
}
