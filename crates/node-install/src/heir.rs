//! What another instance of the node goes on with when this one goes: the import of the directory that has files of both, and
//! directories.

use crate::disk::Disk;
use crate::dropin::IMPORTED;
use crate::engine::has_handler;
use crate::error::Result;
use crate::instance::Instance;
use crate::record::Record;

/// Gives another instance's record what that one stands on; returns that record as it was. It is written before anything goes, so
/// that a kill leaves both with it, and either takes it back.
pub(crate) fn hand_over(disk: &Disk<'_>, record: &mut Record) -> Result<Option<Record>> {
    let root = disk.root();
    let others = root.names("/opt").into_iter().filter_map(|name| Instance::of_directory(&name));
    // A record that cannot be read is another version's; the engine is asked before it is started anew.
    let mut records = others
        .filter(|other| *other != record.instance)
        .filter_map(|other| Record::read(root, &other).ok().flatten());
    let stands_there = |other: &Record| other.engine == record.engine && !other.registered.is_empty();
    let Some(had) = records.find(stands_there) else { return Ok(None) };
    let mut heir = had.clone();
    let (imports, own): (Vec<_>, Vec<_>) =
        record.edits.drain(..).partition(|edit| edit.inserted.contains(IMPORTED));
    record.edits = own;
    heir.edits.splice(0..0, imports.into_iter().filter(|edit| !had.edits.contains(edit)));
    // A main file that was made for the import alone.
    let made: Vec<_> = record.registered.keys().filter(|path| record.is_shared(path)).cloned().collect();
    for path in made {
        let text = root.text(&path)?.unwrap_or_default();
        let has_ours = record.handlers.iter().any(|handler| has_handler(&text, handler));
        if record.wrote(&path, text.as_bytes())
            && !has_ours
            && let Some(digests) = record.registered.remove(&path)
        {
            heir.registered.entry(path).or_default().extend(digests);
        }
    }
    let is_used = |directory: &&String| {
        let below = format!("{directory}/");
        had.registered.keys().any(|path| path.starts_with(&below)) && !had.directories.contains(directory)
    };
    heir.directories.splice(0..0, record.directories.iter().filter(is_used).cloned());
    heir.save(disk)?;
    Ok(Some(had))
}
