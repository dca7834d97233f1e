//! The shim's log: logfmt lines, as logrus prints them, into the fifo that the engine reads.
//!
//! An engine that does not read must not stop a pod. Writing never waits: when the fifo is full, lines are
//! dropped and counted, and the next line that fits says how many. Lines are at most as long as the kernel
//! writes in one piece, so that lines never mix.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc::O_NONBLOCK;
use shared_types::Budget;
use slog::{Drain, KV, Key, Level, Logger, OwnedKVList, Record, Serializer, o};

/// Longest line: `PIPE_BUF`.
const MAX_LINE: usize = 4096;
/// How long a log in a file becomes, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// What a line that was cut ends in.
const CUT: &str = "...\"\n";

/// Where lines go.
#[derive(Debug)]
struct Output<W> {
    writer: W,
    /// Lines that did not fit since the last one that did.
    dropped: u64,
}

/// A drain that writes logfmt to `W` and never waits.
#[derive(Debug)]
struct Logfmt<W> {
    output: Mutex<Output<W>>,
    level: Level,
}

/// The log of the shim whose bundle is the working directory: its `log` fifo, else standard error.
pub fn open(bundle: &Path, debug: bool) -> Logger {
    let level = if debug { Level::Debug } else { Level::Info };
    // Read and write: opening does not fail while nobody reads, and writing raises no signal.
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(bundle.join("log"));
    match fifo {
        Ok(file) => root::<File>(file, level),
        Err(_) => root::<io::Stderr>(io::stderr(), level),
    }
}

/// A log in a file, for who has no engine that reads. It is begun anew when it is long: the one before it is kept.
pub fn to_file(path: &Path) -> io::Result<Logger> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > MAX_FILE) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(root::<File>(file, Level::Info))
}

fn root<W: io::Write + Send + fmt::Debug + 'static>(writer: W, level: Level) -> Logger {
    Logger::root(Logfmt { output: Mutex::new(Output { writer, dropped: 0 }), level }.ignore_res(), o!())
}

/// How many lines of libraries are logged at once, and how many more each second. Some are caused by what a guest sends.
const LIBRARY_BURST: u64 = 100;
const LIBRARY_RATE: u64 = 2;

fn of_libraries(now: Instant) -> Budget {
    Budget::new(LIBRARY_BURST, LIBRARY_RATE, now)
}

/// Sends what libraries log as errors through the `log` facade to `logger`.
pub fn bridge(logger: &Logger) {
    struct Bridge(Logger, Mutex<Budget>);
    impl log::Log for Bridge {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Error
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                let mut budget = self.1.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(dropped) = budget.take(1, Instant::now()) else { return };
                if dropped > 0 {
                    slog::warn!(self.0, "lines of libraries left out: too many at once"; "lines" => dropped);
                }
                slog::error!(self.0, "{}", record.args(); "from" => record.target());
            }
        }
        fn flush(&self) {}
    }
    if log::set_boxed_logger(Box::new(Bridge(logger.clone(), Mutex::new(of_libraries(Instant::now())))))
        .is_ok()
    {
        log::set_max_level(log::LevelFilter::Error);
    }
}

/// Logs a panic before the process ends; its standard error goes nowhere.
pub fn log_panics(logger: &Logger) {
    let logger = logger.clone();
    std::panic::set_hook(Box::new(move |info| slog::crit!(logger, "the shim has a bug and ends: {info}")));
}

impl<W: io::Write + Send> Drain for Logfmt<W> {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> io::Result<()> {
        if !record.level().is_at_least(self.level) {
            return Ok(());
        }
        let line = line(SystemTime::now(), record, context);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.dropped > 0 {
            let note = format!(
                "time=\"{}\" level=warning msg=\"{} log lines were dropped: nobody reads the log\"\n",
                Rfc3339(SystemTime::now()),
                output.dropped
            );
            if output.writer.write(note.as_bytes()).is_err() {
                output.dropped += 1;
                return Ok(());
            }
            output.dropped = 0;
        }
        if output.writer.write(line.as_bytes()).is_err() {
            output.dropped += 1;
        }
        Ok(())
    }
}

fn line(now: SystemTime, record: &Record<'_>, context: &OwnedKVList) -> String {
    let mut line = Line(String::with_capacity(256));
    let _ = write!(line.0, "time=\"{}\" level={} msg=", Rfc3339(now), logrus_level(record.level()));
    line.value(&record.msg().to_string(), true);
    let _ = record.kv().serialize(record, &mut line);
    let _ = context.serialize(record, &mut line);
    let mut line = line.0;
    if line.len() >= MAX_LINE {
        let end = (0..=MAX_LINE - CUT.len()).rev().find(|&at| line.is_char_boundary(at));
        line.truncate(end.unwrap_or(0));
        line.push_str(CUT);
    } else {
        line.push('\n');
    }
    line
}

fn logrus_level(level: Level) -> &'static str {
    match level {
        Level::Critical => "fatal",
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// A line in the making.
struct Line(String);

impl Line {
    /// Appends a value; quoted when logrus would, or always.
    fn value(&mut self, text: &str, always: bool) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
        if !always && !text.is_empty() && text.chars().all(plain) {
            self.0.push_str(text);
            return;
        }
        self.0.push('"');
        for c in text.chars() {
            // Nothing beyond the limit is shown; a guest may print megabytes.
            if self.0.len() > MAX_LINE {
                break;
            }
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '\t' => self.0.push_str("\\t"),
                c if c.is_control() => self.0.extend(c.escape_unicode()),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push(' ');
        self.0.push_str(key.as_ref());
        self.0.push('=');
        self.value(&value.to_string(), false);
        Ok(())
    }
}

/// A point in time as RFC 3339 has it, in UTC with nanoseconds.
struct Rfc3339(SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let nanos = since.subsec_nanos();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01.
///
/// Counts from 0000-03-01, so that a leap day is the last of its year: 146,097 days are 400 years, and the
/// months from March on have 153 days in each run of five.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::io::Read;
    use std::sync::Arc;

    #[derive(Debug, Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: Level, print: impl Fn(&Logger)) -> String {
        let buffer = Buffer::default();
        print(&root(buffer.clone(), level));
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }

    #[test]
    fn a_line_is_what_logrus_prints() {
        let text = logged(Level::Info, |log| slog::info!(log.new(o!("id" => "web")), "VM is up"; "ms" => 12));
        assert_eq!(text, "level=info msg=\"VM is up\" ms=12 id=web\n");
    }

    #[test]
    fn values_are_quoted_and_stay_on_one_line() {
        let text = logged(Level::Info, |log| slog::warn!(log, "a \"b\"\n\x1b[0m"; "k" => "x y", "e" => ""));
        assert_eq!(text, "level=warning msg=\"a \\\"b\\\"\\n\\u{1b}[0m\" e=\"\" k=\"x y\"\n");
    }

    #[test]
    fn debug_lines_appear_only_when_asked_for() {
        assert_eq!(logged(Level::Info, |log| slog::debug!(log, "x")), "");
        assert_eq!(logged(Level::Debug, |log| slog::debug!(log, "x")), "level=debug msg=\"x\"\n");
    }

    #[test]
    fn a_line_never_exceeds_what_the_kernel_writes_in_one_piece() {
        for text in ["x".repeat(1 << 20), "ä".repeat(1 << 20)] {
            let buffer = Buffer::default();
            slog::info!(root(buffer.clone(), Level::Info), "{}", text);
            let line = buffer.0.lock().unwrap().clone();
            assert!(line.len() <= MAX_LINE && line.ends_with(CUT.as_bytes()), "{}", line.len());
        }
    }

    #[test]
    fn a_full_fifo_drops_lines_and_says_so_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let log = open(dir.path(), false);
        for n in 0..2000 {
            slog::info!(log, "{}", "x".repeat(100); "n" => n);
        }
        let mut reader = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
        let mut drain = || {
            let (mut all, mut chunk) = (Vec::new(), [0; 65_536]);
            while let Ok(n @ 1..) = reader.read(&mut chunk) {
                all.extend_from_slice(&chunk[..n]);
            }
            String::from_utf8(all).unwrap()
        };
        let kept = drain().lines().count();
        slog::info!(log, "back");
        let text = drain();
        let expected = format!("msg=\"{} log lines were dropped", 2000 - kept);
        assert!(text.contains(&expected) && text.contains("back"), "{text}");
    }

    #[test]
    fn libraries_that_say_too_much_are_cut_off_and_counted() {
        let begin = Instant::now();
        let mut budget = of_libraries(begin);
        let logged = (0..1000).filter(|_| budget.take(1, begin).is_some()).count();
        assert_eq!(logged, 100);
        let later = begin + Duration::from_secs(1);
        assert_eq!((budget.take(1, later), budget.take(1, later)), (Some(900), Some(0)));
        assert_eq!(budget.take(1, later), None);
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        let show = |seconds| Rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(show(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(show(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(show(1_709_251_199), "2024-02-29T23:59:59.000000000Z");
        assert_eq!(show(4_107_542_400), "2100-03-01T00:00:00.000000000Z");
    }
}
