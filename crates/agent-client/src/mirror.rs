//! A file or tree of the host and its copy in the guest.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::below::Below;
use crate::copy::{CopyError, Entry, Kind, Tree, is_below, unreadable};
use crate::courier::Courier;
use crate::error::AgentError;

/// How often a tree is looked at anew when something vanishes under the walk.
const ATTEMPTS: usize = 3;

/// kubelet keeps a volume's generations in directories whose names begin so, and the link that shows one.
const GENERATION: &str = "..";

/// A file or tree of the host and what the guest has of it.
#[derive(Debug)]
pub struct Mirror {
    host: PathBuf,
    /// The directory below which it is reached without links; `None` follows all.
    below: Option<PathBuf>,
    guest: String,
    is_tree: bool,
    sent: HashMap<String, Entry>,
    /// It was removed, and is not to come back.
    is_gone: bool,
}

impl Mirror {
    /// Of one regular file. `guest` is a path below the agent's shared directory.
    #[must_use]
    pub fn file(host: PathBuf, guest: String) -> Self {
        Self { host, below: None, guest, is_tree: false, sent: HashMap::new(), is_gone: false }
    }

    /// Of a directory with all that is in it.
    #[must_use]
    pub fn tree(host: PathBuf, guest: String) -> Self {
        Self { is_tree: true, ..Self::file(host, guest) }
    }

    /// The same, reached below this directory of the host without a symbolic link. Else whoever named it is root, and the
    /// links on the way are his.
    #[must_use]
    pub fn below(self, directory: Option<PathBuf>) -> Self {
        Self { below: directory, ..self }
    }

    /// The path on the host.
    pub fn host(&self) -> &Path {
        &self.host
    }

    /// Copies what the guest does not have yet, and removes what the host has no more.
    ///
    /// What is unchanged is left alone, since the agent replaces files by removing them first. A new generation of a
    /// kubelet volume is copied before the symlink that shows it, and an old one is removed after that. Of what was
    /// [removed](Self::remove) nothing is copied again: a change may have been seen before, and its turn comes after.
    pub async fn sync(&mut self, courier: &Courier) -> Result<(), CopyError> {
        if self.is_gone {
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            match self.try_sync(courier).await {
                Err(error) if error.is_vanished() && attempt < ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }

    /// Removes all of it from the guest, for good.
    pub async fn remove(&mut self, courier: &Courier) -> Result<(), AgentError> {
        self.is_gone = true;
        let Some(any) = self.sent.get(&self.guest).or_else(|| self.sent.values().next()).cloned() else {
            return Ok(());
        };
        self.sent.clear();
        courier.remove(&self.guest, &any).await
    }

    async fn try_sync(&mut self, courier: &Courier) -> Result<(), CopyError> {
        let (below, host) = self.open().map_err(unreadable(&self.host))?;
        let below = Arc::new(below);
        let tree = match self.is_tree {
            true => Tree::directory(&below, &host, &self.guest)?,
            false => Tree::file(&below, &host, &self.guest)?,
        };
        let (showing, links) =
            tree.links.iter().cloned().partition(|link| self.is_top(&link.guest, GENERATION));
        let mut fresh = Vec::new();
        for step in [tree.directories.clone(), tree.files.clone(), showing, links] {
            let missing =
                step.into_iter().filter(|entry| self.sent.get(&entry.guest) != Some(entry)).collect();
            let (sent, result) = courier.send(&below, missing).await;
            fresh.extend(sent.iter().map(|entry| entry.guest.clone()));
            self.sent.extend(sent.into_iter().map(|entry| (entry.guest.clone(), entry)));
            result?;
        }
        for directory in &tree.mixed {
            // The agent has given the directory to the owner of what came into it.
            if fresh.iter().any(|guest| is_below(guest, &directory.guest)) {
                courier.send(&below, vec![directory.clone()]).await.1?;
            }
        }
        self.retire(courier, &tree).await
    }

    /// The directory below which it is, and its path.
    fn open(&self) -> io::Result<(Below, PathBuf)> {
        match &self.below {
            Some(directory) => Ok((Below::open(directory)?, self.host.clone())),
            None => {
                let host = fs::canonicalize(&self.host)?;
                Ok((Below::open(host.parent().unwrap_or(&host))?, host))
            }
        }
    }

    /// Whether this is right in the volume, with a name that begins so.
    fn is_top(&self, guest: &str, prefix: &str) -> bool {
        let name = guest.strip_prefix(&self.guest).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| name.starts_with(prefix) && !name.contains('/'))
    }

    /// Removes from the guest what is no longer on the host.
    async fn retire(&mut self, courier: &Courier, tree: &Tree) -> Result<(), CopyError> {
        let there: HashSet<&str> = tree.entries().map(|entry| entry.guest.as_str()).collect();
        let gone: Vec<Entry> =
            self.sent.values().filter(|old| !there.contains(old.guest.as_str())).cloned().collect();
        let directories: Vec<String> =
            gone.iter().filter(|old| old.kind == Kind::Directory).map(|old| old.guest.clone()).collect();
        let mut calls = JoinSet::new();
        for old in gone {
            // With a directory goes what is in it.
            if directories.iter().any(|directory| is_below(&old.guest, directory)) {
                continue;
            }
            let above = old.guest.rsplit_once('/').and_then(|(parent, _)| self.sent.get(parent));
            let (courier, parent) = (courier.clone(), above.unwrap_or(&old).clone());
            calls.spawn(async move {
                let result = courier.remove(&old.guest, &parent).await;
                (old, result)
            });
        }
        let mut first = Ok(());
        while let Some(done) = calls.join_next().await {
            // The only tasks that fail are those of a runtime that is being torn down.
            let Ok((old, result)) = done else { continue };
            match result {
                Ok(()) => self.sent.retain(|guest, _| *guest != old.guest && !is_below(guest, &old.guest)),
                Err(source) => {
                    first = first.and(Err(CopyError::Guest { path: old.host, guest: old.guest, source }));
                }
            }
        }
        first
    }
}
