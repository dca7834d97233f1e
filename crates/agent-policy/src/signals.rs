//! Signals by their names, as images and manifests write them.

use crate::PolicyError;

/// SIGKILL and SIGTERM, by which kubelet ends a container.
pub(crate) const USUAL: [u32; 2] = [9, 15];

/// By number less one, of x86-64 (`asm/signal.h`).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const REALTIME: std::ops::RangeInclusive<u32> = 34..=64;

/// The number of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `SIGRTMAX-2` (moby's `sys/signal`, as containerd has it).
pub(crate) fn number(container: &str, text: &str) -> Result<u32, PolicyError> {
    let unknown = || PolicyError::Signal { container: container.to_owned(), signal: text.to_owned() };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |base: u32, offset: &str, add: bool| {
        let offset: u32 = if offset.is_empty() { 0 } else { offset[1..].parse().ok()? };
        let number = if add { base.checked_add(offset)? } else { base.checked_sub(offset)? };
        REALTIME.contains(&number).then_some(number)
    };
    let number = if let Ok(number) = name.parse::<u32>() {
        (1..=64).contains(&number).then_some(number)
    } else if let Some(offset) =
        name.strip_prefix("RTMIN").filter(|rest| rest.is_empty() || rest.starts_with('+'))
    {
        realtime(*REALTIME.start(), offset, true)
    } else if let Some(offset) =
        name.strip_prefix("RTMAX").filter(|rest| rest.is_empty() || rest.starts_with('-'))
    {
        realtime(*REALTIME.end(), offset, false)
    } else {
        (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number)
    };
    number.ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbers() {
        for (text, signal) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("28", 28),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("RTMIN", 34),
            ("SIGSYS", 31),
        ] {
            assert_eq!(number("c", text).unwrap(), signal, "{text}");
        }
        for text in ["", "SIG", "SIGFOO", "0", "65", "SIGRTMIN+99", "SIGRTMAX-x"] {
            assert!(matches!(number("c", text), Err(PolicyError::Signal { .. })), "{text}");
        }
    }
}
