//! `coffer volume`: model volumes, made where the model is.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use layers::Mkfs;
use model_volumes::{KeyPath, Uuid, luks};
use tempfile::NamedTempFile;
use verity::RootHash;

use crate::files::Kind;

/// Shortest key, in bytes: what a program makes has at least these.
const SHORTEST_KEY: usize = 16;

/// Arguments of `coffer volume`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a volume of a directory, and print its table of volumes.toml
    Build(BuildArgs),
}

#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// The directory whose files the pod shall have
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// The volume's name among the pod's
    #[arg(long)]
    name: String,
    /// Where to write the volume: a file, or a disk, whose content is lost
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Encrypt it with the bytes of this file, of which the key broker gets a copy: 32 from /dev/urandom are a good key
    #[arg(long, value_name = "FILE", requires = "resource")]
    key: Option<PathBuf>,
    /// What the key broker calls the key
    #[arg(long, value_name = "kbs:///REPOSITORY/TYPE/TAG", requires = "key")]
    resource: Option<KeyPath>,
}

/// Makes a volume.
///
/// # Errors
/// A directory or key that cannot be read, a file or disk that cannot be written, no mkfs.erofs.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let Action::Build(args) = &args.action;
    let table = build(args)?;
    // What the guest would refuse is not printed.
    model_volumes::Volumes::parse(&table)
        .with_context(|| format!("{:?} cannot be the volume's name", args.name))?;
    out.write_all(table.as_bytes())?;
    Ok(())
}

fn build(args: &BuildArgs) -> Result<String> {
    let BuildArgs { directory, name, out, key, resource } = args;
    let encrypted = match (key, resource) {
        (Some(key), Some(resource)) => Some((read_key(key)?, resource)),
        _ => None,
    };
    let image = Image::of(directory, out)?;
    let root = image.root;
    let Some((key, resource)) = encrypted else {
        image.copy_to(out)?;
        return Ok(format!("[{name}]\nkind = \"verity\"\nroot_hash = \"{root}\"\n"));
    };
    let mut random = File::open("/dev/urandom").context("cannot read random numbers")?;
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut random, &mut bytes).context("cannot read random numbers")?;
    let uuid = Uuid::of_random(bytes);
    let mut content = image.file.as_file();
    let mut disk = writable(out)?;
    luks::write(&mut disk, &mut content, uuid, &key, &mut random)
        .and_then(|()| disk.sync_all().map_err(|source| luks::LuksError::Io { what: "the volume", source }))
        .with_context(|| format!("cannot write the volume {}", out.display()))?;
    Ok(format!(
        "[{name}]\nkind = \"luks2\"\nuuid = \"{uuid}\"\nkey = \"{resource}\"\nroot_hash = \"{root}\"\n"
    ))
}

fn read_key(path: &Path) -> Result<Vec<u8>> {
    let key = Kind::KEY.read(path)?;
    ensure!(
        key.len() >= SHORTEST_KEY,
        "the key {} has {} bytes: take at least {SHORTEST_KEY}, from /dev/urandom, since guessing it costs nothing",
        path.display(),
        key.len()
    );
    Ok(key)
}

/// An image with its tree, in a file that goes when this is dropped.
struct Image {
    file: NamedTempFile,
    root: RootHash,
}

impl Image {
    /// The image is plain text: beside the volume there is room for it, and whoever may read the volume's directory may not
    /// read this file.
    fn of(directory: &Path, out: &Path) -> Result<Self> {
        let is_there =
            fs::metadata(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        ensure!(
            is_there.is_dir(),
            "{} is no directory: give the one with the model's files",
            directory.display()
        );
        let is_disk = fs::metadata(out).is_ok_and(|found| !found.is_file());
        let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty() && !is_disk);
        let file = match beside {
            Some(beside) => NamedTempFile::new_in(beside),
            None if is_disk => NamedTempFile::new(),
            None => NamedTempFile::new_in("."),
        };
        let mut file = file.with_context(|| format!("cannot make a file beside {}", out.display()))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let search =
            std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into(), "/sbin".into()]);
        Mkfs::find(search)?.directory(directory, file.path())?;
        let root = verity::append(file.as_file_mut(), [0; 16])
            .with_context(|| format!("cannot write the hash tree of {}", directory.display()))?;
        file.as_file_mut().seek(SeekFrom::Start(0)).context("cannot read the image again")?;
        Ok(Self { file, root })
    }

    fn copy_to(&self, out: &Path) -> Result<()> {
        let mut disk = writable(out)?;
        io::copy(&mut self.file.as_file(), &mut disk)
            .and_then(|_| disk.sync_all())
            .with_context(|| format!("cannot write the volume {}", out.display()))
    }
}

/// The volume's file, emptied, or its disk.
fn writable(out: &Path) -> Result<File> {
    let made = match fs::metadata(out) {
        Ok(found) if found.is_dir() => bail!("{} is a directory: name a file or a disk", out.display()),
        Ok(found) if !found.is_file() => File::options().write(true).open(out),
        Ok(_) | Err(_) => File::create(out),
    };
    made.with_context(|| format!("cannot write the volume {}", out.display()))
}
