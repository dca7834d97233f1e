//! Opens one encrypted model volume: `coffer-volume REPOSITORY/TYPE/TAG`, with the disk as standard input.
//!
//! It asks the attestation service on the pod's loopback for the key, as containers ask for theirs, and prints one line:
//! `open OFFSET SIZE SECTOR TWEAK KEY`, all but the key in decimal, or `refused REASON`. So what the host wrote into a
//! disk's header is read by a process of its own, and PID 1 reads a line.

mod ask;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use model_volumes::luks::{self, LuksError};
use shared_types::one_line;
use zeroize::Zeroizing;

/// Why a volume stays closed.
#[derive(Debug, thiserror::Error)]
enum VolumeError {
    #[error("coffer-volume wants the name of a key, and got {0:?}")]
    Words(Vec<String>),
    #[error("the disk's size cannot be told")]
    Size(#[source] io::Error),
    #[error("no key kbs:///{path}")]
    Ask {
        path: String,
        #[source]
        source: ask::AskError,
    },
    #[error(transparent)]
    Luks(#[from] LuksError),
}

fn main() -> ExitCode {
    let (line, code) = match run() {
        Ok(line) => (line, ExitCode::SUCCESS),
        Err(error) => (Zeroizing::new(format!("refused {}\n", one_line(&error))), ExitCode::FAILURE),
    };
    match io::stdout().write_all(line.as_bytes()) {
        Ok(()) => code,
        // PID 1 does not want to know any more: the disk has left.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<Zeroizing<String>, VolumeError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path] = words.as_slice() else { return Err(VolumeError::Words(words)) };
    let owned = io::stdin().as_fd().try_clone_to_owned().map_err(VolumeError::Size)?;
    let mut disk = File::from(owned);
    // A block device has no length that a file has.
    let size = disk.seek(SeekFrom::End(0)).map_err(VolumeError::Size)?;
    let key =
        ask::key(ask::SERVICE, path).map_err(|source| VolumeError::Ask { path: path.clone(), source })?;
    let mapping = luks::open(&disk, size, &key)?;
    let mut line = Zeroizing::new(String::with_capacity(512));
    // A string takes everything.
    let _ = write!(line, "open {} {} {} {} ", mapping.offset, mapping.size, mapping.sector, mapping.tweak);
    line.push_str(&mapping.key.hex());
    line.push('\n');
    Ok(line)
}
