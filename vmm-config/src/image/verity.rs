//! Does the kernel command line verify the root that the manifest ships?
//!
//! The line makes the device with `dm-mod.create="<name>,<uuid>,<minor>,ro,0 <sectors> verity <version>
//! <data> <hash> <data block> <hash block> <blocks> <start> <algorithm> <digest> <salt> ..."` (Linux,
//! `Documentation/admin-guide/device-mapper/dm-init.rst` and `verity.rst`) and mounts it as the root.

use super::Verity;
use crate::cmdline::Cmdline;

/// The device that dm-init makes first, and which must be the root.
const ROOT_DEVICE: &str = "/dev/dm-0";
/// The root image is the VM's only virtio-blk disk.
const ROOT_DISK: &str = "/dev/vda";
/// Sectors are 512 bytes everywhere in device mapper.
const SECTOR: u64 = 512;

/// A command line that does not verify the manifest's root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerityMismatch {
    /// It does not set up verity, or not in the form that is understood.
    #[error("it needs one `dm-mod.create` with one read-only verity table, and `root={ROOT_DEVICE}`")]
    NoTable,
    /// A parameter differs.
    #[error("verity's {what} is {on_cmdline:?} on the command line and {in_manifest:?} in the manifest")]
    Differs {
        /// Name of the parameter.
        what: &'static str,
        /// Its value on the command line.
        on_cmdline: String,
        /// Its value by the manifest.
        in_manifest: String,
    },
}

impl Verity {
    /// Compares the command line's verity table with these parameters.
    pub(super) fn check(&self, cmdline: &Cmdline) -> Result<(), VerityMismatch> {
        let table = cmdline
            .value("dm-mod.create")
            .filter(|_| cmdline.value("root") == Some(ROOT_DEVICE))
            .filter(|devices| !devices.contains(';'))
            .and_then(|device| {
                device.splitn(5, ',').nth(4).filter(|_| device.split(',').nth(3) == Some("ro"))
            })
            .ok_or(VerityMismatch::NoTable)?;
        let fields: Vec<&str> = table.split_ascii_whitespace().collect();
        let sectors = self.data_blocks.saturating_mul(u64::from(self.block_size) / SECTOR);
        let salt = if self.salt.as_str().is_empty() { "-" } else { self.salt.as_str() };
        let wanted: [(&'static str, String); 13] = [
            ("first sector", "0".to_owned()),
            ("number of sectors", sectors.to_string()),
            ("target", "verity".to_owned()),
            ("version", "1".to_owned()),
            ("data device", ROOT_DISK.to_owned()),
            ("hash device", ROOT_DISK.to_owned()),
            ("data block size", self.block_size.to_string()),
            ("hash block size", self.block_size.to_string()),
            ("number of blocks", self.data_blocks.to_string()),
            ("start of the tree", self.hash_start_block.to_string()),
            ("algorithm", self.algorithm.name().to_owned()),
            ("root hash", self.root_hash.to_string()),
            ("salt", salt.to_owned()),
        ];
        if fields.len() < wanted.len() || table.contains(',') {
            return Err(VerityMismatch::NoTable);
        }
        for ((what, in_manifest), on_cmdline) in wanted.into_iter().zip(fields) {
            if in_manifest != on_cmdline {
                let on_cmdline = on_cmdline.to_owned();
                return Err(VerityMismatch::Differs { what, on_cmdline, in_manifest });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Salt, VerityAlgorithm};

    fn verity() -> Verity {
        Verity {
            root_hash: "ab".repeat(32).parse().unwrap(),
            salt: Salt::try_from("cd".repeat(32)).unwrap(),
            data_blocks: 10,
            hash_start_block: 11,
            block_size: 4096,
            algorithm: VerityAlgorithm::Sha256,
        }
    }

    fn line() -> String {
        format!(
            "dm-mod.create=\"root,,,ro,0 80 verity 1 /dev/vda /dev/vda 4096 4096 10 11 sha256 {} {} 1 \
             panic_on_corruption\" root=/dev/dm-0",
            "ab".repeat(32),
            "cd".repeat(32)
        )
    }

    fn check(line: &str) -> Result<(), VerityMismatch> {
        verity().check(&Cmdline::parse(line).unwrap())
    }

    #[test]
    fn matching_line_is_accepted() {
        assert_eq!(check(&line()), Ok(()));
    }

    #[test]
    fn each_parameter_counts() {
        for (what, from, to) in [
            ("number of sectors", "0 80 ", "0 88 "),
            ("target", "verity", "linear"),
            ("data device", "1 /dev/vda", "1 /dev/vdb"),
            ("hash device", "/dev/vda 4096", "/dev/sda 4096"),
            ("number of blocks", " 10 11", " 12 11"),
            ("start of the tree", " 10 11", " 10 12"),
            ("algorithm", "sha256", "sha1"),
            ("root hash", "abab", "abac"),
            ("salt", "cdcd", "cdce"),
        ] {
            match check(&line().replacen(from, to, 1)) {
                Err(VerityMismatch::Differs { what: found, .. }) => assert_eq!(found, what),
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    #[test]
    fn line_without_its_verity_table_is_refused() {
        let two_devices = line().replace("root,,,ro", "a,,,ro,0 8 zero;root,,,ro");
        let two_tables = line().replace(" 1 panic_on_corruption", ",80 8 zero");
        for line in [
            "root=/dev/vda ro".to_owned(),
            line().replace("root=/dev/dm-0", "root=/dev/vda"),
            line().replace(",ro,", ",rw,"),
            "dm-mod.create=\"root,,,ro,0 80 verity\" root=/dev/dm-0".to_owned(),
            two_devices,
            two_tables,
        ] {
            assert_eq!(check(&line), Err(VerityMismatch::NoTable), "{line}");
        }
    }

    #[test]
    fn empty_salt_is_written_as_a_dash() {
        let verity = Verity { salt: Salt::try_from(String::new()).unwrap(), ..verity() };
        let line = line().replace(&"cd".repeat(32), "-");
        assert_eq!(verity.check(&Cmdline::parse(&line).unwrap()), Ok(()));
    }
}
