//! Takes an installation back, in the order in which nothing refers to what has gone.

use crate::daemon::{Daemon, Runtimes, lost};
use crate::disk::{Disk, Fault};
use crate::engine::{Kind, has_handler};
use crate::error::{Error, Result};
use crate::heir::hand_over;
use crate::instance::Instance;
use crate::record::Record;
use crate::root::Root;
use crate::switch::{restore, take_out};
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
    let mut kept = Vec::new();
    let pods_run = || {
        let running = running(root, instance);
        let which: Vec<_> = running.iter().map(|one| one.pid.to_string()).collect();
        (running.len(), Error::PodsRun { count: running.len(), which: format!("shims {}", which.join(", ")) })
    };
    match (pods_run(), wait) {
        ((0, _), _) => {}
        ((_, refusal), None) => return Err(refusal),
        (_, Some(wait)) => {
            kept = unregister(disk, &mut record, daemon)?;
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
    kept.extend(take_back(disk, &mut record, daemon)?);
    Ok(Removed { was_there: true, kept })
}

/// Takes away what the engine was told, and sees that it serves without: it has what others told it still, and nothing of ours.
/// Returns the files of the engine's that stay, for somebody has changed them.
pub(crate) fn unregister(disk: &Disk<'_>, record: &mut Record, daemon: &dyn Daemon) -> Result<Vec<String>> {
    let nothing = record.edits.is_empty() && record.registered.is_empty();
    if nothing && record.handlers.is_empty() && !record.unsettled {
        return Ok(Vec::new());
    }
    let (root, had) = (disk.root(), record.clone());
    let mut before = daemon.configured(record.engine).ok();
    if let Some(before) = &mut before {
        before.retain(|name, _| !record.handlers.contains(name));
    }
    let text = |path: &String| Ok((path.clone(), root.text(path)?));
    let texts = record.told_files().into_iter().map(text).collect::<Result<Vec<_>>>()?;
    let heir = hand_over(disk, record)?;
    record.unsettled = true;
    record.save(disk)?;
    let kept = remove_registration(disk, record)?;
    if let Some(refusal) = refusal(root, record, before.as_ref(), daemon) {
        // What the engine could not read is not put back.
        if before.is_some() {
            texts.iter().try_for_each(|(path, text)| restore(disk, path, text.as_deref()))?;
            *record = had;
            record.save(disk)?;
            heir.map_or(Ok(()), |heir| heir.save(disk))?;
        }
        return Err(refusal);
    }
    let uninstalled = |reason| Error::Uninstalled { engine: record.engine.name(), reason };
    daemon.restart(record.engine).map_err(uninstalled)?;
    let found = daemon.serving(record.engine).map_err(uninstalled)?;
    // k3s and rke2 tell only now what they have made of their template.
    if let Some(refusal) = rewritten(root, record, &found) {
        return Err(refusal);
    }
    if let (Some(before), Kind::Containerd | Kind::Crio) = (before, record.engine)
        && let Some(reason) = lost(&before, &found, &[])
    {
        return Err(uninstalled(reason));
    }
    (record.edits, record.handlers, record.unsettled) = (Vec::new(), Vec::new(), false);
    record.registered.clear();
    record.save(disk)?;
    Ok(kept)
}

/// Why the engine is not to be started with what its files say now that ours is out of them.
fn refusal(root: &Root, record: &Record, before: Option<&Runtimes>, daemon: &dyn Daemon) -> Option<Error> {
    if !matches!(record.engine, Kind::Containerd | Kind::Crio) {
        return None;
    }
    let needed = |reason| Error::Needed { engine: record.engine.name(), reason };
    match (before, daemon.configured(record.engine)) {
        (before, Ok(found)) => {
            rewritten(root, record, &found).or_else(|| lost(before?, &found, &[]).map(needed))
        }
        (Some(_), Err(reason)) => Some(needed(reason)),
        // It could not be read before either: its start says more.
        (None, Err(_)) => None,
    }
}

/// The refusal where the engine has a handler of ours still, with the file that has it in somebody else's words.
fn rewritten(root: &Root, record: &Record, found: &Runtimes) -> Option<Error> {
    let handler = record.handlers.iter().find(|handler| found.contains_key(*handler))?;
    let main = record.engine.main_file().to_owned();
    let directory = match record.engine {
        Kind::Crio => "/etc/crio/crio.conf.d",
        _ => "/etc/containerd/conf.d",
    };
    let others = root.names(directory).into_iter().map(|name| format!("{directory}/{name}"));
    let mut files = record.told_files().into_iter().cloned().chain([main.clone()]).chain(others);
    let has_it =
        |path: &String| root.text(path).ok().flatten().is_some_and(|text| has_handler(&text, handler));
    Some(Error::Rewritten { path: files.find(has_it).unwrap_or(main), handler: handler.clone() })
}

/// Removes what the engine reads of ours: imports before their files. Returns the files that stay.
pub(crate) fn remove_registration(disk: &Disk<'_>, record: &Record) -> Result<Vec<String>> {
    record.edits.iter().rev().try_for_each(|edit| take_out(disk, edit))?;
    let mut kept = Vec::new();
    for path in record.registered.keys() {
        if !take_away(disk, record, path)? {
            kept.push(path.clone());
        }
    }
    Ok(kept)
}

/// Removes a file that the engine reads of ours. Where others have added to it, what was written is cut out; `false` where that is
/// not there as it was written, so that the file stays.
pub(crate) fn take_away(disk: &Disk<'_>, record: &Record, path: &str) -> Result<bool> {
    let root = disk.root();
    if !record.is_shared(path) {
        return disk.remove(path).map(|()| true);
    }
    match root.text(path)? {
        Some(text) if !record.wrote(path, text.as_bytes()) => {
            disk.forget_unfinished(path)?;
            let Some(rest) = record.without_written(path, &text) else { return Ok(false) };
            disk.rewrite(path, rest.as_bytes()).map(|()| true)
        }
        _ => disk.remove(path).map(|()| true),
    }
}

/// Removes all that the record names, the record last. Returns the files that somebody has changed.
pub(crate) fn take_back(disk: &Disk<'_>, record: &mut Record, daemon: &dyn Daemon) -> Result<Vec<String>> {
    let mut kept = unregister(disk, record, daemon)?;
    let (root, instance) = (disk.root(), record.instance.clone());
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
