//! The VM's read-only disks: image files as LUNs of its SCSI controller, added and removed over QMP.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use verity::RootHash;
use vmm_config::hotplug::{Backing, Lun, ScsiDisk};
use vmm_config::path::AbsolutePath;

use crate::gate::{Gate, NotReady};
use crate::luns::{Attached, Full, Luns};
use crate::qmp::{Event, Qmp, QmpError};
use crate::vm::Gone;

/// How long the guest may hold on to a disk that is being removed.
const UNPLUG_PATIENCE: Duration = Duration::from_secs(10);
/// How long QEMU may take to answer.
const QMP_PATIENCE: Duration = Duration::from_secs(60);

/// A disk could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image is not there.
    #[error("image layer {} cannot be used", .path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The image is neither a regular file nor a disk.
    #[error("image layer {} is neither a regular file nor a disk", .0.display())]
    NotAFile(PathBuf),
    /// No number is free.
    #[error(transparent)]
    Full(#[from] Full),
    /// QEMU refused.
    #[error("QEMU cannot take disk {lun}")]
    Qmp {
        /// The disk's number.
        lun: u16,
        /// The cause.
        #[source]
        source: QmpError,
    },
    /// QEMU did not answer.
    #[error("QEMU did not answer about disk {lun} for {} s", .after.as_secs())]
    Silent {
        /// The disk's number.
        lun: u16,
        /// How long it was waited for.
        after: Duration,
    },
    /// The guest did not let the disk go.
    #[error("QEMU still holds disk {lun} after {} s", .after.as_secs())]
    Busy {
        /// The disk's number.
        lun: u16,
        /// How long it was waited for.
        after: Duration,
    },
    /// The guest does not have the layer.
    #[error("{} (root hash {root}) is not to be had in the guest", .image.display())]
    Layer {
        /// The image file.
        image: PathBuf,
        /// By what the guest knows it.
        root: RootHash,
        /// Why.
        #[source]
        source: NotReady,
    },
    /// There is no VM to ask.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// An image file that the guest shall have as a layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// An EROFS image with a dm-verity tree.
    pub image: PathBuf,
    /// The same, where it is open already: who can change the way to it cannot have another file taken for it.
    pub file: Option<Arc<File>>,
    /// Its tree's root hash.
    pub root: RootHash,
    /// Whether it is encrypted, so that the guest gets a key for it first.
    pub encrypted: bool,
}

/// The disks of one VM.
#[derive(Debug, Default)]
pub struct Disks {
    luns: Luns,
    plugged: BTreeMap<Lun, ScsiDisk>,
}

impl Disks {
    /// Adds one user of a layer. The guest still has to open it. `None` where it has to let go of the layer first.
    ///
    /// # Errors
    /// See [`DiskError`]; nothing changed then.
    pub(crate) async fn add(
        &mut self,
        qmp: &Qmp,
        gate: &Gate,
        layer: &Layer,
    ) -> Result<Option<Lun>, DiskError> {
        let Layer { image, root, file, .. } = layer;
        let unusable = |source| DiskError::Image { path: image.clone(), source };
        let file = file.clone().map_or_else(|| File::open(image).map(Arc::new), Ok).map_err(unusable)?;
        let kind = file.metadata().map_err(unusable)?.file_type();
        let backing = match (kind.is_file(), kind.is_block_device()) {
            (true, _) => Backing::File,
            (_, true) => Backing::Disk,
            _ => return Err(DiskError::NotAFile(image.clone())),
        };
        let path = AbsolutePath::new(&image.display().to_string())
            .map_err(|reason| unusable(io::Error::new(io::ErrorKind::InvalidInput, reason)))?;
        if gate.is_leaving(*root) {
            return Ok(None);
        }
        let lun = match self.luns.attach(*root)? {
            Attached::Shared(lun) => return Ok(Some(lun)),
            Attached::New(lun) => lun,
        };
        let disk = ScsiDisk { lun, image: path, backing };
        gate.expect(*root, lun, image);
        if let Err(error) = plug(qmp, &disk, file.as_fd()).await {
            self.luns.detach(lun);
            gate.forget(*root);
            return Err(error);
        }
        self.plugged.insert(lun, disk);
        Ok(Some(lun))
    }

    /// Takes one user from the disk at `lun`, and the disk with its last one: then the layer is returned that the guest has
    /// to let go. What `events` tells meanwhile goes to `note`.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub(crate) async fn remove(
        &mut self,
        qmp: &Qmp,
        gate: &Gate,
        lun: Lun,
        events: &mut mpsc::Receiver<Event>,
        mut note: impl FnMut(&Event),
    ) -> Result<Option<RootHash>, DiskError> {
        let Some(root) = self.luns.detach(lun) else { return Ok(None) };
        let Some(disk) = self.plugged.remove(&lun) else { return Ok(None) };
        gate.leaving(root);
        call(qmp, lun, "device_del", disk.device_del()).await?;
        let deleted = async {
            while let Some(event) = events.recv().await {
                if event.event == "DEVICE_DELETED" && event.data["device"] == disk.device_id() {
                    return Ok(());
                }
                note(&event);
            }
            Err(DiskError::Qmp { lun: lun.get(), source: QmpError::Closed })
        };
        timeout(UNPLUG_PATIENCE, deleted)
            .await
            .map_err(|_| DiskError::Busy { lun: lun.get(), after: UNPLUG_PATIENCE })??;
        call(qmp, lun, "blockdev-del", disk.blockdev_del()).await?;
        call(qmp, lun, "remove-fd", disk.remove_fd()).await?;
        Ok(Some(root))
    }
}

/// Gives QEMU an open image as a disk. What was done before a failure is undone.
async fn plug(qmp: &Qmp, disk: &ScsiDisk, image: BorrowedFd<'_>) -> Result<(), DiskError> {
    let lun = disk.lun;
    within(lun, qmp.execute_with("add-fd", disk.add_fd(), image)).await?;
    let plugged = async {
        call(qmp, lun, "blockdev-add", disk.blockdev_add()).await?;
        let added = call(qmp, lun, "device_add", disk.device_add()).await;
        if added.is_err() {
            let _ = call(qmp, lun, "blockdev-del", disk.blockdev_del()).await;
        }
        added
    }
    .await;
    if plugged.is_err() {
        let _ = call(qmp, lun, "remove-fd", disk.remove_fd()).await;
    }
    plugged
}

async fn call(qmp: &Qmp, lun: Lun, command: &str, arguments: Value) -> Result<(), DiskError> {
    within(lun, qmp.execute(command, arguments)).await
}

/// One QMP command about a disk; a monitor that has gone silent must not hold up the pod for ever.
async fn within(lun: Lun, answer: impl Future<Output = Result<Value, QmpError>>) -> Result<(), DiskError> {
    match timeout(QMP_PATIENCE, answer).await {
        Ok(answer) => answer.map(drop).map_err(|source| DiskError::Qmp { lun: lun.get(), source }),
        Err(_) => Err(DiskError::Silent { lun: lun.get(), after: QMP_PATIENCE }),
    }
}
