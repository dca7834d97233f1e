//! The kernel's command line, as far as measuring cares.

/// Longest command line in bytes: x86 Linux cuts off what is longer (`COMMAND_LINE_SIZE`, 2048 with the NUL).
pub(crate) const MAX_CMDLINE: usize = 2047;

/// A command line that every boot path passes on unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cmdline<'a>(&'a str);

/// Why a command line cannot be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Longer than the kernel reads.
    #[error("the command line has {0} bytes, and the kernel reads at most {MAX_CMDLINE}")]
    TooLong(usize),
    /// A byte whose fate between QEMU, firmware and kernel is not defined.
    #[error("the command line has {character:?} at byte {at}; use printable ASCII only")]
    Character {
        /// Offset in bytes.
        at: usize,
        /// What is there.
        character: char,
    },
}

impl<'a> Cmdline<'a> {
    /// Checks a command line.
    ///
    /// # Errors
    /// [`CmdlineError`] for one that is too long, or has anything but printable ASCII.
    pub fn new(text: &'a str) -> Result<Self, CmdlineError> {
        if text.len() > MAX_CMDLINE {
            return Err(CmdlineError::TooLong(text.len()));
        }
        match text.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
            Some((at, character)) => Err(CmdlineError::Character { at, character }),
            None => Ok(Self(text)),
        }
    }

    /// The text, without a trailing NUL.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_ascii_of_the_kernels_length_is_fine() {
        let longest = "x".repeat(MAX_CMDLINE);
        for text in ["", "console=ttyS0 root=/dev/sda ro", &longest] {
            assert_eq!(Cmdline::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn the_rest_is_refused_with_its_place() {
        assert_eq!(Cmdline::new(&"x".repeat(MAX_CMDLINE + 1)), Err(CmdlineError::TooLong(MAX_CMDLINE + 1)));
        for (text, at, character) in [("a\0", 1, '\0'), ("\n", 0, '\n'), ("abcé", 3, 'é'), ("a\tb", 1, '\t')]
        {
            assert_eq!(Cmdline::new(text), Err(CmdlineError::Character { at, character }));
        }
    }
}
