//! What a confidential VM has besides: a firmware of the right kind, the pod's initdata, and the measurements that its
//! report will show, known before it starts.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use host_claims::files;
use jail::UserId;
use measurement::initdata::disk;
use measurement::ovmf::{Acceptance, Firmware, FirmwareError, Kind, MAX_FIRMWARE};
use measurement::snp::LaunchDigest;
use measurement::snp::id_block::{AUTH, BLOCK, IdBlockError};
use serde_json::json;
use shared_types::one_line;
use slog::{Logger, info, warn};
use vmm_config::config::{NodeConfig, Tee};
use vmm_config::expect::{ExpectError, Expectation, expectation};
use vmm_config::qemu::INITDATA_FILE;
use vmm_config::request::PodRequest;
use vmm_config::spec::VmSpec;
use vmm_config::tee::HostTee;
use vmm_config::units::MemorySize;

use super::Request;

/// Where the expectation is kept while the VM lives, in its state directory.
pub(crate) const MEASUREMENT_FILE: &str = "measurement.json";
/// Largest kernel that is measured, in bytes.
const MAX_KERNEL: u64 = 256 << 20;
/// From here on, accepting all memory takes longer than a boot may be silent: the one report of it says more than 1.4 s
/// a GiB, and the stall limit of a small VM is 20 s.
const LARGE: MemorySize = MemorySize::from_mib(16 << 10);

/// Why a confidential VM does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfidentialError {
    /// A file.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The firmware's metadata makes no sense.
    #[error("the firmware {} (key `firmware`) cannot be used: {}", path.display(), one_line(&**source))]
    Firmware {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<FirmwareError>,
    },
    /// The initdata does not fit on its disk.
    #[error("the pod's initdata cannot be handed over: {0}")]
    Initdata(String),
    /// No expectation.
    #[error("what the VM's report will say cannot be computed: {}", one_line(&**.0))]
    Expect(#[source] Box<ExpectError>),
    /// The ID block is not for this guest.
    #[error("the ID block {} cannot be used: {}; make one with `coffer measure id-block`", path.display(), one_line(&**source))]
    IdBlock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<IdBlockError>,
    },
}

/// The configured firmware of a confidential VM.
#[derive(Debug)]
pub(super) struct TeeFirmware {
    bytes: Vec<u8>,
    pub(super) kind: Kind,
}

/// Reads the firmware where a confidential VM is configured.
pub(super) fn firmware(config: &NodeConfig) -> Result<Option<TeeFirmware>, ConfidentialError> {
    let Some(path) = config.firmware.as_ref().filter(|_| config.tee != Tee::None) else { return Ok(None) };
    let path = path.as_path();
    let bytes = read(path, MAX_FIRMWARE as u64)?;
    let kind = Firmware::parse(&bytes)
        .and_then(|firmware| firmware.kind())
        .map_err(|source| ConfidentialError::Firmware { path: path.to_owned(), source: Box::new(source) })?;
    Ok(Some(TeeFirmware { bytes, kind }))
}

/// Who accepts the VM's memory, asked only of a large VM: in a small one it makes no difference, and asking takes its
/// while.
fn acceptance(firmware: &TeeFirmware, memory: MemorySize, tee: &HostTee) -> Acceptance {
    match (Firmware::parse(&firmware.bytes), tee) {
        (Ok(firmware), HostTee::Tdx) if memory >= LARGE => firmware.tdx_acceptance(),
        (Ok(firmware), HostTee::Snp(_)) if memory >= LARGE => firmware.snp_acceptance(),
        _ => Acceptance::Unknown,
    }
}

/// [`acceptance`] of the VM that is to be. A firmware that accepts all memory is worth a warning, since the guest will
/// say nothing for long.
pub(super) fn look_at_acceptance(
    firmware: Option<&TeeFirmware>,
    request: &Request,
    log: &Logger,
) -> Acceptance {
    let memory = request.pod.memory.size();
    let found = firmware.map(|firmware| acceptance(firmware, memory, &request.tee)).unwrap_or_default();
    if found == Acceptance::Eager {
        warn!(log, "the firmware accepts all of the VM's memory before the guest's kernel starts: expect a slow boot";
            "firmware" => request.config.firmware.as_ref().map(ToString::to_string), "memory" => %memory);
    }
    found
}

/// Writes the pod's initdata, where it has some, as the disk that the description names, for QEMU's user to read.
pub(super) fn write_initdata(dir: &Path, pod: &PodRequest, user: UserId) -> Result<(), ConfidentialError> {
    let Some(initdata) = &pod.initdata else { return Ok(()) };
    let image = disk::encode(initdata).map_err(|error| ConfidentialError::Initdata(error.to_string()))?;
    write(&dir.join(INITDATA_FILE), &image, Some(user))
}

/// Computes what the VM's report will say, says so in the log and in the state directory, and adds the ID block where
/// the node demands one. A plain VM stays as it is.
pub(super) fn expect(
    spec: VmSpec,
    request: &Request,
    firmware: Option<TeeFirmware>,
    dir: &Path,
    log: &Logger,
) -> Result<VmSpec, ConfidentialError> {
    let (Some(firmware), Some(_)) = (firmware, spec.confidential()) else { return Ok(spec) };
    let kernel =
        read(request.config.image.as_path().join(request.image.kernel.file.as_str()).as_path(), MAX_KERNEL)?;
    let Some(expected) = expectation(&spec, &firmware.bytes, &kernel)
        .map_err(|error| ConfidentialError::Expect(Box::new(error)))?
    else {
        return Ok(spec);
    };
    let json = describe(log, expected, &request.pod);
    write(&dir.join(MEASUREMENT_FILE), json.to_string().as_bytes(), None)?;
    match (expected, &request.config.snp_id_blocks) {
        (Expectation::Snp { launch_digest }, Some(blocks)) => sign(spec, blocks.as_path(), launch_digest),
        _ => Ok(spec),
    }
}

fn describe(log: &Logger, expected: Expectation, pod: &PodRequest) -> serde_json::Value {
    let initdata = pod.initdata.as_ref();
    match expected {
        Expectation::Tdx { mrtd, rtmr1, rtmr2 } => {
            let config_id = initdata.map(|initdata| initdata.mr_config_id().to_string());
            info!(log, "expected measurement"; "mrtd" => %mrtd, "rtmr1" => %rtmr1, "rtmr2" => %rtmr2,
                "mrconfigid" => config_id.as_deref().unwrap_or("0"));
            json!({ "tee": "tdx", "mrtd": mrtd.to_string(), "rtmr1": rtmr1.to_string(),
                "rtmr2": rtmr2.to_string(), "mrconfigid": config_id })
        }
        Expectation::Snp { launch_digest } => {
            let host_data = initdata.map(|initdata| initdata.host_data().to_string());
            info!(log, "expected measurement"; "launch_digest" => %launch_digest,
                "host_data" => host_data.as_deref().unwrap_or("0"));
            json!({ "tee": "snp", "launch_digest": launch_digest.to_string(), "host_data": host_data })
        }
    }
}

fn sign(spec: VmSpec, blocks: &Path, digest: LaunchDigest) -> Result<VmSpec, ConfidentialError> {
    let path = |kind: &str| blocks.join(format!("{digest}.{kind}"));
    // One byte more than there may be, so that a longer file is seen as one.
    let block = read(&path("id-block"), BLOCK as u64 + 1)?;
    let auth = read(&path("id-auth"), AUTH as u64 + 1)?;
    spec.with_id_block(&block, &auth, digest)
        .map_err(|source| ConfidentialError::IdBlock { path: path("id-block"), source: Box::new(source) })
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, ConfidentialError> {
    let failed = |source| ConfidentialError::File { action: "read", path: path.to_owned(), source };
    files::read(path, max).map_err(failed)
}

/// Only the VM's owner may read what a pod's owner sends to it.
///
/// The owner is changed by the open file, never by its name: the directory may be another user's, who could put a link to
/// somewhere else in its place.
fn write(path: &Path, bytes: &[u8], owner: Option<UserId>) -> Result<(), ConfidentialError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        owner.map_or(Ok(()), |user| fchown(&file, Some(user.get()), Some(user.get())))
    };
    let written: io::Result<()> = write();
    written.map_err(|source| {
        let _ = fs::remove_file(path);
        ConfidentialError::File { action: "write", path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use jail::{Role, UserRange};
    use measurement::initdata::{Algorithm, annotation, build, disk};
    use vmm_config::path::AbsolutePath;
    use vmm_config::request::OciLimits;
    use vmm_config::tee::SevAddressing;

    use super::*;

    fn pod(document: &measurement::initdata::InitData) -> PodRequest {
        let text = annotation::encode(document).unwrap();
        let annotations = [(annotation::NAME, text.as_str())];
        PodRequest::new(&NodeConfig::default(), "pod", annotations, OciLimits::default()).unwrap()
    }

    #[test]
    fn initdata_becomes_a_disk_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let document =
            build(Algorithm::Sha384, [("aa.toml".to_owned(), "x = 1\n".to_owned())].into()).unwrap();
        let user = UserRange::default().of_process(9, Role::Qemu);
        write_initdata(dir.path(), &pod(&document), user).unwrap();
        let file = dir.path().join(INITDATA_FILE);
        assert_eq!(fs::metadata(&file).unwrap().uid(), user.get());
        assert_eq!(disk::decode(&fs::read(&file).unwrap()).unwrap(), document);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_firmware_that_is_cut_short_or_missing_is_named_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("OVMF.fd");
        let firmware_at = AbsolutePath::from_path(&path).unwrap();
        let config = NodeConfig { tee: Tee::Tdx, firmware: Some(firmware_at), ..NodeConfig::default() };
        let missing = firmware(&config).unwrap_err().to_string();
        assert!(missing.contains("OVMF.fd") && missing.contains("No such file"), "{missing}");
        fs::write(&path, [0; 5000]).unwrap();
        let cut = firmware(&config).unwrap_err().to_string();
        assert!(cut.contains("OVMF.fd") && cut.contains("`firmware`") && cut.contains("5000"), "{cut}");
        let plain = NodeConfig { tee: Tee::None, ..config };
        assert!(firmware(&plain).unwrap().is_none(), "a plain VM's firmware is QEMU's business");
    }

    #[test]
    fn a_large_vms_firmware_is_looked_at_and_a_small_ones_is_not() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../build/forky/usr/share/ovmf/OVMF.amdsev.fd");
        let Ok(bytes) = fs::read(path) else {
            let required = std::env::var_os("COFFER_REQUIRE_FIRMWARE").is_some_and(|value| value == "1");
            assert!(!required, "{path} is not there: run tools/forky-root");
            return;
        };
        let kind = Firmware::parse(&bytes).unwrap().kind().unwrap();
        let firmware = TeeFirmware { bytes, kind };
        let snp = HostTee::Snp(SevAddressing::from_cpuid(0x16f).unwrap());
        assert_eq!(acceptance(&firmware, LARGE, &snp), Acceptance::Lazy);
        let small = MemorySize::from_bytes(LARGE.bytes() - 1);
        assert_eq!(acceptance(&firmware, small, &snp), Acceptance::Unknown);
        let absent = HostTee::Absent { reason: "none".to_owned() };
        assert_eq!(acceptance(&firmware, LARGE, &absent), Acceptance::Unknown);
    }

    #[test]
    fn a_file_beyond_its_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [0; 11]).unwrap();
        assert!(read(&path, 10).unwrap_err().to_string().contains("larger than 10 bytes"));
        assert_eq!(read(&path, 11).unwrap().len(), 11);
    }
}
