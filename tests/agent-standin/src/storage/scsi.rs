//! Finds the disk behind a SCSI address.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};

/// How often sysfs and devtmpfs are looked at.
const POLL: Duration = Duration::from_millis(10);

/// `<scsi id>:<lun>` on channel 0 of the guest's only SCSI controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiAddress {
    id: u16,
    lun: u16,
}

impl ScsiAddress {
    /// Parses the source of a storage with driver `scsi`.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text
            .split_once(':')
            .and_then(|(id, lun)| Some(Self { id: id.parse().ok()?, lun: lun.parse().ok()? }));
        parsed.ok_or_else(|| Error::refused(format!("SCSI address {text:?}: must be <scsi id>:<lun>")))
    }

    /// Scans for the disk and waits until its node can be opened.
    pub async fn disk(self, limit: Duration) -> Result<PathBuf> {
        self.scan()?;
        // kata-agent takes only disks of the first SCSI host.
        let block = format!("/sys/bus/scsi/devices/0:0:{}:{}/block", self.id, self.lun);
        let found = async {
            loop {
                if let Some(node) = node(Path::new(&block)) {
                    return node;
                }
                sleep(POLL).await;
            }
        };
        timeout(limit, found).await.map_err(|_| Error::Timeout {
            what: format!("the disk at SCSI address {}:{} of the first SCSI host", self.id, self.lun),
            limit,
        })
    }

    fn scan(self) -> Result<()> {
        let hosts = Path::new("/sys/class/scsi_host");
        for host in fs::read_dir(hosts).map_err(Error::path("list SCSI hosts in", hosts))? {
            let scan = host.map_err(Error::path("list SCSI hosts in", hosts))?.path().join("scan");
            fs::write(&scan, format!("0 {} {}", self.id, self.lun)).map_err(Error::path("write", &scan))?;
        }
        Ok(())
    }
}

fn node(block: &Path) -> Option<PathBuf> {
    let name = fs::read_dir(block).ok()?.next()?.ok()?.file_name();
    let node = Path::new("/dev").join(name);
    // The kernel makes the node a moment before there is a disk behind it (ENXIO until then); kata-agent waits for the
    // uevent, which comes after both.
    fs::File::open(&node).ok()?;
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_id_and_lun() {
        assert_eq!(ScsiAddress::parse("0:12").unwrap(), ScsiAddress { id: 0, lun: 12 });
    }

    #[test]
    fn refuses_other_forms() {
        for text in ["", "3", "0:", ":1", "0:0:1", "a:b", "0:-1", "/dev/sda"] {
            assert!(ScsiAddress::parse(text).is_err(), "{text:?}");
        }
    }
}
