//! What a dead sandbox leaves behind on the host, and its removal.

use std::path::Path;

use vmm::state::{ROOT, StateDir, living_owner, release as release_recorded};

use crate::api::{ContainerId, Namespace};
use crate::api::{Error, Result};

/// Stops and releases what sandbox `id` recorded. Nothing recorded is success, and so is a sandbox whose shim lives:
/// that one looks after it.
///
/// # Errors
/// When something could not be released; the next call tries again.
pub fn release(namespace: &Namespace, id: &ContainerId) -> Result<()> {
    let path = StateDir::path_of(Path::new(ROOT), namespace.as_str(), id.as_str());
    if !path.exists() {
        return Ok(());
    }
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::failed(format!("release what sandbox {id} left on the host"), error)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.into()))?;
    runtime.block_on(async {
        if living_owner(&path).await.map_err(|error| failed(error.into()))?.is_some() {
            return Ok(());
        }
        match release_recorded(&path).await.into_iter().next() {
            Some(error) => Err(failed(error.into())),
            None => Ok(()),
        }
    })
}
