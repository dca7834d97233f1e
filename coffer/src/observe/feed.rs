//! The log's lines on their way to the counters: once, or for ever.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::counters::Counters;
use super::line::{Line, journal, source};

/// How often a file is looked at for more.
const PAUSE: Duration = Duration::from_secs(1);
/// A longer line is no shim's, and passed over in pieces.
const MAX_LINE: u64 = 1 << 20;

/// What is counted in the log as it is now: the journal's since the machine's start.
///
/// # Errors
/// There is no such log.
pub(super) fn once(log: Option<&Path>) -> Result<Counters> {
    let mut reader = match log {
        Some(_) => source(log)?,
        None => journal(&["--boot"])?,
    };
    let counters = Mutex::new(Counters::default());
    while count(&mut reader, &mut String::new(), &counters)? {}
    Ok(counters.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Counts all that the log has, and what comes, in a thread that ends with the program.
///
/// # Errors
/// There is no such log now.
pub(super) fn follow(log: Option<&Path>, counters: Arc<Mutex<Counters>>) -> Result<()> {
    match log {
        None => {
            let mut reader = journal(&["--boot", "--follow", "--lines=all"])?;
            thread::spawn(
                move || while count(&mut reader, &mut String::new(), &counters).unwrap_or(false) {},
            );
        }
        Some(path) => {
            let mut file = Followed::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            thread::spawn(move || {
                loop {
                    // A file that cannot be read now may be there again later.
                    let _ = file.catch_up(&counters);
                    thread::park_timeout(PAUSE);
                }
            });
        }
    }
    Ok(())
}

/// Counts one line, after what `begun` has of it; `false` at the end, where `begun` keeps a line that is not whole.
fn count(reader: &mut impl BufRead, begun: &mut String, counters: &Mutex<Counters>) -> io::Result<bool> {
    let mut bytes = Vec::new();
    io::Read::take(&mut *reader, MAX_LINE).read_until(b'\n', &mut bytes)?;
    begun.push_str(&String::from_utf8_lossy(&bytes));
    if !bytes.ends_with(b"\n") && (begun.len() as u64) < MAX_LINE {
        return Ok(false);
    }
    if let Some(line) = Line::parse(begun) {
        counters.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
    }
    begun.clear();
    Ok(true)
}

/// A file that grows, and that may be begun anew or replaced by another one (`logrotate(8)`).
struct Followed {
    path: PathBuf,
    reader: BufReader<File>,
    begun: String,
}

impl Followed {
    fn open(path: &Path) -> io::Result<Self> {
        let reader = BufReader::new(File::open(path)?);
        Ok(Self { path: path.to_owned(), reader, begun: String::new() })
    }

    fn catch_up(&mut self, counters: &Mutex<Counters>) -> io::Result<()> {
        use io::Seek;

        // First the rest of the old one.
        while count(&mut self.reader, &mut self.begun, counters)? {}
        let at = self.reader.stream_position()?;
        let (open, named) = (self.reader.get_ref().metadata()?, fs::metadata(&self.path)?);
        if (open.dev(), open.ino()) != (named.dev(), named.ino()) || named.len() < at {
            *self = Self::open(&self.path)?;
            while count(&mut self.reader, &mut self.begun, counters)? {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const RESET: &str = "time=\"1T\" msg=\"GPU: reset\" ms=0 sandbox=a\n";

    fn resets(counters: &Mutex<Counters>) -> String {
        counters.lock().unwrap().text("coffer_gpu_resets_total").unwrap()
    }

    #[test]
    fn a_log_that_grows_is_replaced_or_begun_anew_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, RESET).unwrap();
        let counters = Mutex::new(Counters::default());
        let mut file = Followed::open(&path).unwrap();
        let told = |file: &mut Followed| {
            file.catch_up(&counters).unwrap();
            resets(&counters)
        };
        assert_eq!(told(&mut file), "coffer_gpu_resets_total 1\n");
        // A line that is half written counts when it is whole.
        let mut more = File::options().append(true).open(&path).unwrap();
        more.write_all(&RESET.as_bytes()[..20]).unwrap();
        assert_eq!(told(&mut file), "coffer_gpu_resets_total 1\n");
        more.write_all(&RESET.as_bytes()[20..]).unwrap();
        assert_eq!(told(&mut file), "coffer_gpu_resets_total 2\n");
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        more.write_all(RESET.as_bytes()).unwrap();
        fs::write(&path, RESET).unwrap();
        assert_eq!(told(&mut file), "coffer_gpu_resets_total 4\n");
        fs::write(&path, "").unwrap();
        assert_eq!(told(&mut file), "coffer_gpu_resets_total 4\n");
        fs::write(&path, RESET).unwrap();
        assert_eq!(told(&mut file), "coffer_gpu_resets_total 5\n");
        fs::remove_file(&path).unwrap();
        assert!(file.catch_up(&counters).is_err());
    }

    #[test]
    fn a_log_is_counted_once_and_one_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let error = format!("{:#}", once(Some(&path)).unwrap_err());
        assert!(error.contains("log: No such file"), "{error}");
        fs::write(&path, format!("nonsense\n{RESET}\u{fffd}{RESET}")).unwrap();
        let counted = once(Some(&path)).unwrap().text("coffer_gpu_resets_total").unwrap();
        assert_eq!(counted, "coffer_gpu_resets_total 1\n");
    }
}
