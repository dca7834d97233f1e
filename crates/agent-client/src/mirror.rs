//! A file or tree of the host and its copy in the guest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::client::Agent;
use crate::copy::{CopyError, Entry, Kind, single, tree};

/// How often a tree is looked at anew when something vanishes under the walk.
const ATTEMPTS: usize = 3;

/// kubelet keeps a volume's generations in directories whose names begin so.
const GENERATION: &str = "..";

/// A file or tree of the host and what the guest has of it.
#[derive(Debug)]
pub struct Mirror {
    host: PathBuf,
    guest: String,
    is_tree: bool,
    sent: HashMap<String, Entry>,
}

impl Mirror {
    /// Of one regular file. `guest` is a path below the agent's shared directory.
    pub fn file(host: PathBuf, guest: String) -> Self {
        Self { host, guest, is_tree: false, sent: HashMap::new() }
    }

    /// Of a directory with all that is in it.
    pub fn tree(host: PathBuf, guest: String) -> Self {
        Self { host, guest, is_tree: true, sent: HashMap::new() }
    }

    /// The path on the host.
    pub fn host(&self) -> &Path {
        &self.host
    }

    /// Copies what the guest does not have yet.
    ///
    /// What is unchanged is left alone, since the agent replaces files by removing them first. A new generation of a
    /// kubelet volume is copied before the symlink that shows it; generations that are gone give their memory back.
    /// Single entries that are gone stay in the guest: the agent has no call to delete.
    pub async fn sync(&mut self, agent: &Agent) -> Result<(), CopyError> {
        let mut attempt = 1;
        loop {
            match self.try_sync(agent).await {
                Err(error) if error.is_vanished() && attempt < ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }

    async fn try_sync(&mut self, agent: &Agent) -> Result<(), CopyError> {
        let entries = if self.is_tree {
            tree(&self.host, &self.guest)?
        } else {
            vec![single(&self.host, &self.guest)?]
        };
        for entry in &entries {
            if self.sent.get(&entry.guest) != Some(entry) {
                entry.send(agent).await?;
                self.sent.insert(entry.guest.clone(), entry.clone());
            }
        }
        self.retire(agent, &entries).await
    }

    /// Frees the generations that are no longer on the host.
    async fn retire(&mut self, agent: &Agent, entries: &[Entry]) -> Result<(), CopyError> {
        let prefix = format!("{}/{GENERATION}", self.guest);
        let is_generation = |path: &str| {
            path.strip_prefix(&prefix).is_some_and(|name| !name.is_empty() && !name.contains('/'))
        };
        let gone: Vec<Entry> = self
            .sent
            .values()
            .filter(|old| old.kind == Kind::Directory && is_generation(&old.guest))
            .filter(|old| !entries.iter().any(|entry| entry.guest == old.guest))
            .cloned()
            .collect();
        for old in gone {
            old.blank(agent).await?;
            let below = format!("{}/", old.guest);
            self.sent.retain(|path, _| *path != old.guest && !path.starts_with(&below));
        }
        Ok(())
    }
}
