//! One layer: its blob in, an EROFS image with a hash tree out, everything checked on the way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ChildStdin;
use std::thread;

use flate2::read::MultiGzDecoder;
use rustix::pipe::fcntl_setpipe_size;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use verity::RootHash;

use crate::accounts::Found;
use crate::error::Error;
use crate::mkfs::{Mkfs, Version, verity_uuid, words};
use crate::tar::{Scanner, Unread};
use crate::volumes::Places;
use crate::{Digest, Layer};

/// Also the size that the pipe to mkfs.erofs gets, as large as anybody's may be by default.
const CHUNK: usize = 1 << 20;
/// The end of an archive: what erofs-utils before 1.9 wants to see of an empty layer.
const EMPTY: [u8; 1024] = [0; 1024];

/// What a layer became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// The blob.
    pub digest: Digest,
    /// The blob's content.
    pub diff_id: Digest,
    /// Names the content of the image that was made.
    pub root_hash: RootHash,
    /// What made it: another version may make other bytes.
    pub erofs_utils: Version,
    /// Who a process is, as far as this layer says it.
    pub(crate) accounts: Found,
    /// What this layer has where volumes of images are. A note of an earlier version has nothing of it.
    #[serde(default)]
    pub(crate) places: Places,
}

/// Converts a layer into a new file, and appends the hash tree. `blob` is read to its end; nothing of the file may be
/// used where this fails. `places` are looked at on the way.
pub(crate) fn convert(
    mkfs: &Mkfs,
    layer: &Layer,
    places: Places,
    blob: &mut dyn Read,
    image: &Path,
) -> Result<Converted, Error> {
    let digest = layer.blob.digest;
    let mut started = mkfs.start(digest, image)?;
    let child = &mut started.child;
    let said = child.stderr.take().map(|pipe| thread::spawn(|| words(pipe)));
    let stdin = child.stdin.take();
    let fed = stdin.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
    let fed = fed.map_err(Error::file("write to", image)).and_then(|stdin| feed(layer, places, blob, stdin));
    if fed.is_err() {
        // It waits for the rest, which does not come, and would make an image of what it has.
        let _ = child.kill();
    }
    let status = child.wait().map_err(Error::file("wait for mkfs.erofs of", image))?;
    let said = said.and_then(|thread| thread.join().ok()).unwrap_or_default();
    started.finish().map_err(Error::file("take back", image))?;
    let (accounts, places) = fed?;
    if !status.success() {
        return Err(match image.parent() {
            Some(dir) if said.contains("No space left") || said.contains("Disk quota") => {
                Error::DiskFull { dir: dir.to_owned() }
            }
            _ => Error::Mkfs { layer: digest, version: mkfs.version(), status, said },
        });
    }
    let mut file = File::options().read(true).write(true).open(image).map_err(Error::file("open", image))?;
    let root_hash = verity::append(&mut file, verity_uuid(digest));
    let root_hash = root_hash.map_err(Error::file("write a hash tree to", image))?;
    Ok(Converted { digest, diff_id: layer.diff_id, root_hash, erofs_utils: mkfs.version(), accounts, places })
}

/// Gives mkfs.erofs the layer's content, and checks blob and content against the image's documents.
fn feed(
    layer: &Layer,
    places: Places,
    blob: &mut dyn Read,
    stdin: ChildStdin,
) -> Result<(Found, Places), Error> {
    let _ = fcntl_setpipe_size(&stdin, CHUNK);
    let mut blob = Blob {
        from: blob,
        hash: Sha256::new(),
        size: 0,
        limit: layer.blob.size,
        ended: false,
        broken: false,
    };
    let mut start = [0; 4];
    let length = fill(&mut blob, &mut start).map_err(|e| unread(layer, e))?;
    let start = &start[..length];
    let kind = Kind::of(start);
    // The content of a plain tar is hashed already.
    let hash = (kind != Kind::Plain).then(Sha256::new);
    let mut content = Content { mkfs: Some(stdin), hash, scanner: Scanner::new(places), size: 0 };
    let copied = {
        let whole = start.chain(&mut blob);
        match kind {
            Kind::Gzip => content.copy(&mut MultiGzDecoder::new(whole)),
            Kind::Zstd => zstd::Decoder::new(whole).and_then(|mut decoder| content.copy(&mut decoder)),
            Kind::Plain => content.copy(&mut { whole }),
        }
    };
    // A decompressor may stop before the end, and has to where the bytes are wrong.
    let drained = blob.drain();
    match (copied, drained) {
        (_, Err(error)) => return Err(unread(layer, error)),
        (Err(error), Ok(())) if blob.broken => return Err(unread(layer, error)),
        (Err(error), Ok(())) => {
            // Bytes that are not the blob's are the reason, whatever they looked like.
            blob.check(layer)?;
            return Err(match error.downcast::<Error>() {
                Ok(own) => own,
                Err(source) => Error::Unpack { layer: layer.blob.digest, kind: kind.name(), source },
            });
        }
        (Ok(()), Ok(())) => {}
    }
    blob.check(layer)?;
    content.finish(layer)
}

fn unread(layer: &Layer, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(source) => Error::Read { what: "layer", digest: layer.blob.digest, source },
    }
}

fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < to.len() {
        match from.read(&mut to[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// How a blob is compressed, which its first bytes say: media types are often wrong, and containerd does not ask them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip,
    Zstd,
}

impl Kind {
    const fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable one before it.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "a plain tar",
            Self::Gzip => "compressed with gzip",
            Self::Zstd => "compressed with zstd",
        }
    }
}

/// The blob as it is read.
struct Blob<'a> {
    from: &'a mut dyn Read,
    hash: Sha256,
    size: u64,
    limit: u64,
    ended: bool,
    /// It could not be read to its end.
    broken: bool,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.size > self.limit || self.ended || self.broken {
            return Ok(0);
        }
        let read = self.from.read(buffer).inspect_err(|_| self.broken = true)?;
        self.ended = read == 0;
        self.size += read as u64;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

impl Blob<'_> {
    fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    fn check(&self, layer: &Layer) -> Result<(), Error> {
        let expected = &layer.blob;
        if self.size != expected.size {
            let (digest, expected, found) = (expected.digest, expected.size, self.size);
            return Err(Error::Size { what: "layer", digest, expected, found });
        }
        let found = Digest::finish(self.hash.clone());
        if found == expected.digest {
            Ok(())
        } else {
            Err(Error::Digest { what: "layer", expected: expected.digest, found })
        }
    }
}

/// The content as it is passed on.
struct Content {
    /// Gone once mkfs.erofs wants no more.
    mkfs: Option<ChildStdin>,
    hash: Option<Sha256>,
    scanner: Scanner,
    size: u64,
}

impl Content {
    fn copy(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match fill(from, &mut buffer)? {
                0 => break,
                length => self.take(&buffer[..length])?,
            }
        }
        if self.size == 0 {
            self.write(&EMPTY)?;
        }
        self.mkfs = None;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        // mkfs.erofs works on these bytes while we look at them.
        self.write(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.scanner.push(bytes);
        Ok(())
    }

    /// mkfs.erofs stops reading at the archive's end, or with an error that its status tells.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mkfs) = &mut self.mkfs else { return Ok(()) };
        match mkfs.write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.mkfs = None,
            other => other?,
        }
        Ok(())
    }

    fn finish(self, layer: &Layer) -> Result<(Found, Places), Error> {
        let found = self.hash.map_or(layer.blob.digest, Digest::finish);
        if found != layer.diff_id {
            return Err(Error::DiffId { layer: layer.blob.digest, expected: layer.diff_id, found });
        }
        let unread = |Unread { entry, why }| Error::TarHeader { layer: layer.blob.digest, entry, why };
        self.scanner.finish().map_err(unread)
    }
}
