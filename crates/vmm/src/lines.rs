//! Lines that come from an untrusted or chatty source (the guest's console and its PID 1, QEMU's stderr): logged with a
//! tag, limited in size, and the last of them kept for error messages.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared_types::Budget;
use slog::{Logger, debug, info, warn};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::progress::Activity;

/// The longest line kept or logged, in bytes; the rest of a longer one is dropped.
const MAX_LINE: usize = 512;
/// How many lines are kept for error messages.
const KEPT: usize = 64;
/// How much may be logged at once, in bytes; a kernel's panic with its registers and call trace is about 6 KiB.
const BURST: u64 = 64 * 1024;
/// How fast [`BURST`] refills, in bytes per second. The agent's chatter, which is logged for debugging only, has as much for
/// itself: it leaves the other lines their part.
const REFILL: u64 = 4 * 1024;

/// How long a pipe's bytes are gathered after a look at it. A UART gives them one by one, and each look costs more CPU
/// than a whole line: a guest that boots or starts a process would be looked at for every letter.
const GATHER: Duration = Duration::from_millis(200);
/// How many bytes are read in one go.
const PIECE: usize = 8 * 1024;
/// How often a pipe is read at a look, as long as there is more: what it holds.
const PIECES: u32 = 8;
/// How much of a stream that is no pipe is read in each [`GATHER`], in bytes, and how often: a guest that boots says less.
const MOST: usize = PIECE * PIECES as usize;
const LOOKS: u32 = 256;

/// The last lines of a stream that is being followed; clones share them.
#[derive(Debug, Clone)]
pub struct Tail {
    kept: Arc<Mutex<VecDeque<String>>>,
    more: Arc<Notify>,
    ended: watch::Receiver<bool>,
}

impl Tail {
    /// The last lines, oldest first, free of control characters.
    pub fn lines(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Whether one of the last lines contains `words`.
    pub fn has(&self, words: &str) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(words))
    }

    /// Waits until one of the last lines contains one of these; for ever if none does.
    pub async fn said(&self, any: &[&str]) {
        loop {
            let more = self.more.notified();
            if any.iter().any(|words| self.has(words)) {
                return;
            }
            more.await;
        }
    }

    /// Waits until the stream has ended and its last line is in [`Tail::lines`], at most `patience`.
    pub async fn ended(&self, patience: Duration) {
        let mut ended = self.ended.clone();
        let _ = tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await;
    }
}

/// Follows a pipe to its end in a task of its own. Each line is logged as `source=<source>`, and marks `activity`.
pub fn follow(pipe: OwnedFd, source: &'static str, log: Logger, activity: Activity) -> Tail {
    let (tail, feed) = tail(source, MAX_LINE);
    tokio::spawn(async move { feed.gather(pipe.into(), &log, &activity).await });
    tail
}

/// The last lines of a stream that is still to come, and what fills them.
pub(crate) fn tail(source: &'static str, longest: usize) -> (Tail, Feed) {
    let kept = Arc::new(Mutex::new(VecDeque::with_capacity(KEPT)));
    let (end, ended) = watch::channel(false);
    let more = Arc::new(Notify::new());
    let tail = Tail { kept: Arc::clone(&kept), more: Arc::clone(&more), ended };
    (tail, Feed { kept, more, end, source, longest })
}

/// Fills a [`Tail`].
#[derive(Debug)]
pub(crate) struct Feed {
    kept: Arc<Mutex<VecDeque<String>>>,
    more: Arc<Notify>,
    end: watch::Sender<bool>,
    source: &'static str,
    longest: usize,
}

impl Feed {
    /// Copies the lines of a stream to its end, each as soon as it comes, but not more in a [`GATHER`] than [`MOST`] and
    /// [`LOOKS`] allow; `each` sees every one of them, also those that are not logged.
    pub(crate) async fn copy<R: AsyncRead + Unpin>(
        self,
        mut stream: R,
        log: &Logger,
        activity: &Activity,
        each: impl FnMut(&str),
    ) {
        let mut lines = Lines::new(self, log, activity, each);
        let mut buffer = vec![0; PIECE];
        let (mut since, mut bytes, mut looks) = (Instant::now(), 0, 0);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            lines.push(&buffer[..read]);
            (bytes, looks) = (bytes + read, looks + 1);
            let is_flood = bytes >= MOST || looks >= LOOKS;
            if is_flood {
                sleep(GATHER).await;
            }
            if is_flood || since.elapsed() >= GATHER {
                (since, bytes, looks) = (Instant::now(), 0, 0);
            }
        }
        lines.end();
    }

    /// Copies the lines of a pipe to its end, and looks at it no more often than each [`GATHER`].
    ///
    /// Between two looks the runtime does not know the pipe: its epoll set would wake the process for each letter, read or
    /// not.
    async fn gather(self, mut pipe: File, log: &Logger, activity: &Activity) {
        let mut lines = Lines::new(self, log, activity, |_| {});
        let mut buffer = vec![0; PIECE];
        'pipe: loop {
            pipe = match written(pipe).await {
                Ok(written) => written,
                Err(error) => {
                    warn!(log, "a stream is not read any more"; "source" => lines.feed.source, "error" => %error);
                    break;
                }
            };
            loop {
                match look(&mut pipe, &mut buffer, |bytes| lines.push(bytes)) {
                    Look::Some => sleep(GATHER).await,
                    Look::Nothing => break,
                    Look::Ended => break 'pipe,
                }
            }
        }
        lines.end();
    }
}

/// Waits until there is something in a pipe, or its end; makes it one that is read without waiting.
async fn written(pipe: File) -> io::Result<File> {
    let receiver = pipe::Receiver::from_owned_fd(pipe.into())?;
    receiver.readable().await?;
    receiver.into_nonblocking_fd().map(File::from)
}

/// What a look at a pipe finds.
enum Look {
    Some,
    Nothing,
    Ended,
}

fn look(pipe: &mut File, buffer: &mut [u8], mut each: impl FnMut(&[u8])) -> Look {
    for piece in 0..PIECES {
        match pipe.read(buffer) {
            Ok(0) => return Look::Ended,
            Ok(read) => {
                each(&buffer[..read]);
                if read < buffer.len() {
                    return Look::Some;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return if piece == 0 { Look::Nothing } else { Look::Some };
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Look::Ended,
        }
    }
    Look::Some
}

/// What becomes of a stream's bytes.
struct Lines<'a, E> {
    feed: Feed,
    splitter: Splitter,
    budget: Budget,
    chatter: Budget,
    log: &'a Logger,
    activity: &'a Activity,
    each: E,
}

impl<'a, E: FnMut(&str)> Lines<'a, E> {
    fn new(feed: Feed, log: &'a Logger, activity: &'a Activity, each: E) -> Self {
        let splitter = Splitter { line: Vec::new(), last: Vec::new(), longest: feed.longest };
        let budget = Budget::new(BURST, REFILL, now());
        Self { feed, splitter, chatter: budget.clone(), budget, log, activity, each }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.activity.mark();
        self.split(|splitter, line| splitter.push(bytes, line));
    }

    fn end(mut self) {
        self.split(|splitter, line| splitter.finish(line));
        let _ = self.feed.end.send(true);
    }

    fn split(&mut self, split: impl FnOnce(&mut Splitter, &mut dyn FnMut(String))) {
        let Self { feed, splitter, budget, chatter, log, each, .. } = self;
        split(splitter, &mut |line| {
            each(&line);
            tell(&line, feed.source, log, budget, chatter);
            keep(line, &feed.kept);
        });
        feed.more.notify_waiters();
    }
}

/// The runtime's clock, which tests may stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Logs a line, as far as its kind's budget goes.
fn tell(line: &str, source: &'static str, log: &Logger, budget: &mut Budget, chatter: &mut Budget) {
    const LEFT_OUT: &str = "lines left out: too many at once";
    let is_chatter = is_chatter(line);
    let budget = if is_chatter { chatter } else { budget };
    let Some(dropped) = budget.take(line.len() as u64, now()) else { return };
    if is_chatter {
        if dropped > 0 {
            debug!(log, "{LEFT_OUT}"; "source" => source, "lines" => dropped);
        }
        debug!(log, "{line}"; "source" => source);
    } else {
        if dropped > 0 {
            info!(log, "{LEFT_OUT}"; "source" => source, "lines" => dropped);
        }
        info!(log, "{line}"; "source" => source);
    }
}

fn keep(line: String, kept: &Mutex<VecDeque<String>>) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(line);
}

/// How kata-agent's lines begin: slog's JSON, the message first.
const OF_AGENT: &str = "{\"msg\":";
/// How it writes the levels of what went as it should.
const ALL_WELL: [&str; 3] = ["\"level\":\"INFO\"", "\"level\":\"DEBG\"", "\"level\":\"TRCE\""];
/// How much of the end of a line that is too long is looked at for its level, in bytes: after the message come time and names.
const LAST: usize = 512;

/// Whether a line is of kata-agent's log, and tells of nothing that went wrong. It writes some forty of them for each process;
/// they are kept for errors like the others.
fn is_chatter(line: &str) -> bool {
    line.starts_with(OF_AGENT) && ALL_WELL.iter().any(|level| line.contains(level))
}

/// Cuts a byte stream into printable lines.
#[derive(Debug)]
struct Splitter {
    line: Vec<u8>,
    /// The last of what did not fit.
    last: Vec<u8>,
    longest: usize,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            let room = self.longest.saturating_sub(self.line.len()).min(text.len());
            let (fits, rest) = text.split_at(room);
            self.line.extend_from_slice(fits);
            self.drop_all_but_last(rest);
            if ends {
                self.finish(&mut each);
            }
        }
    }

    fn drop_all_but_last(&mut self, rest: &[u8]) {
        if self.line.starts_with(OF_AGENT.as_bytes()) && !rest.is_empty() {
            self.last.extend_from_slice(&rest[rest.len().saturating_sub(LAST)..]);
            self.last.drain(..self.last.len().saturating_sub(LAST));
        }
    }

    /// A line of the agent's that did not fit keeps its level: the agent writes whole requests at INFO.
    fn finish(&mut self, mut each: impl FnMut(String)) {
        let mut text = printable(&self.line);
        let last = String::from_utf8_lossy(&self.last);
        if let Some(level) = ALL_WELL.iter().find(|level| last.contains(**level)) {
            text.push_str(" ... ");
            text.push_str(level);
        }
        drop(last);
        self.line.clear();
        self.last.clear();
        if !text.is_empty() {
            each(text);
        }
    }
}

/// The text of `bytes` without terminal escapes and other control characters.
fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return String::from_utf8_lossy(bytes).into_owned(); // as nearly all lines are
    }
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // A CSI sequence ends with its first letter; firmware and consoles send many.
            '\u{1b}' => {
                if chars.clone().next() == Some('[') {
                    chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
                }
            }
            '\t' => clean.push(' '),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests;
