//! A terminal for commands that want one.

use std::fs::File;
use std::io::Read;
use std::mem;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::pty::openpty;

use crate::or_fail::OrFail;
use crate::wait::until;

const LIMIT: Duration = Duration::from_secs(60);

/// A command on a terminal of its own; the test types and reads.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Pty {
    /// Starts `words` with the terminal as its controlling one.
    pub fn spawn(words: &[String]) -> Self {
        let pty = openpty(None, None).or_fail("open a terminal");
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().or_fail("the terminal"));
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(words)
            .stdin(stdio(&pty.slave))
            .stdout(stdio(&pty.slave))
            .stderr(stdio(&pty.slave))
            .spawn()
            .or_fail("start a command on a terminal");
        let master = File::from(pty.master);
        let mut reader = master.try_clone().or_fail("the terminal");
        let (sender, output) = channel();
        // Ends with an error once the last process has left the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, master, output, seen: String::new() }
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) {
        use std::io::Write;
        self.master.write_all(text.as_bytes()).or_fail("type");
    }

    /// Waits until `text` shows; returns everything up to it, which later calls do not see again.
    pub async fn expect(&mut self, text: &str) -> String {
        until(format!("{text:?} on the terminal"), LIMIT, async || {
            let ended = self.child.try_wait().or_fail("the command on the terminal");
            self.drain();
            let Some(start) = self.seen.find(text) else {
                assert!(ended.is_none(), "no {text:?} on the terminal; there was: {}", self.seen);
                return None;
            };
            let rest = self.seen.split_off(start + text.len());
            Some(mem::replace(&mut self.seen, rest))
        })
        .await
    }

    /// Makes the terminal `rows` by `columns`; the command gets SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) {
        let status = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(self.master.try_clone().or_fail("the terminal"))
            .status()
            .or_fail("stty");
        assert!(status.success(), "stty: {status}");
    }

    /// Waits for the command's end; returns its exit code.
    pub async fn code(&mut self) -> i32 {
        until("the end of the command on the terminal", LIMIT, async || {
            self.drain();
            self.child.try_wait().or_fail("wait for a command").map(|status| status.code().unwrap_or(-1))
        })
        .await
    }

    fn drain(&mut self) {
        while let Ok(bytes) = self.output.try_recv() {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // A test that failed may leave the command running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
