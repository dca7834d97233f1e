//! Follows a tar stream and keeps the few files of it that decide who a process is, and what is in some places.
//!
//! Formats: POSIX pax (`x` headers' `path`, `size`, `linkpath`) and GNU (`L`, `K`, sizes in base 256); whiteouts as the OCI
//! image specification has them (`layer.md`). What mkfs.erofs makes of a stream is its own matter: this only looks.

use shared_types::EmptyDirectory;

use crate::accounts::{Entry, Found};
use crate::volumes::Places;

const BLOCK: usize = 512;
/// A pax header or a GNU name; paths have 4096 bytes at most. containerd reads no larger one either (`maxSpecialFileSize` of Go's
/// `archive/tar`).
const MAX_HEADER: u64 = 1 << 20;
const TOO_LARGE: &str = "has more than 1 MiB";
const MALFORMED: &str = "is malformed";

/// An entry that nobody can judge: of the headers before it, which may rename it, one cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Its path as far as that is known, shortened.
    pub(crate) entry: String,
    /// What that header is.
    pub(crate) why: &'static str,
}

/// A stream's reader, to be given all its bytes in order.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    found: Found,
    places: Places,
    /// Part of a header block.
    block: Vec<u8>,
    /// What is being collected of an entry's data, and whose it is.
    kept: Option<(Keep, Vec<u8>)>,
    /// Bytes of data still to come, without padding.
    data: u64,
    /// Bytes of padding after the data.
    padding: u64,
    /// What the headers before said of the next entry.
    next: Next,
    /// No more entries, or bytes that are no tar.
    ended: bool,
    unread: Option<Unread>,
}

#[derive(Debug, Default)]
struct Next {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    /// Why one of these headers cannot be read.
    unread: Option<&'static str>,
}

#[derive(Debug)]
enum Keep {
    Pax,
    LongName,
    LongLink,
    File(String),
}

impl Scanner {
    /// Looks at these places as well.
    pub(crate) fn new(places: Places) -> Self {
        Self { places, ..Self::default() }
    }

    /// The next bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.ended {
            let taken = if self.data > 0 {
                self.take_data(bytes)
            } else if self.padding > 0 {
                let taken = length(self.padding, bytes.len());
                self.padding -= taken as u64;
                taken
            } else {
                self.take_header(bytes)
            };
            bytes = &bytes[taken..];
        }
    }

    /// What was found; an error where an entry may be another one than it looks like.
    pub(crate) fn finish(self) -> Result<(Found, Places), Unread> {
        match self.unread {
            Some(unread) => Err(unread),
            None => Ok((self.found, self.places)),
        }
    }

    fn take_data(&mut self, bytes: &[u8]) -> usize {
        let taken = length(self.data, bytes.len());
        if let Some((_, kept)) = &mut self.kept {
            kept.extend_from_slice(&bytes[..taken]);
        }
        self.data -= taken as u64;
        if self.data == 0
            && let Some((keep, content)) = self.kept.take()
        {
            self.keep(keep, content);
        }
        taken
    }

    fn keep(&mut self, keep: Keep, content: Vec<u8>) {
        match keep {
            Keep::Pax if self.pax(&content).is_none() => self.next.unread = Some(MALFORMED),
            Keep::Pax => {}
            Keep::LongName => self.next.path = Some(until_nul(&content).to_vec()),
            Keep::LongLink => self.next.link = Some(until_nul(&content).to_vec()),
            Keep::File(path) => self.found.file(path, content),
        }
    }

    /// Records of `LENGTH KEY=VALUE\n`, and nothing else; `None` where there is something else.
    fn pax(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|&byte| byte == b' ')?;
            let length = usize::try_from(decimal(&records[..space])?).ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            records = &records[length..];
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let value = &record[equals + 1..];
            match &record[..equals] {
                // It takes back what an earlier header said.
                _ if value.is_empty() => {}
                b"path" => self.next.path = Some(value.to_vec()),
                b"linkpath" => self.next.link = Some(value.to_vec()),
                b"size" => self.next.size = Some(decimal(value)?),
                // One that is no number is nobody's.
                b"uid" => self.next.uid = decimal(value).or(Some(u64::MAX)),
                b"gid" => self.next.gid = decimal(value).or(Some(u64::MAX)),
                _ => {}
            }
        }
        Some(())
    }

    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let taken = (BLOCK - self.block.len()).min(bytes.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            let block = std::mem::take(&mut self.block);
            self.header(&block);
        }
        taken
    }

    fn header(&mut self, block: &[u8]) {
        let Some(size) = number(&block[124..136]) else {
            self.ended = true;
            self.places.unknown();
            return;
        };
        if block.iter().all(|&byte| byte == 0) {
            // Two of these end the archive; mkfs.erofs stops there, too.
            self.ended = true;
            return;
        }
        let kind = block[156];
        match kind {
            b'x' | b'L' | b'K' if size <= MAX_HEADER => {
                let keep = match kind {
                    b'x' => Keep::Pax,
                    b'L' => Keep::LongName,
                    _ => Keep::LongLink,
                };
                self.expect(size, Some(keep));
                return;
            }
            b'x' | b'L' | b'K' => {
                self.next.unread = Some(TOO_LARGE);
                self.expect(size, None);
                return;
            }
            b'g' => {
                self.expect(size, None);
                return;
            }
            _ => {}
        }
        let next = std::mem::take(&mut self.next);
        let path = next.path.unwrap_or_else(|| short_name(block));
        if let Some(why) = next.unread {
            let entry = String::from_utf8_lossy(&path).chars().take(200).collect();
            self.unread = Some(Unread { entry, why });
            self.ended = true;
            return;
        }
        let link = next.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        let size = next.size.unwrap_or(size);
        let owner = |given: Option<u64>, field: &[u8]| given.or_else(|| number(field));
        let directory = || {
            let uid = u32::try_from(owner(next.uid, &block[108..116])?).ok()?;
            let gid = u32::try_from(owner(next.gid, &block[116..124])?).ok()?;
            let mode = u32::try_from(number(&block[100..108])? & 0o7777).ok()?;
            Some(EmptyDirectory { uid, gid, mode })
        };
        let Some(path) = crate::accounts::normal(&path) else {
            self.places.unknown();
            self.expect(if has_data(kind) { size } else { 0 }, None);
            return;
        };
        match kind {
            b'5' => self.places.directory(&path, directory()),
            _ => self.places.other(&path),
        }
        match kind {
            b'0' | 0 | b'7' => {
                let keep = self.found.wants(&path, size).then_some(Keep::File(path));
                if let (0, Some(Keep::File(path))) = (size, &keep) {
                    self.found.file(path.clone(), Vec::new());
                }
                self.expect(size, keep);
            }
            b'1' => self.found.link(path, Entry::Hard(link)),
            b'2' => self.found.link(path, Entry::Symbolic(link)),
            b'5' => self.found.directory(&path),
            // GNU's sparse files have headers behind the header; no builder of images writes them.
            b'S' => {
                self.ended = true;
                self.places.unknown();
            }
            _ => {
                self.found.other(&path);
                self.expect(if has_data(kind) { size } else { 0 }, None);
            }
        }
    }

    fn expect(&mut self, size: u64, keep: Option<Keep>) {
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64).saturating_sub(size);
        self.kept = keep.filter(|_| size > 0).map(|keep| (keep, Vec::new()));
    }
}

/// Device nodes and pipes have none, whatever their size field says.
const fn has_data(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}

fn length(wanted: u64, there: usize) -> usize {
    usize::try_from(wanted).map_or(there, |wanted| wanted.min(there))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Octal digits, or big-endian base 256 with the highest bit set. `None` for what is neither, or no size.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        let (high, low) = rest.split_last_chunk::<8>()?;
        let size = u64::from_be_bytes(*low);
        return (high.iter().all(|&byte| byte == 0) && size < 1 << 62).then_some(size);
    }
    let digits = until_nul(field).trim_ascii();
    let digit =
        |size: u64, byte: &u8| matches!(byte, b'0'..=b'7').then(|| size << 3 | u64::from(byte - b'0'));
    digits.iter().try_fold(0, digit)
}

/// ustar has a prefix; GNU's magic has a space behind it and no prefix.
fn short_name(block: &[u8]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, name].join(&b'/')
    } else {
        name.to_vec()
    }
}
