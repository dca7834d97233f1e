//! Files of sysfs, parsed.

use std::io;
use std::path::Path;

use super::{Bar, Error};

/// `IORESOURCE_*` of the kernel's include/linux/ioport.h, as they are in a device's `resource` file.
const MEMORY: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;

pub(super) fn content(path: &Path, content: &str, expected: &'static str) -> Error {
    Error::Content { path: path.to_owned(), content: content.chars().take(80).collect(), expected }
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// `None` for a file that this kernel or device does not have.
pub(super) fn optional(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// A number as in `0x10de`.
pub(super) fn hex(path: &Path) -> Result<u32, Error> {
    let text = read(path)?;
    parse_hex(text.trim())
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| content(path, &text, "hexadecimal number"))
}

fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The last part of a link's target: a driver's or a group's name.
pub(super) fn link_name(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// The BARs of a `resource` file: a line `start end flags` for each of the six, then ROM and bridge windows.
pub(super) fn resource(path: &Path) -> Result<Vec<Bar>, Error> {
    let text = read(path)?;
    let mut bars = Vec::new();
    for (index, line) in (0..6).zip(text.lines()) {
        let bar = parse_line(index, line).ok_or_else(|| content(path, line, "PCI resource"))?;
        bars.extend(bar);
    }
    Ok(bars)
}

/// Outer `None`: not a line of the kernel's. Inner: no memory BAR.
fn parse_line(index: u8, line: &str) -> Option<Option<Bar>> {
    let mut words = line.split_ascii_whitespace().map(parse_hex);
    let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
    if words.next().is_some() {
        return None;
    }
    if flags & MEMORY == 0 || end == 0 {
        return Some(None);
    }
    let size = end.checked_sub(start)?.checked_add(1)?;
    Some(Some(Bar { index, size, prefetchable: flags & PREFETCH != 0, wide: flags & WIDE != 0 }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_of_the_kernel() {
        let line = "0x000000a000000000 0x000000bfffffffff 0x000000000014220c";
        let bar = Bar { index: 2, size: 128 << 30, prefetchable: true, wide: true };
        assert_eq!(parse_line(2, line), Some(Some(bar)));
        assert_eq!(parse_line(1, "0x0000000000000000 0x0000000000000000 0x0000000000000000"), Some(None));
    }

    #[test]
    fn an_end_before_its_start_is_refused() {
        assert_eq!(parse_line(0, "0x2000 0x1000 0x200"), None);
        assert_eq!(parse_line(0, "0x0 0xffffffffffffffff 0x200"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_safe(line in ".{0,80}") {
            let _ = parse_line(0, &line);
        }
    }
}
