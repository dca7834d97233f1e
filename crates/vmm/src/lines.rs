//! Lines that come from an untrusted or chatty source (the guest's console and its PID 1, QEMU's stderr): logged with a
//! tag, limited in size, and the last of them kept for error messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slog::{Logger, info};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::progress::Activity;

/// The longest line kept or logged, in bytes; the rest of a longer one is dropped.
const MAX_LINE: usize = 512;
/// How many lines are kept for error messages.
const KEPT: usize = 64;
/// How much may be logged at once, in bytes; a kernel's panic with its registers and call trace is about 6 KiB.
const BURST: usize = 64 * 1024;
/// How fast [`BURST`] refills, in bytes per second.
const REFILL: usize = 4 * 1024;

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

/// Follows `stream` to its end in a task of its own. Each line is logged as `source=<source>`, and marks
/// `activity`.
pub fn follow<R>(stream: R, source: &'static str, log: Logger, activity: Activity) -> Tail
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let (tail, feed) = tail(source, MAX_LINE);
    tokio::spawn(async move { feed.copy(stream, &log, &activity, |_| {}).await });
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
    /// Copies the lines of a stream to its end; `each` sees every one of them, also those that are not logged.
    pub(crate) async fn copy<R: AsyncRead + Unpin>(
        self,
        mut stream: R,
        log: &Logger,
        activity: &Activity,
        mut each: impl FnMut(&str),
    ) {
        let Self { kept, more, end, source, longest } = self;
        let mut budget = Budget::new();
        let mut splitter = Splitter { line: Vec::new(), longest };
        let mut buffer = [0_u8; 1024];
        let mut line = |line: String| {
            each(&line);
            keep(line, &kept, source, log, &mut budget);
        };
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            activity.mark();
            splitter.push(&buffer[..read], &mut line);
            more.notify_waiters();
        }
        splitter.finish(&mut line);
        more.notify_waiters();
        let _ = end.send(true);
    }
}

fn keep(
    line: String,
    kept: &Mutex<VecDeque<String>>,
    source: &'static str,
    log: &Logger,
    budget: &mut Budget,
) {
    if let Some(dropped) = budget.take(line.len()) {
        if dropped > 0 {
            info!(log, "lines left out: too many at once"; "source" => source, "lines" => dropped);
        }
        info!(log, "{line}"; "source" => source);
    }
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(line);
}

/// Cuts a byte stream into printable lines.
#[derive(Debug)]
struct Splitter {
    line: Vec<u8>,
    longest: usize,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.finish(&mut each),
                _ if self.line.len() < self.longest => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn finish(&mut self, mut each: impl FnMut(String)) {
        let text = printable(&self.line);
        self.line.clear();
        if !text.is_empty() {
            each(text);
        }
    }
}

/// The text of `bytes` without terminal escapes and other control characters.
fn printable(bytes: &[u8]) -> String {
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

/// A token bucket in bytes.
#[derive(Debug)]
struct Budget {
    left: usize,
    refilled: Instant,
    dropped: usize,
}

impl Budget {
    fn new() -> Self {
        Self { left: BURST, refilled: Instant::now(), dropped: 0 }
    }

    /// `None` where the line is not to be logged; else how many were dropped since the last one that was.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let seconds = usize::try_from(self.refilled.elapsed().as_secs()).unwrap_or(BURST);
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds.saturating_mul(REFILL)).min(BURST);
            self.refilled = Instant::now();
        }
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.dropped))
            }
            None => {
                self.dropped += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slog::{Discard, o};
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    fn quiet() -> Logger {
        Logger::root(Discard, o!())
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_without_escapes() {
        let (mut guest, ours) = duplex(1024);
        let tail = follow(ours, "console", quiet(), Activity::default());
        for n in 0..90 {
            guest.write_all(format!("\u{1b}[2Jline {n}\r\n").as_bytes()).await.unwrap();
        }
        guest.write_all(b"no newline at the end").await.unwrap();
        drop(guest);
        tail.ended(Duration::from_secs(5)).await;
        let lines = tail.lines();
        assert_eq!(lines.len(), KEPT);
        assert_eq!(lines[KEPT - 2], "line 89");
        assert_eq!(lines[KEPT - 1], "no newline at the end");
    }

    #[tokio::test]
    async fn words_are_waited_for() {
        let (reader, mut writer) = tokio::io::duplex(64);
        let tail = follow(reader, "test", Logger::root(Discard, o!()), Activity::default());
        let waiting = tokio::spawn({
            let tail = tail.clone();
            async move { tail.said(&["never", "fatal"]).await }
        });
        for line in ["all is well\n", "a fatal error\n"] {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            tokio::io::AsyncWriteExt::write_all(&mut writer, line.as_bytes()).await.unwrap();
        }
        waiting.await.unwrap();
        // Said before somebody listens, it is heard too.
        tail.said(&["fatal"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_dropped_and_counted() {
        let mut budget = Budget::new();
        assert_eq!(budget.take(BURST), Some(0));
        assert_eq!(budget.take(100), None);
        assert_eq!(budget.take(100), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(budget.take(100), Some(2));
    }

    proptest! {
        #[test]
        fn lines_are_short_and_printable(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut splitter = Splitter { line: Vec::new(), longest: MAX_LINE };
            let mut lines = Vec::new();
            splitter.push(&bytes, |line| lines.push(line));
            splitter.finish(|line| lines.push(line));
            for line in lines {
                // A replacement character is three bytes for one.
                prop_assert!(line.len() <= 3 * MAX_LINE);
                prop_assert!(!line.chars().any(char::is_control));
            }
        }
    }
}
