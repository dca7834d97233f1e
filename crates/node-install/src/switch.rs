//! The switch: what new pods get and what the engine is told are changed, and put back where it does not come about.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::sha256;
use crate::daemon::{Daemon, Runtimes, lost};
use crate::disk::Disk;
use crate::dropin::{Erofs, Handler, Registration, registration, template};
use crate::engine::{Engine, Kind, has_handler};
use crate::error::{Error, Result};
use crate::import::Edit;
use crate::install::{Installed, Staged, changed_by_hand, make_parents};
use crate::record::Record;
use crate::root::Root;
use crate::uninstall::{remove_registration, take_away, unregister};
use crate::versions::collect;

/// Gives new pods what is staged, and tells the engine of the handlers; or puts back what was.
pub(crate) fn switch(
    disk: &Disk<'_>,
    staged: &mut Staged,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    let Staged { record, engine, id, configs, .. } = staged;
    let (root, instance) = (disk.root(), record.instance.clone());
    if record.engine != engine.kind && !record.handlers.is_empty() {
        unregister(disk, record, daemon)?;
    }
    record.engine = engine.kind;
    let template = match template(engine) {
        // Our own template, or our words in somebody's, are as good as not there.
        Some(path) => plain_text(root, record, &path)?
            .map(|text| not_rewritten(record, &path, &text).map(|()| text))
            .transpose()?,
        None => None,
    };
    let plain = plain_engine(engine, record)?;
    if let Some(main) = plain.main.as_ref().filter(|_| plain.replaces_plugins()) {
        not_rewritten(record, engine.kind.main_file(), main)?;
    }
    let wanted = registration(&plain, &instance, handlers, erofs, template.as_deref())?;
    let names: Vec<String> = handlers.iter().map(|handler| handler.name.clone()).collect();
    let is_told = record.handlers == names && is_in_place(root, record, &wanted)?;
    // What can be refused by a look is, before anything is changed.
    let had = if is_told { Runtimes::new() } else { look(root, record, &wanted, daemon)? };
    let before = Before::read(root, record, configs)?;
    let mut restarted = false;
    let outcome = turn(disk, record, id, configs).map_err(Stop::Failed).and_then(|()| {
        if is_told {
            return Ok(());
        }
        tell(disk, record, &wanted, &names, &had, daemon)?;
        restarted = true;
        start(disk, record, &had, names, daemon)
    });
    let Err(stop) = outcome else {
        let collected = collect(disk, &instance, id)?;
        return Ok(Installed { version: id.clone(), restarted, collected });
    };
    let back = before.put_back(disk, record, restarted, daemon);
    let engine = engine.kind.name();
    Err(match (stop, back) {
        // What cannot be put back is in the record; the first failure is what is told.
        (Stop::Failed(error), _) | (Stop::Refused(_), Err(error)) => error,
        (Stop::Refused(reason), Ok(None)) => Error::RolledBack { engine, reason },
        (Stop::Refused(reason), Ok(Some(then))) => Error::RollbackFailed { engine, reason, then },
    })
}

/// Why an installation does not come to its end.
enum Stop {
    /// A step of ours fails.
    Failed(Error),
    /// The engine does not work with what it is told; why.
    Refused(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Gives new pods a version, and its configuration just before.
fn turn(disk: &Disk<'_>, record: &mut Record, id: &str, configs: &[(String, String)]) -> Result<()> {
    let (root, current) = (disk.root(), record.instance.current());
    for (path, text) in configs {
        if changed_by_hand(root, record, path)?.is_none() && root.text(path)?.as_deref() != Some(text) {
            record.note_directories(root, path);
            note(&mut record.files, path, text);
            record.save(disk)?;
            make_parents(disk, path)?;
            disk.write(path, text.as_bytes(), 0o644)?;
        }
    }
    let target = format!("versions/{id}");
    if root.target(&current).as_deref() != Some(&target) || record.version.as_deref() != Some(id) {
        record.version = Some(id.to_owned());
        record.save(disk)?;
        disk.link(&current, &target)?;
    }
    Ok(())
}

fn note(files: &mut BTreeMap<String, Vec<String>>, path: &str, text: &str) {
    let digests = files.entry(path.to_owned()).or_default();
    let digest = sha256(text.as_bytes());
    if !digests.contains(&digest) {
        digests.push(digest);
    }
}

/// A file's text without what is ours in it; `None` where nothing else is.
fn plain_text(root: &Root, record: &Record, path: &str) -> Result<Option<String>> {
    root.text(path)?.map_or(Ok(None), |text| without_ours(record, path, text))
}

fn without_ours(record: &Record, path: &str, text: String) -> Result<Option<String>> {
    let text = without_edits(record, path, text)?;
    if record.wrote(path, text.as_bytes()) {
        return Ok(None);
    }
    Ok(Some(record.without_written(path, &text).unwrap_or(text)))
}

/// Sees that none of our handlers is in a file beside what we wrote there. Whoever writes it anew keeps them (`nvidia-ctk`,
/// `containerd config migrate`), in words that are not ours, and they would be there twice.
fn not_rewritten(record: &Record, path: &str, plain: &str) -> Result<()> {
    match record.handlers.iter().find(|handler| has_handler(plain, handler)) {
        Some(handler) => Err(Error::Rewritten { path: path.to_owned(), handler: handler.clone() }),
        None => Ok(()),
    }
}

fn without_edits(record: &Record, path: &str, mut text: String) -> Result<String> {
    for edit in record.edits.iter().rev().filter(|edit| edit.path == path) {
        if let Some(plain) = edit.undo(&text)? {
            text = plain;
        }
    }
    Ok(text)
}

/// The engine as it was before us.
fn plain_engine(engine: &Engine, record: &Record) -> Result<Engine> {
    let mut plain = engine.clone();
    let path = engine.kind.main_file();
    if let Some(main) = &engine.main {
        plain.main = without_ours(record, path, main.clone())?;
        if let Some(text) = plain.main.clone().filter(|text| text != main) {
            plain.forget_imports(&text)?;
        }
    }
    Ok(plain)
}

/// Whether all of it is there already, and nothing else of ours.
fn is_in_place(root: &Root, record: &Record, wanted: &Registration) -> Result<bool> {
    for (path, text) in &wanted.files {
        if root.text(path)?.as_deref() != Some(text) {
            return Ok(false);
        }
    }
    let no_more = record.registered.keys().all(|path| wanted.files.iter().any(|(wanted, _)| wanted == path));
    Ok(no_more && is_edited(root, record, wanted)?)
}

/// Whether the files of others have all the words, and no others of ours.
fn is_edited(root: &Root, record: &Record, wanted: &Registration) -> Result<bool> {
    let Some(last) = wanted.edits.last() else { return Ok(record.edits.is_empty()) };
    let text = root.text(&last.path)?;
    Ok(record.edits == wanted.edits && text.is_some_and(|text| sha256(text.as_bytes()) == last.after))
}

/// Sees that no file of the engine's that is to be written is somebody else's. Returns the runtimes that it has beside ours.
fn look(root: &Root, record: &Record, wanted: &Registration, daemon: &dyn Daemon) -> Result<Runtimes> {
    for (path, _) in &wanted.files {
        let foreign = root.bytes(path)?.is_some_and(|found| !record.wrote(path, &found));
        if foreign || root.is_link(path) {
            return Err(Error::Foreign { path: path.clone(), instance: record.instance.to_string() });
        }
    }
    let reason = |reason| Error::Daemon { engine: record.engine.name(), reason };
    let mut found = daemon.configured(record.engine).map_err(reason)?;
    found.retain(|name, _| !record.handlers.contains(name));
    Ok(found)
}

/// Writes the engine's files, and asks it what it reads.
fn tell(
    disk: &Disk<'_>,
    record: &mut Record,
    wanted: &Registration,
    names: &[String],
    had: &Runtimes,
    daemon: &dyn Daemon,
) -> std::result::Result<(), Stop> {
    let root = disk.root();
    record.unsettled = true;
    let new: Vec<String> = names.iter().filter(|name| !record.handlers.contains(name)).cloned().collect();
    record.handlers.extend(new);
    for (path, text) in &wanted.files {
        record.note_directories(root, path);
        note(&mut record.registered, path, text);
    }
    record.save(disk)?;
    // Imports go before their files, and files come before their import. All words go where one is missing, since each stands on
    // those before it.
    if !is_edited(root, record, wanted)? {
        record.edits.iter().rev().try_for_each(|edit| take_out(disk, edit))?;
    }
    let stale: Vec<String> = record
        .registered
        .keys()
        .filter(|path| !wanted.files.iter().any(|(wanted, _)| wanted == *path))
        .cloned()
        .collect();
    for path in &stale {
        // One that somebody has written anew is his.
        take_away(disk, record, path)?;
        record.registered.remove(path);
    }
    record.edits.clone_from(&wanted.edits);
    record.save(disk)?;
    for (path, text) in &wanted.files {
        make_parents(disk, path)?;
        if root.text(path)?.as_deref() != Some(text) {
            disk.write(path, text.as_bytes(), 0o644)?;
        }
    }
    wanted.edits.iter().try_for_each(|edit| put_in(disk, edit))?;
    // k3s and rke2 read their template at the start, k0s its directory.
    if matches!(record.engine, Kind::Containerd | Kind::Crio) {
        let unread = |reason| Stop::Refused(format!("it cannot read it: {reason}"));
        let found = daemon.configured(record.engine).map_err(unread)?;
        if let Some(reason) = lost(had, &found, names) {
            return Err(Stop::Refused(reason));
        }
    }
    Ok(())
}

/// Starts the engine anew with what it was told.
fn start(
    disk: &Disk<'_>,
    record: &mut Record,
    had: &Runtimes,
    names: Vec<String>,
    daemon: &dyn Daemon,
) -> std::result::Result<(), Stop> {
    if let Some(reason) = trouble(record.engine, had, &names, daemon) {
        return Err(Stop::Refused(reason));
    }
    let mut settled = record.clone();
    (settled.handlers, settled.unsettled) = (names, false);
    settled.save(disk)?;
    *record = settled;
    Ok(())
}

/// Starts the engine anew; returns what is wrong with it then.
fn trouble(kind: Kind, had: &Runtimes, ours: &[String], daemon: &dyn Daemon) -> Option<String> {
    match daemon.restart(kind).and_then(|()| daemon.serving(kind)) {
        Err(reason) => Some(reason),
        Ok(found) => lost(had, &found, ours),
    }
}

/// What new pods and the engine had before, to be had again.
#[derive(Debug)]
struct Before {
    version: Option<String>,
    /// Where the link to it led.
    current: Option<String>,
    /// The configuration files, each with its text.
    configs: Vec<(String, Option<String>)>,
    files: BTreeMap<String, Vec<String>>,
    handlers: Vec<String>,
    edits: Vec<Edit>,
    registered: BTreeMap<String, Vec<String>>,
    /// The engine's files of ours, each with its text.
    texts: Vec<(String, Option<String>)>,
    /// Files of others that have words of ours, each with its text, and with its text without them.
    edited: Vec<(String, String, String)>,
}

impl Before {
    fn read(root: &Root, record: &Record, configs: &[(String, String)]) -> Result<Self> {
        let text = |path: &String| Ok((path.clone(), root.text(path)?));
        let mut edited = Vec::new();
        for path in record.edits.iter().map(|edit| &edit.path).collect::<BTreeSet<_>>() {
            if let Some(text) = root.text(path)? {
                edited.push((path.clone(), text.clone(), without_edits(record, path, text)?));
            }
        }
        Ok(Self {
            edited,
            version: record.version.clone(),
            current: root.target(&record.instance.current()),
            configs: configs.iter().map(|(path, _)| text(path)).collect::<Result<_>>()?,
            files: record.files.clone(),
            handlers: record.handlers.clone(),
            edits: record.edits.clone(),
            registered: record.registered.clone(),
            texts: record.registered.keys().map(text).collect::<Result<_>>()?,
        })
    }

    /// Gives all of it back. Returns what is wrong with the engine then, which is started anew only where it was before.
    fn put_back(
        self,
        disk: &Disk<'_>,
        record: &mut Record,
        restarted: bool,
        daemon: &dyn Daemon,
    ) -> Result<Option<String>> {
        // Each is tried, whatever comes of the other.
        let (pods, engine) = (self.give_pods(disk, record), self.give_engine(disk, record));
        pods.and(engine)?;
        if restarted && let Some(reason) = trouble(record.engine, &Runtimes::new(), &self.handlers, daemon) {
            return Ok(Some(reason));
        }
        (record.handlers, record.unsettled) = (self.handlers, false);
        record.save(disk)?;
        Ok(None)
    }

    fn give_pods(&self, disk: &Disk<'_>, record: &mut Record) -> Result<()> {
        for (path, text) in &self.configs {
            // Somebody may have changed it by hand meanwhile.
            if changed_by_hand(disk.root(), record, path)?.is_none() {
                restore(disk, path, text.as_deref())?;
            }
        }
        let current = record.instance.current();
        match &self.current {
            Some(target) if disk.root().target(&current).as_ref() == Some(target) => {}
            Some(target) => disk.link(&current, target)?,
            None => disk.remove(&current)?,
        }
        record.files.clone_from(&self.files);
        record.version.clone_from(&self.version);
        record.save(disk)
    }

    fn give_engine(&self, disk: &Disk<'_>, record: &mut Record) -> Result<()> {
        if !record.unsettled {
            // It was told nothing; what somebody else has changed of ours is his.
            return Ok(());
        }
        remove_registration(disk, record)?;
        record.edits.clone_from(&self.edits);
        record.registered.clone_from(&self.registered);
        record.save(disk)?;
        self.texts.iter().try_for_each(|(path, text)| restore(disk, path, text.as_deref()))?;
        // As they were, whatever was missing in them: the engine was not started with more.
        for (path, text, plain) in &self.edited {
            let found = disk.root().text(path)?.unwrap_or_default();
            if found == *plain {
                disk.rewrite(path, text.as_bytes())?;
            } else if found != *text {
                return Err(changed_meanwhile(path));
            }
        }
        Ok(())
    }
}

fn changed_meanwhile(path: &str) -> Error {
    Error::Syntax { path: path.to_owned(), reason: "it was changed while it was read".to_owned() }
}

/// Gives a file its text again.
pub(crate) fn restore(disk: &Disk<'_>, path: &str, text: Option<&str>) -> Result<()> {
    match text {
        None => disk.remove(path),
        Some(text) if disk.root().text(path)?.as_deref() == Some(text) => Ok(()),
        Some(text) => {
            make_parents(disk, path)?;
            if disk.root().exists(path) {
                disk.rewrite(path, text.as_bytes())
            } else {
                disk.write(path, text.as_bytes(), 0o644)
            }
        }
    }
}

/// Puts words into a file, unless they are in it.
fn put_in(disk: &Disk<'_>, edit: &Edit) -> Result<()> {
    let text = disk.root().text(&edit.path)?.unwrap_or_default();
    if sha256(text.as_bytes()) == edit.after {
        return Ok(());
    }
    if sha256(text.as_bytes()) != edit.before {
        return Err(changed_meanwhile(&edit.path));
    }
    disk.rewrite(&edit.path, edit.apply(&text).as_bytes())
}

/// Takes words out of a file, if they are in it.
pub(crate) fn take_out(disk: &Disk<'_>, edit: &Edit) -> Result<()> {
    disk.forget_unfinished(&edit.path)?;
    let Some(text) = disk.root().text(&edit.path)? else { return Ok(()) };
    match edit.undo(&text)? {
        Some(plain) => disk.rewrite(&edit.path, plain.as_bytes()),
        None => Ok(()),
    }
}
