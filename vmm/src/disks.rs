//! The VM's read-only disks: image files as LUNs of its SCSI controller, added and removed over QMP.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use vmm_config::hotplug::{Lun, ScsiDisk};
use vmm_config::path::AbsolutePath;

use crate::luns::{Attached, FileId, Full, Luns};
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
    /// The image is not a regular file.
    #[error("image layer {} is not a regular file", .0.display())]
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
    /// There is no VM to ask.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// The disks of one VM.
#[derive(Debug, Default)]
pub struct Disks {
    luns: Luns,
    plugged: BTreeMap<Lun, ScsiDisk>,
}

impl Disks {
    /// Adds one user of `image`.
    ///
    /// # Errors
    /// See [`DiskError`]; nothing changed then.
    pub async fn add(&mut self, qmp: &Qmp, image: &Path) -> Result<Lun, DiskError> {
        let unusable = |source| DiskError::Image { path: image.to_owned(), source };
        let metadata = std::fs::metadata(image).map_err(unusable)?;
        if !metadata.is_file() {
            return Err(DiskError::NotAFile(image.to_owned()));
        }
        let path = AbsolutePath::new(&image.display().to_string())
            .map_err(|reason| unusable(io::Error::new(io::ErrorKind::InvalidInput, reason)))?;
        let file = FileId { device: metadata.dev(), inode: metadata.ino() };
        let lun = match self.luns.attach(file)? {
            Attached::Shared(lun) => return Ok(lun),
            Attached::New(lun) => lun,
        };
        let disk = ScsiDisk { lun, image: path };
        if let Err(error) = plug(qmp, &disk).await {
            self.luns.detach(lun);
            return Err(error);
        }
        self.plugged.insert(lun, disk);
        Ok(lun)
    }

    /// Takes one user from the disk at `lun`, and the disk with its last one. What `events` tells meanwhile goes to
    /// `note`.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub async fn remove(
        &mut self,
        qmp: &Qmp,
        lun: Lun,
        events: &mut mpsc::UnboundedReceiver<Event>,
        mut note: impl FnMut(&Event),
    ) -> Result<(), DiskError> {
        if !self.luns.detach(lun) {
            return Ok(());
        }
        let Some(disk) = self.plugged.remove(&lun) else { return Ok(()) };
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
        call(qmp, lun, "blockdev-del", disk.blockdev_del()).await
    }
}

async fn plug(qmp: &Qmp, disk: &ScsiDisk) -> Result<(), DiskError> {
    call(qmp, disk.lun, "blockdev-add", disk.blockdev_add()).await?;
    let plugged = call(qmp, disk.lun, "device_add", disk.device_add()).await;
    if plugged.is_err() {
        let _ = call(qmp, disk.lun, "blockdev-del", disk.blockdev_del()).await;
    }
    plugged
}

/// One QMP command about a disk; a monitor that has gone silent must not hold up the pod for ever.
async fn call(qmp: &Qmp, lun: Lun, command: &str, arguments: Value) -> Result<(), DiskError> {
    match timeout(QMP_PATIENCE, qmp.execute(command, arguments)).await {
        Ok(answer) => answer.map(drop).map_err(|source| DiskError::Qmp { lun: lun.get(), source }),
        Err(_) => Err(DiskError::Silent { lun: lun.get(), after: QMP_PATIENCE }),
    }
}
