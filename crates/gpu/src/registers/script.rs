//! Registers that follow a script, for tests: every access must be the next line.

use std::collections::VecDeque;
use std::io;

use super::{At, Registers, ResetKind, Word};

/// One access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read(At, u32),
    Write(At, u32),
    Reset,
}

/// What must happen, in order.
#[derive(Debug)]
pub(crate) struct Script(VecDeque<Access>);

impl Script {
    /// Lines `R <register> <answer>`, `W <register> <value>`, `RESET`; hexadecimal, `c` before an offset in
    /// configuration space; separated by line breaks or `;`. A number before a line repeats it: `3*R ...`.
    pub(crate) fn new(text: &str) -> Self {
        let mut accesses = VecDeque::new();
        for line in text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
            let (times, line) = line.split_once('*').map_or((1, line), |(n, rest)| (number(n, 10), rest));
            let words: Vec<_> = line.split_whitespace().collect();
            let access = match words[..] {
                ["RESET"] => Access::Reset,
                ["R", at, value] => Access::Read(place(at), hex(value)),
                ["W", at, value] => Access::Write(place(at), hex(value)),
                _ => panic!("{line}"),
            };
            accesses.extend((0..times).map(|_| access));
        }
        Self(accesses)
    }

    /// Nothing of the script must be left.
    pub(crate) fn finish(&self) {
        assert!(self.0.is_empty(), "not done: {:x?}", self.0);
    }

    fn next(&mut self, found: &str) -> Access {
        self.0.pop_front().unwrap_or_else(|| panic!("{found} is not in the script"))
    }
}

fn hex(text: &str) -> u32 {
    number(text, 16)
}

fn number(text: &str, radix: u32) -> u32 {
    u32::from_str_radix(text, radix).unwrap_or_else(|error| panic!("{text:?} in a script: {error}"))
}

fn place(text: &str) -> At {
    match text.strip_prefix('c') {
        Some(offset) => At::Config(
            u16::try_from(hex(offset)).unwrap_or_else(|error| panic!("{text:?} in a script: {error}")),
        ),
        None => At::Bar0(hex(text)),
    }
}

impl Registers for Script {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        match self.next(&format!("a read of {at}")) {
            Access::Read(expected, value) if expected == at => Ok(Word::of(value)),
            other => panic!("a read of {at} instead of {other:x?}"),
        }
    }

    fn write32(&mut self, at: At, value: u32) -> io::Result<()> {
        let next = self.next(&format!("{value:#x} written to {at}"));
        assert_eq!(next, Access::Write(at, value), "{value:#x} written to {at}");
        Ok(())
    }

    fn reset(&mut self, _: ResetKind) -> io::Result<()> {
        assert_eq!(self.next("a reset"), Access::Reset);
        Ok(())
    }
}
