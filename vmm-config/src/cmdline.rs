//! The guest kernel's command line: a closed list of keys, and values that cannot smuggle in another.
//!
//! The line decides what the guest trusts (the root's verity hash) and, in a confidential VM, it is
//! measured. So nothing gets onto it that is not named here.

use std::fmt;

use shared_types::kernel_keys;

/// The kernel's limit on x86 (`COMMAND_LINE_SIZE`), its terminating NUL included.
const MAX_LEN: usize = 2048;

/// Value of `console` by which the kernel takes none (Linux, `kernel/printk/printk.c`, `console_setup`).
pub(crate) const NO_CONSOLE: &str = "null";

/// A checked kernel command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline(Vec<Param>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Param {
    key: &'static str,
    value: Option<String>,
}

/// A command line that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// The kernel would cut it off.
    #[error("the kernel command line has {len} bytes; the kernel reads {}", MAX_LEN - 1)]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Nobody vouches for what the key does.
    #[error("`{key}` is not among the kernel command line keys that are allowed")]
    UnknownKey {
        /// The key, shortened.
        key: String,
    },
    /// The guest refuses such a line, and the kernel takes the last one.
    #[error("the kernel command line has `{key}` twice")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// A quote inside a word, an unclosed quote or a character outside printable ASCII.
    #[error(
        "the kernel command line is malformed at byte {at}: only printable ASCII, quotes around a whole value"
    )]
    Malformed {
        /// Where.
        at: usize,
    },
}

impl Cmdline {
    /// Reads a command line as the kernel does: words separated by spaces, double quotes around a value
    /// that holds spaces.
    ///
    /// # Errors
    /// [`CmdlineError`].
    pub fn parse(line: &str) -> Result<Self, CmdlineError> {
        if line.len() >= MAX_LEN {
            return Err(CmdlineError::TooLong { len: line.len() });
        }
        if let Some(at) = line.bytes().position(|b| b != b' ' && !b.is_ascii_graphic()) {
            return Err(CmdlineError::Malformed { at });
        }
        let mut params = Vec::<Param>::new();
        let mut at = 0;
        while at < line.len() {
            let rest = &line[at..];
            if rest.starts_with(' ') {
                at += 1;
                continue;
            }
            let (param, used) = Param::parse(rest, at)?;
            if params.iter().any(|known| known.key == param.key) {
                return Err(CmdlineError::Twice { key: param.key });
            }
            params.push(param);
            at += used;
        }
        Ok(Self(params))
    }

    /// The value of a key, if it is there and has one.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|p| p.key == key)?.value.as_deref()
    }

    /// The first key that a release image's guest refuses.
    pub(crate) fn beyond_release(&self) -> Option<&'static str> {
        self.0.iter().map(|param| param.key).find(|key| !kernel_keys::ALWAYS.contains(key))
    }

    /// Whether the guest has a console: without the key the kernel takes what it finds.
    pub(crate) fn has_console(&self) -> bool {
        self.value("console") != Some(NO_CONSOLE)
    }

    /// Whether a key is there, with a value or without.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|p| p.key == key)
    }
}

impl Param {
    /// The first word of `rest`, which starts at byte `at` of the line, and the bytes it takes.
    fn parse(rest: &str, at: usize) -> Result<(Self, usize), CmdlineError> {
        let key_len = rest.find(['=', ' ', '"']).unwrap_or(rest.len());
        let written = &rest[..key_len];
        let key = kernel_keys::all()
            .find(|key| *key == written)
            .ok_or_else(|| CmdlineError::UnknownKey { key: written.chars().take(60).collect() })?;
        let Some(value) = rest[key_len..].strip_prefix('=') else {
            return match rest[key_len..].starts_with('"') {
                true => Err(CmdlineError::Malformed { at: at + key_len }),
                false => Ok((Self { key, value: None }, key_len)),
            };
        };
        let start = key_len + 1;
        let (value, len) = match value.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').ok_or(CmdlineError::Malformed { at: at + start })?;
                (&quoted[..end], end + 2)
            }
            None => {
                let end = value.find(' ').unwrap_or(value.len());
                (&value[..end], end)
            }
        };
        let follows = rest[start + len..].chars().next();
        if value.contains('"') || follows.is_some_and(|c| c != ' ') {
            return Err(CmdlineError::Malformed { at: at + start });
        }
        Ok((Self { key, value: Some(value.to_owned()) }, start + len))
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Param { key, value }) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            match value {
                None => f.write_str(key)?,
                Some(value) if value.contains(' ') => write!(f, "{key}=\"{value}\"")?,
                Some(value) => write!(f, "{key}={value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_line_is_kept() {
        let line = "console=ttyS0 quiet dm-mod.create=\"root,,,ro,0 8 verity 1\" root=/dev/dm-0 ro panic=-1";
        let cmdline = Cmdline::parse(line).unwrap();
        assert_eq!(cmdline.to_string(), line);
        assert_eq!(cmdline.value("dm-mod.create"), Some("root,,,ro,0 8 verity 1"));
        assert_eq!(cmdline.value("quiet"), None);
        assert!(cmdline.has("quiet") && !cmdline.has("init"));
    }

    #[test]
    fn spaces_are_normalised() {
        assert_eq!(Cmdline::parse("  ro   quiet ").unwrap().to_string(), "ro quiet");
        assert_eq!(Cmdline::parse("").unwrap().to_string(), "");
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let twice = Cmdline::parse("root=/dev/a ro root=/dev/b");
        assert_eq!(twice, Err(CmdlineError::Twice { key: "root" }));
    }

    #[test]
    fn unknown_keys_are_refused() {
        for line in [
            "rdinit=/bin/sh",
            "init=/bin/sh",
            "quiet -- sh",
            "quiet single",
            "Root=/dev/vda",
            "agent.policy=x",
        ] {
            assert!(matches!(Cmdline::parse(line), Err(CmdlineError::UnknownKey { .. })), "{line}");
        }
    }

    #[test]
    fn injection_is_refused() {
        for line in ["root=a\"b", "root=\"a\"b", "root=\"a", "root=a\nquiet", "root=a\0", "ro\"", "root=ä"] {
            assert!(matches!(Cmdline::parse(line), Err(CmdlineError::Malformed { .. })), "{line:?}");
        }
    }

    #[test]
    fn what_the_kernel_would_cut_off_is_refused() {
        let fits = format!("root={}", "x".repeat(MAX_LEN - 6));
        assert!(Cmdline::parse(&fits).is_ok());
        assert_eq!(Cmdline::parse(&format!("{fits}x")), Err(CmdlineError::TooLong { len: MAX_LEN }));
    }

    proptest! {
        #[test]
        fn parsing_what_was_printed_changes_nothing(line in "(root=[a-z/]{0,5}|quiet|ro|panic=\"[a-z ]{0,5}\"| |[a-z\"=]{1,3}){0,6}") {
            if let Ok(cmdline) = Cmdline::parse(&line) {
                prop_assert_eq!(Cmdline::parse(&cmdline.to_string()), Ok(cmdline));
            }
        }
    }
}
