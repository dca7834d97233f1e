//! Carries an installation out: first what nobody sees yet ([`stage`]), then the switch and the engine's files ([`install`]).

use std::collections::BTreeMap;

use crate::bundle::{Bundle, image_file, sha256};
use crate::daemon::{Daemon, Runtimes, lost};
use crate::disk::{Disk, Fault};
use crate::dropin::{Erofs, Handler, Registration, registration, template};
use crate::engine::{Engine, Kind};
use crate::error::{Error, Result};
use crate::import::Edit;
use crate::instance::Instance;
use crate::record::Record;
use crate::root::Root;
use crate::uninstall::{remove_registration, sweep, take_back, unregister};
use crate::versions::{collect, has_content};

/// What is to be installed.
#[derive(Debug)]
pub struct Request<'a> {
    /// Whose installation.
    pub instance: &'a Instance,
    /// The engine to be told; `None` finds the node's.
    pub engine: Option<Kind>,
    /// The bundle.
    pub bundle: &'a Bundle,
    /// For each runtime class by its name: the text of its configuration file.
    pub classes: &'a [(&'static str, String)],
}

/// What is in place, unseen by the engine.
#[derive(Debug)]
pub struct Staged {
    record: Record,
    /// The engine that is to be told.
    pub engine: Engine,
    id: String,
    /// Whether there was no installation before.
    first: bool,
    /// For each class: the configuration to examine the node with, which names the new version's files.
    pub checks: Vec<(&'static str, String)>,
    /// Configuration files that somebody has changed, and that stay.
    pub kept: Vec<String>,
}

/// How an installation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The version that new pods get.
    pub version: String,
    /// Whether the engine was started anew.
    pub restarted: bool,
    /// Versions that nobody used any more.
    pub collected: Vec<String>,
}

/// Puts the bundle and the configuration in place. Pods and the engine see nothing of it. What a failed first try has
/// brought is taken away again.
///
/// # Errors
/// The engine's configuration cannot be read, a name is taken, or a file cannot be written.
pub fn stage(root: &Root, request: &Request<'_>, daemon: &dyn Daemon) -> Result<Staged> {
    stage_on(&Disk::new(root, Fault::None), request, daemon)
}

/// Tells the engine of the handlers, and has new pods use the new version.
///
/// # Errors
/// The engine refuses it, or loses a runtime for it: it has its old configuration back then.
pub fn install(
    root: &Root,
    staged: Staged,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    install_on(&Disk::new(root, Fault::None), staged, handlers, erofs, daemon)
}

impl Staged {
    /// Takes away what was brought, where it is not to be installed.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn abandon(mut self, root: &Root, daemon: &dyn Daemon) -> Result<()> {
        let disk = Disk::new(root, Fault::None);
        match &self.record.version {
            None => take_back(&disk, &mut self.record, daemon).map(|_| ()),
            Some(version) => collect(&disk, &self.record.instance, version).map(|_| ()),
        }
    }
}

pub(crate) fn stage_on(disk: &Disk<'_>, request: &Request<'_>, daemon: &dyn Daemon) -> Result<Staged> {
    let (root, instance) = (disk.root(), request.instance);
    for directory in [instance.prefix(), instance.etc()] {
        if root.is_link(&directory) {
            return Err(Error::Link { path: directory });
        }
    }
    let found = Record::read(root, instance)?;
    let first = found.is_none();
    let mut record = match found {
        Some(mut record) => {
            if record.unsettled {
                // Somebody was killed on the way: the engine's files may be what it cannot read.
                unregister(disk, &mut record, daemon)?;
            }
            record
        }
        None => {
            for name in ["versions", "images", "current"] {
                let path = format!("{}/{name}", instance.prefix());
                if root.has_entry(&path) {
                    return Err(Error::Foreign { path, instance: instance.to_string() });
                }
            }
            sweep(disk, instance)?;
            let kind = find(root, request, daemon)?.kind;
            nothing_is_taken(request, kind, daemon, &[])?;
            Record::create(disk, instance, kind)?
        }
    };
    // Only now, for what a killed installer has told it is no part of it.
    let engine = find(root, request, daemon)?;
    if !first {
        nothing_is_taken(request, engine.kind, daemon, &record.handlers)?;
    }
    let staged = bring(disk, request, &mut record);
    let (checks, kept) = or_take_back(disk, first, &record, daemon, staged)?;
    Ok(Staged { record, engine, id: request.bundle.id().to_owned(), first, checks, kept })
}

fn find(root: &Root, request: &Request<'_>, daemon: &dyn Daemon) -> Result<Engine> {
    Engine::find(root, request.engine, |kind| daemon.default_schema(kind))
}

/// Hands an outcome on; a failed first try is undone before.
fn or_take_back<T>(
    disk: &Disk<'_>,
    first: bool,
    record: &Record,
    daemon: &dyn Daemon,
    outcome: Result<T>,
) -> Result<T> {
    if outcome.is_err() && first {
        // What cannot be removed now is in the record; the first failure is what is told.
        let _ = take_back(disk, &mut record.clone(), daemon);
    }
    outcome
}

/// Whether no handler's name is somebody else's.
fn nothing_is_taken(request: &Request<'_>, kind: Kind, daemon: &dyn Daemon, ours: &[String]) -> Result<()> {
    let reason = |reason| Error::Daemon { engine: kind.name(), reason };
    let there = daemon.configured(kind).map_err(reason)?;
    for (class, _) in request.classes {
        let handler = request.instance.handler(class);
        if let Some(found) = there.get(&handler).filter(|_| !ours.contains(&handler)) {
            return Err(Error::Taken { engine: kind.name(), handler, kind: found.clone() });
        }
    }
    Ok(())
}

type Brought = (Vec<(&'static str, String)>, Vec<String>);

/// Copies the bundle and writes the configuration.
fn bring(disk: &Disk<'_>, request: &Request<'_>, record: &mut Record) -> Result<Brought> {
    let (root, instance, bundle) = (disk.root(), request.instance, request.bundle);
    let prefix = instance.prefix();
    let version = format!("{prefix}/versions/{}", bundle.id());
    let images = bundle.images();
    for file in bundle.files() {
        let path = match image_file(&file.path) {
            Some((name, inside)) => format!("{prefix}/images/{}/{inside}", images[name]),
            None => format!("{version}/{}", file.path),
        };
        if !has_content(root, &path, &file.sha256) {
            make_parents(disk, &path)?;
            disk.copy(&bundle.source(file), &path, if file.executable { 0o755 } else { 0o644 })?;
            if !has_content(root, &path, &file.sha256) {
                return Err(bundle.changed(file));
            }
        }
    }
    for (name, digest) in &images {
        let (path, target) =
            (format!("{version}/share/images/{name}"), format!("../../../../images/{digest}"));
        if root.target(&path).as_deref() != Some(target.as_str()) {
            make_parents(disk, &path)?;
            disk.link(&path, &target)?;
        }
    }
    let (mut checks, mut kept) = (Vec::new(), Vec::new());
    for (class, text) in request.classes {
        let path = instance.config(class);
        let text = match root.text(&path)? {
            Some(own) if !record.wrote(&path, own.as_bytes()) => {
                kept.push(path);
                own
            }
            found => {
                if found.as_deref() != Some(text) {
                    record.note_directories(root, &path);
                    note(&mut record.files, &path, text);
                    record.save(disk)?;
                    make_parents(disk, &path)?;
                    disk.write(&path, text.as_bytes(), 0o644)?;
                }
                text.clone()
            }
        };
        let check = format!("{version}/check/{class}.toml");
        let text = text.replace(&instance.current(), &version);
        make_parents(disk, &check)?;
        if root.text(&check)?.as_deref() != Some(&text) {
            disk.write(&check, text.as_bytes(), 0o644)?;
        }
        checks.push((*class, check));
    }
    Ok((checks, kept))
}

fn note(files: &mut BTreeMap<String, Vec<String>>, path: &str, text: &str) {
    let digests = files.entry(path.to_owned()).or_default();
    let digest = sha256(text.as_bytes());
    if !digests.contains(&digest) {
        digests.push(digest);
    }
}

fn make_parents(disk: &Disk<'_>, path: &str) -> Result<()> {
    crate::record::missing(disk.root(), path).iter().try_for_each(|directory| disk.make_directory(directory))
}

pub(crate) fn install_on(
    disk: &Disk<'_>,
    staged: Staged,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    let Staged { mut record, engine, id, first, .. } = staged;
    let outcome = switch(disk, &mut record, &id, &engine, handlers, erofs, daemon);
    or_take_back(disk, first, &record, daemon, outcome)
}

fn switch(
    disk: &Disk<'_>,
    record: &mut Record,
    id: &str,
    engine: &Engine,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    let (root, instance) = (disk.root(), &record.instance.clone());
    let version = record.version.clone();
    if record.engine != engine.kind && !record.handlers.is_empty() {
        unregister(disk, record, daemon)?;
    }
    record.engine = engine.kind;
    if root.target(&instance.current()).as_deref() != Some(&format!("versions/{id}"))
        || version.as_deref() != Some(id)
    {
        record.version = Some(id.to_owned());
        record.save(disk)?;
        disk.link(&instance.current(), &format!("versions/{id}"))?;
    }
    let template = match template(engine) {
        // Our own template, or our words in somebody's, are as good as not there.
        Some(path) => plain_text(root, record, &path)?,
        None => None,
    };
    let plain = plain_engine(engine, record)?;
    let wanted = registration(&plain, instance, handlers, erofs, template.as_deref())?;
    let names: Vec<String> = handlers.iter().map(|handler| handler.name.clone()).collect();
    let in_place = is_in_place(root, record, &wanted)?;
    if !in_place || record.handlers != names {
        let before = Before::read(root, record, version)?;
        if let Err(reason) = register(disk, record, &wanted, &names, engine.kind, daemon)? {
            return Err(roll_back(disk, record, before, engine.kind, reason, daemon)?);
        }
    }
    let collected = collect(disk, instance, id)?;
    Ok(Installed { version: id.to_owned(), restarted: !in_place, collected })
}

/// A file's text without what is ours in it; `None` where nothing else is.
fn plain_text(root: &Root, record: &Record, path: &str) -> Result<Option<String>> {
    let Some(text) = root.text(path)? else { return Ok(None) };
    if record.wrote(path, text.as_bytes()) {
        return Ok(None);
    }
    without_edits(record, path, text).map(Some)
}

fn without_edits(record: &Record, path: &str, mut text: String) -> Result<String> {
    for edit in record.edits.iter().filter(|edit| edit.path == path) {
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
        if record.wrote(path, main.as_bytes()) {
            plain.main = None;
        } else {
            let text = without_edits(record, path, main.clone())?;
            if text != *main {
                plain.forget_imports(&text)?;
                plain.main = Some(text);
            }
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
    let edited = match &wanted.edit {
        None => record.edits.is_empty(),
        Some(edit) => {
            record.edits == [edit.clone()]
                && root.text(&edit.path)?.is_some_and(|text| sha256(text.as_bytes()) == edit.after)
        }
    };
    Ok(no_more && edited)
}

/// Writes the engine's files and starts it; an inner error says what is wrong with the engine then.
fn register(
    disk: &Disk<'_>,
    record: &mut Record,
    wanted: &Registration,
    names: &[String],
    kind: Kind,
    daemon: &dyn Daemon,
) -> Result<std::result::Result<(), String>> {
    let root = disk.root();
    for (path, _) in &wanted.files {
        let foreign = root.bytes(path)?.is_some_and(|found| !record.wrote(path, &found));
        if foreign || root.is_link(path) {
            return Err(Error::Foreign { path: path.clone(), instance: record.instance.to_string() });
        }
    }
    let before = daemon.configured(kind).map_err(|reason| Error::Daemon { engine: kind.name(), reason })?;
    let before: Runtimes = before.into_iter().filter(|(name, _)| !record.handlers.contains(name)).collect();
    record.unsettled = true;
    let new: Vec<String> = names.iter().filter(|name| !record.handlers.contains(name)).cloned().collect();
    record.handlers.extend(new);
    for (path, text) in &wanted.files {
        record.note_directories(root, path);
        note(&mut record.registered, path, text);
    }
    record.save(disk)?;
    // Imports go before their files, and files come before their import.
    let stale_edits: Vec<_> =
        record.edits.iter().filter(|edit| Some(*edit) != wanted.edit.as_ref()).cloned().collect();
    for edit in &stale_edits {
        take_out(disk, edit)?;
    }
    let stale: Vec<String> = record
        .registered
        .keys()
        .filter(|path| !wanted.files.iter().any(|(wanted, _)| wanted == *path))
        .cloned()
        .collect();
    for path in &stale {
        disk.remove(path)?;
        record.registered.remove(path);
    }
    record.edits = wanted.edit.iter().cloned().collect();
    record.save(disk)?;
    for (path, text) in &wanted.files {
        make_parents(disk, path)?;
        if root.text(path)?.as_deref() != Some(text) {
            disk.write(path, text.as_bytes(), 0o644)?;
        }
    }
    if let Some(edit) = &wanted.edit {
        put_in(disk, edit)?;
    }
    // k3s and rke2 read their template at the start, k0s its directory.
    if matches!(kind, Kind::Containerd | Kind::Crio) {
        match daemon.configured(kind) {
            Err(reason) => return Ok(Err(format!("it cannot read it: {reason}"))),
            Ok(found) => {
                if let Some(reason) = lost(&before, &found, names) {
                    return Ok(Err(reason));
                }
            }
        }
    }
    let served = daemon.restart(kind).and_then(|()| daemon.serving(kind));
    let problem = match served {
        Err(reason) => Some(reason),
        Ok(found) => lost(&before, &found, names),
    };
    if let Some(reason) = problem {
        return Ok(Err(reason));
    }
    record.handlers = names.to_vec();
    record.unsettled = false;
    record.save(disk)?;
    Ok(Ok(()))
}

/// What the engine was told before, to be told again.
#[derive(Debug)]
struct Before {
    version: Option<String>,
    handlers: Vec<String>,
    edits: Vec<Edit>,
    registered: BTreeMap<String, Vec<String>>,
    texts: Vec<(String, String)>,
}

impl Before {
    fn read(root: &Root, record: &Record, version: Option<String>) -> Result<Self> {
        let mut texts = Vec::new();
        for path in record.registered.keys() {
            texts.extend(root.text(path)?.map(|text| (path.clone(), text)));
        }
        let (handlers, edits, registered) = (&record.handlers, &record.edits, &record.registered);
        Ok(Self {
            version,
            handlers: handlers.clone(),
            edits: edits.clone(),
            registered: registered.clone(),
            texts,
        })
    }
}

/// Gives the engine its files of before, and new pods their version of before. Returns what to say of it.
fn roll_back(
    disk: &Disk<'_>,
    record: &mut Record,
    before: Before,
    kind: Kind,
    reason: String,
    daemon: &dyn Daemon,
) -> Result<Error> {
    let engine = kind.name();
    remove_registration(disk, record)?;
    (record.edits, record.registered) = (before.edits, before.registered);
    record.save(disk)?;
    for (path, text) in &before.texts {
        make_parents(disk, path)?;
        disk.write(path, text.as_bytes(), 0o644)?;
    }
    record.edits.iter().try_for_each(|edit| put_in(disk, edit))?;
    if let Some(version) = before.version {
        disk.link(&record.instance.current(), &format!("versions/{version}"))?;
        record.version = Some(version);
    }
    let served = daemon.restart(kind).and_then(|()| daemon.serving(kind));
    let then = match served {
        Err(then) => Some(then),
        Ok(found) => lost(&Runtimes::new(), &found, &before.handlers),
    };
    if let Some(then) = then {
        return Ok(Error::RollbackFailed { engine, reason, then });
    }
    (record.handlers, record.unsettled) = (before.handlers, false);
    record.save(disk)?;
    Ok(Error::RolledBack { engine, reason })
}

/// Puts words into a file, unless they are in it.
fn put_in(disk: &Disk<'_>, edit: &Edit) -> Result<()> {
    let text = disk.root().text(&edit.path)?.unwrap_or_default();
    if sha256(text.as_bytes()) == edit.after {
        return Ok(());
    }
    if sha256(text.as_bytes()) != edit.before {
        let reason = "it was changed while it was read".to_owned();
        return Err(Error::Syntax { path: edit.path.clone(), reason });
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
