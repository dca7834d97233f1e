//! From the VM's start to its command's end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::device::Bus;
use crate::{Arguments, machine, shared};

/// What keeps a command from being run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make a directory for sockets: {0}")]
    Folder(#[source] io::Error),
    #[error("cannot write what the VM is given: {0}")]
    Shared(#[source] io::Error),
    #[error("cannot emulate a device: {0}")]
    Emulator(#[from] emulated_gpu::Error),
    #[error("cannot start qemu-system-x86_64: {0}; use tools/outer-vm, which runs this in the forky root")]
    Qemu(#[source] io::Error),
    #[error("cannot read what the VM prints: {0}")]
    Output(#[source] io::Error),
    #[error("the VM ended before its command did\n{0}")]
    Died(String),
    #[error("the command has not ended within {} s\n{log}", .limit.as_secs())]
    Late { limit: Duration, log: String },
}

/// Begins the line that tells the command's end; no text has it.
const END: u8 = 0x1e;

/// Boots the VM, runs the command, ends the VM; returns the command's exit code.
pub(crate) fn run(arguments: &Arguments, bus: &Bus, limit: Duration) -> Result<u8, Error> {
    let end = Instant::now() + limit;
    let folder = tempfile::tempdir().map_err(Error::Folder)?;
    let token = format!("{}-{:?}", std::process::id(), Instant::now()).replace([' ', '{', '}'], "");
    shared::write(folder.path(), &token, &arguments.share, &arguments.command).map_err(Error::Shared)?;
    let listener = UnixListener::bind(folder.path().join("output")).map_err(Error::Output)?;
    let log = std::fs::File::create(folder.path().join("qemu.log")).map_err(Error::Folder)?;
    let qemu = Command::new("qemu-system-x86_64")
        .args(machine::arguments(arguments, folder.path(), &bus.arguments()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(Error::Folder)?)
        .stderr(log)
        .spawn()
        .map_err(Error::Qemu)?;
    let mut qemu = Qemu(qemu);
    let stream = qemu.connection(&listener, end).map_err(Error::Output)?;
    let code = stream.map(|stream| copy(stream, &token, end)).transpose();
    match code {
        Ok(Some(Some(code))) => Ok(code),
        Ok(_) => Err(Error::Died(logs(folder.path()))),
        Err(error) if is_late(&error) => Err(Error::Late { limit, log: logs(folder.path()) }),
        Err(error) => Err(Error::Output(error)),
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The VM's process, which ends with this value: at once, there is nothing in it to be kept.
struct Qemu(Child);

impl Qemu {
    /// QEMU's connection to us; `None` when it ended without.
    fn connection(&mut self, listener: &UnixListener, end: Instant) -> io::Result<Option<UnixStream>> {
        listener.set_nonblocking(true)?;
        while Instant::now() < end {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.0.try_wait()?.is_some() {
                return Ok(None);
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Err(ErrorKind::TimedOut.into())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies what the VM prints to our own output, until the line that tells the exit code. `None` when the VM's end
/// comes first.
fn copy(mut stream: UnixStream, token: &str, end: Instant) -> io::Result<Option<u8>> {
    let mut output = io::stdout().lock();
    let mut held = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(ErrorKind::TimedOut)?))?;
        let count = stream.read(&mut buffer)?;
        held.extend_from_slice(&buffer[..count]);
        let (text, code) = split(&held, token);
        output.write_all(&held[..text])?;
        output.flush()?;
        if code.is_some() || count == 0 {
            return Ok(code);
        }
        held.drain(..text);
    }
}

/// How much of `held` is text to be shown, and the exit code if it is there.
fn split(held: &[u8], token: &str) -> (usize, Option<u8>) {
    let mut from = 0;
    while let Some(at) = held[from..].iter().position(|byte| *byte == END).map(|at| from + at) {
        let Some(length) = held[at..].iter().position(|byte| *byte == b'\n') else {
            // The rest of the line is on its way.
            return (at, None);
        };
        let line = std::str::from_utf8(&held[at + 1..at + length]).unwrap_or_default();
        let code = line.strip_prefix(token).and_then(|code| code.trim().parse().ok());
        if code.is_some() {
            return (at, code);
        }
        from = at + 1;
    }
    (held.len(), None)
}

/// The last lines of what QEMU and the VM's kernel have said.
fn logs(folder: &Path) -> String {
    let mut text = String::new();
    for (name, file, lines) in [("QEMU", "qemu.log", 10), ("the VM's console", "console", 40)] {
        let content = std::fs::read(folder.join(file)).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        // QEMU's complaint about every BAR that a device's own IOMMU mapping covers.
        let said: Vec<&str> = content.lines().filter(|line| !line.contains("non memory")).collect();
        text.push_str(&format!("--- {name}:\n"));
        for line in &said[said.len().saturating_sub(lines)..] {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_where_the_exit_code_is_told() {
        assert_eq!(split(b"some text\nand more", "t"), (18, None));
        assert_eq!(split(b"some text\x1et 7\n", "t"), (9, Some(7)));
        assert_eq!(split(b"some text\x1et 7", "t"), (9, None), "the line is not complete");
        assert_eq!(split(b"\x1eother 0\n\x1et 0\n", "t"), (9, Some(0)), "only with the token");
        assert_eq!(split(b"\x1eother 0\n", "t"), (9, None));
    }
}
