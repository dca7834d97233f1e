//! What a dead server left, given back by a process of its own: engines give `delete` a few seconds, a GPU's reset and scrub
//! take longer.
//!
//! `delete` and `start` run this binary again, in a session of its own. It makes the sandbox's record its own, which is
//! said on its standard output, gives everything back, and says that, too. Its log is [`LOG`].
//!
//! A machine that lost its power has no records any more, and on its disk the images that single containers had. So the first
//! `start` after a boot has those removed as well.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use containerd_shim::Flags;
use host_claims::rootfs::{Cache, DEFAULT_CACHE_BYTES, IMAGES};
use nix::unistd::setsid;
use slog::{Logger, error, info, o, warn};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use vmm::state::{Orphan, ROOT, StateDir, orphans};

use crate::api::{self, ContainerId, Namespace, one_line};
use crate::logging;

/// The log's name in [`ROOT`].
const LOG: &str = "reaper.log";
/// The file in [`ROOT`] that says that images were looked after since the machine has booted.
const CLEANED: &str = "images-cleaned";
/// What is said when everything is given back.
const DONE: &str = "done";
/// How a failure begins.
const FAILED: &str = "failed: ";
/// Most dead sandboxes that one `start` looks after; the next takes the rest.
const MOST: usize = 16;

/// Dead sandboxes that cannot be given back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A malformed identifier.
    #[error(transparent)]
    Id(#[from] api::Error),
    /// It could not be run.
    #[error("cannot start the process that releases what the sandbox left on the host")]
    Spawn(#[source] io::Error),
    /// It could not work.
    #[error("cannot {action}")]
    System {
        /// What.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said so.
    #[error("cannot release what the sandbox left on the host: {0}")]
    Failed(String),
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { action, source }
}

/// Has another process release what the sandbox left, and waits `patience` for it. It goes on when that is over.
///
/// # Errors
/// It could not be started, or failed within that time.
pub fn release(namespace: &Namespace, id: &ContainerId, patience: Duration) -> Result<(), Error> {
    let path = StateDir::path_of(Path::new(ROOT), namespace.as_str(), id.as_str());
    if !path.exists() {
        return Ok(());
    }
    let (reader, writer) = io::pipe().map_err(Error::Spawn)?;
    spawn("reap", namespace.as_str(), id.as_str(), writer.into())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    runtime.block_on(async {
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(system("listen to the process"))?;
        let mut lines = BufReader::new(reader).lines();
        match timeout(patience, lines.next_line()).await {
            // It works on, and its log says how it went.
            Err(_) => Ok(()),
            Ok(Ok(Some(line))) if line == DONE => Ok(()),
            Ok(Ok(Some(line))) => Err(Error::Failed(line.trim_start_matches(FAILED).to_owned())),
            Ok(Ok(None)) => Err(Error::Failed("the process that should do it ended early".to_owned())),
            Ok(Err(error)) => Err(system("listen to the process")(error)),
        }
    })
}

/// Has every sandbox whose server is dead given back, of all namespaces, without waiting for it; once after each boot also the
/// images of those that have no record any more. `except` is about to be made anew, which gives it back by itself.
pub fn sweep(except: &Path) {
    let spawned = |action: &str, path: &Path| {
        let name = |path: Option<&Path>| Some(path?.file_name()?.to_str()?.to_owned());
        let (namespace, id) = (name(path.parent())?, name(Some(path))?);
        spawn(action, &namespace, &id, Stdio::null()).ok()
    };
    let root = Path::new(ROOT);
    // A start does not fail for what others left.
    for path in orphans(root).into_iter().filter(|path| path != except).take(MOST) {
        let _ = spawned("reap", &path);
    }
    if is_first(root) && spawned("clean", except).is_none() {
        // The next start tries again.
        let _ = fs::remove_file(root.join(CLEANED));
    }
}

/// Whether nobody has asked this since the machine has booted: the directory is in memory.
fn is_first(root: &Path) -> bool {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.and_then(|()| File::create_new(root.join(CLEANED))).is_ok()
}

/// Where the sandbox has its record.
pub fn record_of(namespace: &Namespace, id: &ContainerId) -> PathBuf {
    StateDir::path_of(Path::new(ROOT), namespace.as_str(), id.as_str())
}

fn spawn(action: &str, namespace: &str, id: &str, said: Stdio) -> Result<(), Error> {
    let program = env::current_exe().map_err(Error::Spawn)?;
    let mut command = Command::new(program);
    command
        .args(["-namespace", namespace, "-id", id, action])
        // The bundle, where this one runs, is about to be removed.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(said)
        .stderr(Stdio::null());
    command.spawn().map(drop).map_err(Error::Spawn)
}

/// The other process: takes the sandbox, gives it back, and tells on standard output how that went.
///
/// # Errors
/// [`Error`]; standard output says so as well, as long as somebody listens.
pub fn reap(flags: &Flags) -> Result<(), Error> {
    let namespace = Namespace::new(flags.namespace.as_str())?;
    let id = ContainerId::new(flags.id.as_str())?;
    let log = apart()?.new(o!("namespace" => namespace.to_string(), "sandbox" => id.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let result = runtime.block_on(give_back(&record_of(&namespace, &id), &log));
    let said = match &result {
        Ok(()) => DONE.to_owned(),
        Err(text) => format!("{FAILED}{text}"),
    };
    // Whoever asked may have gone by now.
    let _ = writeln!(io::stdout(), "{said}");
    let _ = File::open("/dev/null").map(|null| nix::unistd::dup2_stdout(&null));
    // Nobody waits for that: it may be many files, and no pod's name hangs on it.
    clear(&images(), &log);
    result.map_err(Error::Failed)
}

/// The other process of a machine's first `start`: removes images that nobody has a record of.
///
/// # Errors
/// [`Error::System`].
pub fn clean(_: &Flags) -> Result<(), Error> {
    clear(&images(), &apart()?);
    Ok(())
}

/// Leaves who started this process; the log.
fn apart() -> Result<Logger, Error> {
    setsid().map_err(|error| system("start a session")(error.into()))?;
    let log =
        logging::to_file(&Path::new(ROOT).join(LOG)).map_err(system("open the log of what is released"))?;
    logging::log_panics(&log);
    Ok(log)
}

fn images() -> Cache {
    Cache::new(IMAGES, DEFAULT_CACHE_BYTES)
}

fn clear(images: &Cache, log: &Logger) {
    for image in images.clean() {
        info!(log, "removed an image that nobody uses"; "image" => %image.display());
    }
}

async fn give_back(path: &Path, log: &Logger) -> Result<(), String> {
    let orphan = match Orphan::take(path).await {
        Ok(Some(orphan)) => orphan,
        Ok(None) => {
            info!(log, "nothing to release: the sandbox is gone, lives, or is somebody else's by now");
            return Ok(());
        }
        Err(error) => {
            error!(log, "cannot release a sandbox"; "error" => one_line(&error));
            return Err(one_line(&error));
        }
    };
    info!(log, "releasing what a dead sandbox left on the host");
    let failures: Vec<String> = orphan.release(log).await.iter().map(|failure| one_line(failure)).collect();
    for failure in &failures {
        warn!(log, "could not release a claim on the host"; "error" => failure);
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_record_go_once_after_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (root, images) = (dir.path().join("run/coffer"), dir.path().join("erofs"));
        // Many pods may start at once, and one of them does it.
        assert_eq!([(); 3].map(|()| is_first(&root)), [true, false, false]);
        // The machine has booted anew.
        fs::remove_dir_all(&root).unwrap();
        assert!(is_first(&root));
        fs::create_dir(&images).unwrap();
        let [left, shared] = ["own-1.erofs", "abc.erofs"].map(|name| images.join(name));
        for image in [&left, &shared] {
            fs::write(image, "x").unwrap();
        }
        clear(&Cache::new(&images, DEFAULT_CACHE_BYTES), &Logger::root(slog::Discard, o!()));
        assert_eq!([left, shared].map(|image| image.exists()), [false, true]);
    }
}
