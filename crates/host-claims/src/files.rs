//! Files of the host whose size nobody vouches for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A file's content.
///
/// # Errors
/// The file cannot be read, or has more than `max` bytes.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {max} bytes")));
    }
    Ok(content)
}
