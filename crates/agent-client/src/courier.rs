//! The calls that copy: many under way at the same time, within bounds.
//!
//! kata-agent's CopyFile takes a directory, a symlink or a chunk of a file, by the type bits of the mode. Its ways that
//! shape this code (4.1.0, `src/agent/src/rpc.rs`, `do_copy_file`): it gives a file's owner to the file's parent too; it
//! writes `name.ext` by way of `name.tmp`; and what is at the target is removed first, whatever it is.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::below::Below;
use crate::client::Agent;
use crate::copy::{CopyError, Entry, Kind, MAX_FILE, unreadable};
use crate::error::AgentError;
use crate::proto::agent::CopyFileRequest;

/// Bytes of a file per call.
const CHUNK: usize = 1 << 20;

/// How much may be under way at the same time, in KiB.
const ROOM: u32 = 4 << 10;

/// What a call counts for besides its bytes, in KiB: so at most 32 are under way.
const CALL: u32 = ROOM / 32;

/// Mode of parents that are not there yet: a directory, 0755.
const PARENT_MODE: u32 = 0o040_755;

/// Copies into one guest; clones share its bounds.
#[derive(Debug, Clone)]
pub struct Courier {
    agent: Agent,
    room: Arc<Semaphore>,
}

impl Courier {
    /// To this agent's guest.
    #[must_use]
    pub fn new(agent: Agent) -> Self {
        Self { agent, room: Arc::new(Semaphore::new(ROOM as usize)) }
    }

    /// Sends entries at the same time; returns what has arrived, and the first failure.
    ///
    /// A call that has begun is waited for: one that is dropped half-written takes the connection with it.
    pub(crate) async fn send(
        &self,
        below: &Arc<Below>,
        entries: Vec<Entry>,
    ) -> (Vec<Entry>, Result<(), CopyError>) {
        let failed = Arc::new(AtomicBool::new(false));
        let mut calls = JoinSet::new();
        for run in runs(entries) {
            let (courier, below, failed) = (self.clone(), Arc::clone(below), Arc::clone(&failed));
            calls.spawn(async move {
                let mut sent = Vec::new();
                for entry in run {
                    if failed.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = courier.send_one(&below, &entry).await {
                        failed.store(true, Ordering::Relaxed);
                        return (sent, Err(error));
                    }
                    sent.push(entry);
                }
                (sent, Ok(()))
            });
        }
        let (mut sent, mut result) = (Vec::new(), Ok(()));
        while let Some(done) = calls.join_next().await {
            // The only tasks that fail are those of a runtime that is being torn down.
            let Ok((some, outcome)) = done else { continue };
            sent.extend(some);
            result = result.and(outcome);
        }
        (sent, result)
    }

    async fn send_one(&self, below: &Below, entry: &Entry) -> Result<(), CopyError> {
        let size = match &entry.kind {
            Kind::File { size, .. } => u32::try_from(size.div_ceil(1024)).unwrap_or(ROOM),
            _ => 0,
        };
        // Nobody closes it.
        let _room = self.room.acquire_many((CALL + size).min(ROOM)).await;
        match &entry.kind {
            Kind::Directory => self.call(entry, request(entry)).await,
            Kind::Symlink { target } => {
                let data = target.as_os_str().as_bytes().to_vec();
                self.call(entry, CopyFileRequest { data, ..request(entry) }).await
            }
            Kind::File { .. } => self.send_content(entry, &read(below, &entry.host)?).await,
        }
    }

    /// Chunk by chunk: the agent knows a file by how much of it has come.
    async fn send_content(&self, entry: &Entry, content: &[u8]) -> Result<(), CopyError> {
        let mut offset = 0;
        loop {
            let end = content.len().min(offset + CHUNK);
            let chunk = CopyFileRequest {
                file_size: to_i64(content.len()),
                offset: to_i64(offset),
                data: content[offset..end].to_vec(),
                ..request(entry)
            };
            self.call(entry, chunk).await?;
            offset = end;
            if offset == content.len() {
                return Ok(());
            }
        }
    }

    async fn call(&self, entry: &Entry, request: CopyFileRequest) -> Result<(), CopyError> {
        self.agent.copy_file(request).await.map(drop).map_err(|source| CopyError::Guest {
            path: entry.host.clone(),
            guest: entry.guest.clone(),
            source,
        })
    }

    /// Removes what is at `guest`, a directory with all that is in it. `parent` has the owner of the directory above.
    ///
    /// There is no call for it. But what is at a link's place is removed before the link is made, and a link to nothing
    /// cannot be made (symlink(2): ENOENT): the agent fails, and nothing is there. A policy that denies such a link is
    /// given an empty file, which frees what it replaces, but stays itself.
    pub(crate) async fn remove(&self, guest: &str, parent: &Entry) -> Result<(), AgentError> {
        /// A symlink.
        const LINK: u32 = 0o120_777;
        /// A regular file, 0400.
        const EMPTY: u32 = 0o100_400;
        let request = |file_mode| CopyFileRequest { path: guest.to_string(), file_mode, ..request(parent) };
        let _room = self.room.acquire_many(CALL).await;
        match self.agent.copy_file(request(LINK)).await {
            Ok(_) | Err(AgentError::Refused { .. }) => Ok(()),
            Err(AgentError::Denied { .. }) => self.agent.copy_file(request(EMPTY)).await.map(drop),
            Err(error) => Err(error),
        }
    }
}

/// What must go one after the other: files that the agent writes by way of the same name, one of that name last.
fn runs(mut entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    entries
        .sort_by_key(|entry| Path::new(&entry.guest).extension().is_some_and(|extension| extension == "tmp"));
    let mut runs: BTreeMap<PathBuf, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        let key = match entry.kind {
            Kind::File { .. } => Path::new(&entry.guest).with_extension("tmp"),
            _ => PathBuf::from(&entry.guest),
        };
        runs.entry(key).or_default().push(entry);
    }
    runs.into_values().collect()
}

fn request(entry: &Entry) -> CopyFileRequest {
    CopyFileRequest {
        path: entry.guest.clone(),
        file_mode: entry.mode,
        dir_mode: PARENT_MODE,
        uid: entry.uid.cast_signed(),
        gid: entry.gid.cast_signed(),
        ..Default::default()
    }
}

/// Sizes here are at most [`MAX_FILE`].
fn to_i64(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Reads a file that may have grown since it was looked at.
fn read(below: &Below, path: &Path) -> Result<Vec<u8>, CopyError> {
    let mut content = Vec::new();
    let file = below.read(path).map_err(unreadable(path))?;
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(unreadable(path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(CopyError::FileTooLarge { path: path.to_path_buf() });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_one_temporary_name_go_one_after_the_other() {
        let file = |guest: &str, kind: Kind| Entry {
            host: PathBuf::new(),
            guest: guest.to_owned(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
        };
        let regular = || Kind::File { size: 0, changed: 0, inode: 0 };
        let entries =
            ["/g/x.tmp", "/g/x.conf", "/g/y", "/g/x.zip", "/g/d/x.zip"].map(|name| file(name, regular()));
        let runs = runs(entries.into_iter().chain([file("/g/x", Kind::Directory)]).collect());
        let names = |run: &Vec<Entry>| run.iter().map(|entry| entry.guest.clone()).collect::<Vec<_>>();
        let named: Vec<_> = runs.iter().map(names).collect();
        assert!(
            named.contains(&["/g/x.conf", "/g/x.zip", "/g/x.tmp"].map(str::to_owned).to_vec()),
            "{named:?}"
        );
        assert_eq!(named.len(), 4);
    }
}
