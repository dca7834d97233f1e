//! Takes an installation back, in the order in which nothing refers to what has gone.

use crate::daemon::{Daemon, lost};
use crate::disk::{Disk, Fault};
use crate::engine::Kind;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::record::Record;
use crate::root::Root;
use crate::switch::take_out;
use crate::versions::running;

/// What an uninstallation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Whether there was an installation.
    pub was_there: bool,
    /// Files that somebody has changed, and that stay.
    pub kept: Vec<String>,
}

/// Takes an installation back. With `wait`, handlers go although pods run, and it is asked again and again whether they
/// still do; where it answers `false`, the rest stays.
///
/// # Errors
/// Pods run, or something cannot be taken back. What is left is in the record, and running it again goes on.
pub fn uninstall(
    root: &Root,
    instance: &Instance,
    daemon: &dyn Daemon,
    wait: Option<&mut dyn FnMut(usize) -> bool>,
) -> Result<Removed> {
    uninstall_on(&Disk::new(root, Fault::None), instance, daemon, wait)
}

pub(crate) fn uninstall_on(
    disk: &Disk<'_>,
    instance: &Instance,
    daemon: &dyn Daemon,
    wait: Option<&mut dyn FnMut(usize) -> bool>,
) -> Result<Removed> {
    let root = disk.root();
    let Some(mut record) = Record::read(root, instance)? else {
        sweep(disk, instance)?;
        return Ok(Removed { was_there: false, kept: Vec::new() });
    };
    let pods_run = || {
        let running = running(root, instance);
        let which: Vec<_> = running.iter().map(|one| one.pid.to_string()).collect();
        (running.len(), Error::PodsRun { count: running.len(), which: format!("shims {}", which.join(", ")) })
    };
    match (pods_run(), wait) {
        ((0, _), _) => {}
        ((_, refusal), None) => return Err(refusal),
        (_, Some(wait)) => {
            unregister(disk, &mut record, daemon)?;
            loop {
                let (count, refusal) = pods_run();
                if count == 0 {
                    break;
                }
                if !wait(count) {
                    return Err(refusal);
                }
            }
        }
    }
    let kept = take_back(disk, &mut record, daemon)?;
    Ok(Removed { was_there: true, kept })
}

/// Takes away what the engine was told, and sees that it serves without.
pub(crate) fn unregister(disk: &Disk<'_>, record: &mut Record, daemon: &dyn Daemon) -> Result<()> {
    let nothing = record.edits.is_empty() && record.registered.is_empty();
    if nothing && record.handlers.is_empty() && !record.unsettled {
        return Ok(());
    }
    let ours = record.handlers.clone();
    let before = daemon.configured(record.engine).ok();
    if !record.unsettled {
        record.unsettled = true;
        record.save(disk)?;
    }
    remove_registration(disk, record)?;
    let uninstalled = |reason| Error::Uninstalled { engine: record.engine.name(), reason };
    daemon.restart(record.engine).map_err(uninstalled)?;
    let found = daemon.serving(record.engine).map_err(uninstalled)?;
    if let (Some(mut before), Kind::Containerd | Kind::Crio) = (before, record.engine) {
        before.retain(|name, _| !ours.contains(name));
        if let Some(reason) = lost(&before, &found, &[]) {
            return Err(uninstalled(reason));
        }
    }
    (record.edits, record.handlers, record.unsettled) = (Vec::new(), Vec::new(), false);
    record.registered.clear();
    record.save(disk)
}

/// Removes what the engine reads of ours: imports before their files.
pub(crate) fn remove_registration(disk: &Disk<'_>, record: &Record) -> Result<()> {
    record.edits.iter().rev().try_for_each(|edit| take_out(disk, edit))?;
    record.registered.keys().try_for_each(|path| disk.remove(path))
}

/// Removes all that the record names, the record last. Returns the files that somebody has changed.
pub(crate) fn take_back(disk: &Disk<'_>, record: &mut Record, daemon: &dyn Daemon) -> Result<Vec<String>> {
    unregister(disk, record, daemon)?;
    let (root, instance) = (disk.root(), record.instance.clone());
    let mut kept = Vec::new();
    for path in record.files.keys() {
        disk.forget_unfinished(path)?;
        match root.bytes(path)? {
            Some(found) if !record.wrote(path, &found) => kept.push(path.clone()),
            _ => disk.remove(path)?,
        }
    }
    disk.remove(&instance.current())?;
    for name in ["versions", "images"] {
        disk.remove_tree(&format!("{}/{name}", instance.prefix()))?;
    }
    let prefix = instance.prefix();
    for directory in
        record.directories.iter().rev().filter(|directory| !prefix.starts_with(directory.as_str()))
    {
        disk.remove_directory(directory)?;
    }
    let path = Record::path(&instance);
    disk.forget_unfinished(&path)?;
    let ours: Vec<&String> =
        record.directories.iter().filter(|directory| prefix.starts_with(directory.as_str())).collect();
    let alone = |directory: &str| {
        let below = &path[directory.len() + 1..];
        let first = below.split('/').next().unwrap_or_default();
        root.names(directory) == [first]
    };
    // The outermost of our directories that has nothing but the record in it.
    let outermost = ours.iter().position(|directory| path_is_alone(&path, directory, &alone));
    match outermost {
        // In one step, for without its record nobody would know whose the directory is.
        Some(at) => disk.remove_at_once(ours[at])?,
        None => disk.remove(&path)?,
    }
    Ok(kept)
}

fn path_is_alone(path: &str, directory: &str, alone: &impl Fn(&str) -> bool) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| &path[..at]);
    ends.filter(|below| below.len() >= directory.len()).all(alone)
}

/// Removes what an installer that was killed has left before there was a record, or after.
pub(crate) fn sweep(disk: &Disk<'_>, instance: &Instance) -> Result<()> {
    let path = Record::path(instance);
    path.match_indices('/').skip(1).try_for_each(|(at, _)| disk.forget_unfinished_tree(&path[..at]))?;
    disk.forget_unfinished_tree(&path)
}
