//! Stdin, stdout and stderr of one process, as pipes or as one terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::reaper::{Exit, ended};
use crate::sys;

/// Largest `len` of one read: a ttrpc message holds 4 MiB, head and fields included.
pub const READ_MAX: u32 = (4 << 20) - 1024;
/// How long output is still waited for after the process has ended, while another process holds the pipe open.
const DRAIN: Duration = Duration::from_millis(500);

/// Which output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Our ends of a process's streams.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every process has pipes")]
pub enum Streams {
    /// Three pipes.
    Pipes {
        /// Closed by CloseStdin or an empty write.
        stdin: Mutex<Option<Sender>>,
        /// Until end of file.
        stdout: Mutex<Receiver>,
        /// Until end of file.
        stderr: Mutex<Receiver>,
    },
    /// A pseudoterminal's master side, until its input is closed.
    Terminal(SyncMutex<Option<Arc<AsyncFd<OwnedFd>>>>),
}

/// The process's ends, given to the helper that becomes its parent.
pub struct ChildEnds {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

impl Streams {
    /// Makes three pipes.
    pub fn pipes() -> Result<(Self, ChildEnds)> {
        let pipe = || unistd::pipe2(OFlag::O_CLOEXEC).map_err(Error::system("make a pipe"));
        let (stdin_read, stdin_write) = pipe()?;
        let (stdout_read, stdout_write) = pipe()?;
        let (stderr_read, stderr_write) = pipe()?;
        let receiver =
            |fd| Receiver::from_owned_fd(fd).map(Mutex::new).map_err(Error::system("watch a pipe"));
        let streams = Self::Pipes {
            stdin: Mutex::new(Some(
                Sender::from_owned_fd(stdin_write).map_err(Error::system("watch a pipe"))?,
            )),
            stdout: receiver(stdout_read)?,
            stderr: receiver(stderr_read)?,
        };
        let ends =
            ChildEnds { stdin: stdin_read.into(), stdout: stdout_write.into(), stderr: stderr_write.into() };
        Ok((streams, ends))
    }

    /// Takes over a terminal's master side.
    pub fn terminal(master: OwnedFd) -> Result<Self> {
        let flags = fcntl(&master, FcntlArg::F_GETFL).map_err(Error::system("read flags of a terminal"))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags)).map_err(Error::system("set flags of a terminal"))?;
        let master = sys::watched(master, Interest::READABLE | Interest::WRITABLE)
            .map_err(Error::system("watch a terminal"))?;
        Ok(Self::Terminal(SyncMutex::new(Some(Arc::new(master)))))
    }

    /// Writes all of `data` to the process.
    pub async fn write(&self, data: &[u8]) -> Result<()> {
        match self {
            Self::Pipes { stdin, .. } => {
                let mut stdin = stdin.lock().await;
                let pipe = stdin.as_mut().ok_or_else(|| Error::refused("stdin is closed"))?;
                pipe.write_all(data).await.map_err(Error::system("write to stdin"))
            }
            Self::Terminal(master) => {
                let master = open(master)?;
                let mut rest = data;
                while !rest.is_empty() {
                    let mut ready = master.writable().await.map_err(Error::system("wait for a terminal"))?;
                    if let Ok(written) = ready.try_io(|fd| Ok(unistd::write(fd, rest)?)) {
                        rest = &rest[written.map_err(Error::system("write to a terminal"))?..];
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends the process's input. A terminal has no such end: it is closed, output and all (kata-agent 4.1.0,
    /// `Process::close_stdin`).
    pub async fn close_stdin(&self) {
        match self {
            Self::Pipes { stdin, .. } => drop(stdin.lock().await.take()),
            Self::Terminal(master) => drop(master.lock().unwrap_or_else(PoisonError::into_inner).take()),
        }
    }

    /// Reads up to `len` bytes. Nothing read means end of file; so does the error of a terminal that hung up.
    ///
    /// As kata-agent 4.1.0 (`do_read_stream`): a read that waits when the process ends, or is `forgotten`, is answered in
    /// any case. One that comes after the end waits for whoever holds the stream.
    pub async fn read(&self, output: Output, len: u32, exit: &Exit, forgotten: &Notify) -> Result<Vec<u8>> {
        let was_there = exit.borrow().is_none();
        let read = self.read_once(output, len);
        tokio::pin!(read);
        tokio::select! {
            biased;
            data = &mut read => return data,
            _ = ended(exit.clone()), if was_there => {}
            () = forgotten.notified() => {}
        }
        timeout(DRAIN, read).await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    async fn read_once(&self, output: Output, len: u32) -> Result<Vec<u8>> {
        let mut data = vec![0; len as usize];
        let count = match (self, output) {
            (Self::Pipes { stdout, .. }, Output::Stdout) => stdout.lock().await.read(&mut data).await,
            (Self::Pipes { stderr, .. }, Output::Stderr) => stderr.lock().await.read(&mut data).await,
            // It has no stderr of its own: whoever asks for that gets some of the output.
            (Self::Terminal(master), _) => {
                let master = open(master)?;
                read_terminal(&master, &mut data).await
            }
        };
        data.truncate(count.map_err(Error::system("read from a process"))?);
        Ok(data)
    }

    /// Sets the terminal's size, in characters.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        match self {
            Self::Pipes { .. } => Err(Error::refused("the process has no terminal")),
            Self::Terminal(master) => sys::resize(open(master)?.get_ref(), rows, columns)
                .map_err(Error::system("resize a terminal")),
        }
    }
}

fn open(master: &SyncMutex<Option<Arc<AsyncFd<OwnedFd>>>>) -> Result<Arc<AsyncFd<OwnedFd>>> {
    let master = master.lock().unwrap_or_else(PoisonError::into_inner);
    master.clone().ok_or_else(|| Error::refused("the terminal is closed"))
}

async fn read_terminal(master: &AsyncFd<OwnedFd>, data: &mut [u8]) -> io::Result<usize> {
    loop {
        if let Ok(count) = master.readable().await?.try_io(|fd| Ok(unistd::read(fd, data)?)) {
            return count;
        }
    }
}

/// Shared by the calls that are under way on one process.
pub type SharedStreams = Arc<Streams>;

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::sleep;

    use super::*;

    fn running() -> (watch::Sender<Option<i32>>, Exit) {
        watch::channel(None)
    }

    #[tokio::test]
    async fn a_closed_pipe_reads_as_empty() {
        let (streams, ends) = Streams::pipes().unwrap();
        drop(ends);
        let (_keep, exit) = running();
        assert_eq!(streams.read(Output::Stdout, 10, &exit, &Notify::new()).await.unwrap(), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_of_a_pipe_held_open_is_answered_at_the_exit_and_not_after_it() {
        let (streams, _ends) = Streams::pipes().unwrap();
        let ((exited, exit), forgotten) = (running(), Notify::new());
        let read = streams.read(Output::Stderr, 10, &exit, &forgotten);
        let ends = async {
            sleep(Duration::from_secs(1)).await;
            exited.send_replace(Some(0));
        };
        assert_eq!(tokio::join!(read, ends).0.unwrap(), b"");
        let late = streams.read(Output::Stderr, 10, &exit, &forgotten);
        tokio::pin!(late);
        assert!(timeout(Duration::from_secs(60), &mut late).await.is_err());
        forgotten.notify_waiters();
        assert_eq!(late.await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_terminal_echoes_and_resizes() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let streams = Streams::terminal(pty.master).unwrap();
        streams.resize(40, 120).unwrap();
        streams.write(b"hello\n").await.unwrap();
        let (_keep, exit) = running();
        assert_eq!(streams.read(Output::Stdout, 100, &exit, &Notify::new()).await.unwrap(), b"hello\r\n");
        streams.write(b"more\n").await.unwrap();
        assert_eq!(streams.read(Output::Stderr, 100, &exit, &Notify::new()).await.unwrap(), b"more\r\n");
        streams.close_stdin().await;
        assert!(streams.read(Output::Stdout, 100, &exit, &Notify::new()).await.is_err());
        assert!(streams.write(b"x").await.is_err() && streams.resize(1, 1).is_err());
        // Its end is the process's hangup.
        assert_eq!(unistd::read(&pty.slave, &mut [0]), Ok(0));
    }

    #[tokio::test]
    async fn stdin_closes_once() {
        let (streams, _ends) = Streams::pipes().unwrap();
        streams.write(b"x").await.unwrap();
        streams.close_stdin().await;
        streams.close_stdin().await;
        assert!(streams.write(b"y").await.is_err());
        assert!(streams.resize(1, 1).is_err());
    }
}
