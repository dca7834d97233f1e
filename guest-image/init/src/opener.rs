//! The child that gets a volume's key and opens its header with it.
//!
//! The header is the host's, and the key comes over the network when the pod has one: neither is PID 1's to wait for. The
//! child says one line, and PID 1 reads it when it is there.

use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use model_volumes::KeyPath;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zeroize::Zeroizing;

/// The program.
const PROGRAM: &str = "/usr/bin/coffer-volume";
/// Longest line, in bytes.
const LONGEST: usize = 4096;
/// Longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 700;

/// An open disk, as the child tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where its data begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// Size of its sectors, in bytes.
    pub sector: u64,
    /// Number of its first sector for the cipher.
    pub tweak: u64,
    /// Its key, 128 hexadecimal digits.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, size, sector, tweak, .. } = self;
        write!(f, "Opened({offset} {size} {sector} {tweak})")
    }
}

impl Opened {
    /// Reads the child's line; otherwise the reason why there is none.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        if let Some(reason) = line.strip_prefix("refused ") {
            return Err(reason.chars().take(LONGEST_REASON).collect());
        }
        let open = || {
            let mut words = line.strip_prefix("open ")?.split(' ');
            let mut number = || words.next()?.parse::<u64>().ok();
            let (offset, size, sector, tweak) = (number()?, number()?, number()?, number()?);
            let key = words.next()?;
            let is_key = key.len() == 128 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
            let fits = matches!(sector, 512 | 1024 | 2048 | 4096) && offset % 512 == 0 && size % sector == 0;
            let whole = words.next().is_none() && is_key && fits && size > 0;
            whole.then(|| Self { offset, size, sector, tweak, key: Zeroizing::new(key.to_owned()) })
        };
        open().ok_or_else(|| "the program that opens it ended without a word".to_owned())
    }
}

/// A child at work. Dropping it leaves the child to itself: what it says then nobody hears.
#[derive(Debug)]
pub struct Opening {
    pipe: PipeReader,
    said: Zeroizing<Vec<u8>>,
}

impl Opening {
    /// Starts the child with a disk and the name of its key.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(disk: File, key: &KeyPath) -> io::Result<Self> {
        let (pipe, theirs) = io::pipe()?;
        let mut command = Command::new(PROGRAM);
        command.arg(key.as_str()).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(disk)).stdout(theirs).stderr(Stdio::inherit());
        // It is reaped with all others.
        command.spawn()?;
        Self::of(pipe)
    }

    /// Listens to a pipe.
    pub(crate) fn of(pipe: PipeReader) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Enough for all of it, so that it never moves.
        Ok(Self { pipe, said: Zeroizing::new(Vec::with_capacity(LONGEST)) })
    }

    /// What to wait for.
    pub fn wanted(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// What came of it; nothing as long as the child is at work.
    pub fn progress(&mut self) -> Option<Result<Opened, String>> {
        let mut piece = Zeroizing::new([0; 512]);
        loop {
            match self.pipe.read(&mut piece[..]) {
                Ok(0) => {
                    return Some(Opened::parse(&Zeroizing::new(
                        String::from_utf8_lossy(&self.said).into_owned(),
                    )));
                }
                Ok(read) if self.said.len() + read <= LONGEST => self.said.extend(&piece[..read]),
                Ok(_) => return Some(Err("the program that opens it says too much".to_owned())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(format!("the program that opens it is not heard: {error}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_whole_or_a_reason() {
        let key = "0a".repeat(64);
        let opened = Opened::parse(&format!("open 1048576 8192 4096 7 {key}\n")).unwrap();
        assert_eq!(
            (opened.offset, opened.size, opened.sector, opened.tweak, opened.key.len()),
            (1 << 20, 8192, 4096, 7, 128)
        );
        assert_eq!(Opened::parse("refused no key\n").unwrap_err(), "no key");
        assert_eq!(
            Opened::parse(&format!("refused {}", "x".repeat(5000))).unwrap_err().len(),
            LONGEST_REASON
        );
        for line in [
            "",
            "open",
            &format!("open 1048576 8192 4096 7 {key} more"),
            &format!("open 1048576 8192 4096 7 {}", &key[1..]),
            &format!("open 1048576 8192 4096 7 {}", key.replace('a', " ")),
            &format!("open 1048576 8192 4095 7 {key}"),
            &format!("open 1048575 8192 4096 7 {key}"),
            &format!("open 1048576 8191 4096 7 {key}"),
            &format!("open 1048576 0 4096 7 {key}"),
            &format!("open -1 8192 4096 7 {key}"),
        ] {
            assert!(Opened::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_child_is_heard_when_it_has_ended_and_not_waited_for() {
        let (ours, mut theirs) = io::pipe().unwrap();
        let mut opening = Opening::of(ours).unwrap();
        assert!(opening.progress().is_none());
        theirs.write_all(b"refused the ").unwrap();
        assert!(opening.progress().is_none());
        theirs.write_all(b"key\n").unwrap();
        drop(theirs);
        assert_eq!(opening.progress(), Some(Err("the key".to_owned())));
        let (ours, theirs) = io::pipe().unwrap();
        drop(theirs);
        let said = Opening::of(ours).unwrap().progress();
        assert_eq!(said, Some(Err("the program that opens it ended without a word".to_owned())));
    }

    #[test]
    fn a_child_that_says_too_much_is_not_heard_out() {
        let (ours, mut theirs) = io::pipe().unwrap();
        theirs.write_all(&[b'x'; 2 * LONGEST]).unwrap();
        let said = Opening::of(ours).unwrap().progress();
        assert_eq!(said, Some(Err("the program that opens it says too much".to_owned())));
    }
}
