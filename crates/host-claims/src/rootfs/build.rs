//! Runs mkfs.erofs over a directory tree and puts a hash tree behind what it makes, in a thread that has a mount namespace to
//! itself: the tree's mount is seen by nobody else and gone with the thread, whatever happens to us.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use jail::{Builder, Jail, OUTPUT, Workplace, apart};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use super::cache::{self, Image};
use super::{Error, ImagePlan};
use crate::aside::aside;
use crate::sys;

const PROGRAM: &str = "mkfs.erofs";
/// Part of every cache key: change it when the options below change.
pub(super) const FORMAT: &[u8] = b"coffer-erofs-2\0";
/// Same input, same image: a fixed UUID and build time; files keep their own times.
const OPTIONS: [&str; 6] =
    ["--quiet", "-T0", "--mkfs-time", "--preserve-mtime", "-U00000000-0000-0000-0000-000000000000", "-b4096"];
/// How much of what the program says is kept.
const KEPT: u64 = 2048;

/// Opens the image, and builds it first where needed.
pub(super) async fn run(
    plan: ImagePlan,
    search: &[PathBuf],
    builder: Option<Builder>,
) -> Result<Image, Error> {
    if let Some(image) = plan.cache.open(&plan.place).await? {
        return Ok(image);
    }
    let program = search.iter().map(|dir| dir.join(PROGRAM)).find(|path| path.is_file());
    let program = program.ok_or_else(|| Error::NoMkfs { searched: search.to_vec() })?;
    let lock = plan.cache.build_lock(&plan.place).await?;
    // Another builder of it was waited for.
    if let Some(image) = plan.cache.open(&plan.place).await? {
        return Ok(image);
    }
    let (done, result) = oneshot::channel();
    let (cache, place) = (plan.cache.clone(), plan.place.clone());
    let spawned = std::thread::Builder::new().name("mkfs.erofs".into()).spawn(move || {
        let built = build(&plan, &program, builder.as_ref()).map(|()| lock);
        if done.send(built).is_err()
            && let Some(image) = plan.place.own()
        {
            // Nobody waits any more, so nobody will release it.
            let _ = std::fs::remove_file(image);
        }
    });
    spawned.map_err(Error::file("start a thread for", PROGRAM))?;
    let lost = |_| Error::file("learn the result of", PROGRAM)(io::ErrorKind::BrokenPipe.into());
    // Until it is open nobody else may take it for left behind.
    let _lock = result.await.map_err(lost)??;
    let image = cache.open(&place).await?;
    // What it is for is there; a cache that is too large is no reason to refuse it.
    let _ = aside("cache", move || drop(cache.clean())).await;
    image.ok_or_else(|| Error::file("find the new image", place.path())(io::ErrorKind::NotFound.into()))
}

/// The thread's work.
fn build(plan: &ImagePlan, program: &Path, builder: Option<&Builder>) -> Result<(), Error> {
    let path = plan.place.path();
    plan.cache.clean();
    let temporary =
        Temporary::new(path.with_extension(format!("{}.tmp", std::process::id())), plan.cache.dir())?;
    mkfs(plan, program, &temporary.path, builder)?;
    append_tree(&temporary.path).map_err(|e| cache::full(plan.cache.dir(), &temporary.path, e))?;
    std::fs::rename(&temporary.path, path).map_err(Error::file("rename", &temporary.path))
}

fn mkfs(plan: &ImagePlan, program: &Path, image: &Path, builder: Option<&Builder>) -> Result<(), Error> {
    // Empty for everybody but this thread and the program.
    let target = plan.cache.dir().join("mount");
    std::fs::create_dir_all(&target).map_err(Error::file("make", &target))?;
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        plan.tree.mount_at(&target)
    };
    enter().map_err(|e| Error::file("mount the root file system on", &target)(e.into()))?;
    let (mut child, workplace) =
        start(program, image, &target, builder).map_err(Error::file("start", program))?;
    let said = child.stderr.take().map(last_words).unwrap_or_default();
    let status = child.wait().map_err(Error::file("wait for", program))?;
    workplace.map_or(Ok(()), Workplace::finish).map_err(Error::file("take back", image))?;
    match status.success() {
        true => Ok(()),
        false if said.contains("No space left") || said.contains("Disk quota") => {
            Err(Error::DiskFull { dir: plan.cache.dir().to_owned() })
        }
        false => Err(Error::Mkfs { image: image.to_owned(), status, stderr: said }),
    }
}

/// Starts the program, in a jail if there is somebody to be in it. It has to read files that are others' there.
fn start(
    program: &Path,
    image: &Path,
    tree: &Path,
    builder: Option<&Builder>,
) -> io::Result<(Child, Option<Workplace>)> {
    let arguments = |command: &mut Command, image: &Path| {
        command.args(OPTIONS).args([image, tree]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    };
    let Some(Builder { user, jailer }) = builder else {
        let mut command = Command::new(program);
        arguments(&mut command, image);
        sys::die_with_parent(&mut command);
        return Ok((command.spawn()?, None));
    };
    let workplace = Workplace::new(image, *user)?;
    let jail = Jail { read: vec![tree.to_owned()], reads_all: true, ..workplace.jail() };
    let mut command = jail.command(jailer, program).map_err(io::Error::other)?;
    arguments(&mut command, Path::new(OUTPUT));
    let child = apart(|| command.spawn()).map_err(io::Error::other)??;
    Ok((child, Some(workplace)))
}

/// Puts the hash tree behind the image; the same image gets the same one.
fn append_tree(image: &Path) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(image)?;
    verity::append(&mut file, [0; 16]).map(drop)
}

fn last_words(mut pipe: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = pipe.by_ref().take(KEPT).read_to_end(&mut kept);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// A file that goes when it is dropped, unless it was renamed; locked, so that nobody cleans it away.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Temporary {
    fn new(path: PathBuf, dir: &Path) -> Result<Self, Error> {
        loop {
            let file = File::create(&path).map_err(|e| cache::full(dir, &path, e))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if cache::is_linked(&lock) => {
                    return Ok(Self { path, _lock: lock });
                }
                // Another shim took it for what a dead one left before it was locked, and removes it.
                Ok(_) | Err((_, Errno::EWOULDBLOCK)) => std::thread::yield_now(),
                Err((_, error)) => return Err(Error::file("lock", &path)(error.into())),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
