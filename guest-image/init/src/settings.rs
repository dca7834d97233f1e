//! Host name, loopback, limits.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

/// Open files that a container may have unless its spec says otherwise: what engines on a host give, and the
/// kernel's own upper bound (`fs.nr_open`). The kernel starts PID 1 with 4096, too few for servers.
const OPEN_FILES: u64 = 1 << 20;

/// `IFF_UP | IFF_LOOPBACK` of `if.h`, as `/sys/class/net/lo/flags` takes them.
const LOOPBACK_UP: &str = "0x9";

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel refused the host name.
    #[error("cannot set the host name to `{name}`")]
    HostName {
        name: String,
        #[source]
        source: Errno,
    },
    /// The kernel refused the limit.
    #[error("cannot allow {OPEN_FILES} open files")]
    OpenFiles(#[source] Errno),
}

/// Takes away the kernel's right to load modules, for good. What the image needs is built in or loaded by now; whoever breaks
/// out of a container later cannot bring code of his own that way.
///
/// # Errors
///
/// When the kernel has the setting and refuses it. A kernel that loads no modules has none.
pub fn lock_modules(root: &Path) -> Result<(), SettingError> {
    let path = root.join("proc/sys/kernel/modules_disabled");
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, "1").map_err(|source| SettingError::File { path, source })
}

/// Makes all settings; files are taken below `root`.
///
/// # Errors
///
/// The first setting that failed.
pub fn apply(root: &Path) -> Result<(), SettingError> {
    let name = host_name(root)?;
    nix::unistd::sethostname(&name).map_err(|source| SettingError::HostName { name, source })?;
    loopback_up(root)?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).map_err(SettingError::OpenFiles)
}

/// The name in `/etc/hostname`.
fn host_name(root: &Path) -> Result<String, SettingError> {
    let path = root.join("etc/hostname");
    let text = fs::read_to_string(&path).map_err(|source| SettingError::File { path, source })?;
    Ok(text.trim().to_owned())
}

/// Brings the loopback interface up; the kernel gives it 127.0.0.1 and ::1 by itself.
fn loopback_up(root: &Path) -> Result<(), SettingError> {
    let path = root.join("sys/class/net/lo/flags");
    fs::write(&path, LOOPBACK_UP).map_err(|source| SettingError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_is_one_trimmed_line() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/hostname"), "coffer\n").unwrap();
        assert_eq!(host_name(root.path()).unwrap(), "coffer");
    }

    #[test]
    fn a_missing_host_name_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let error = host_name(root.path()).unwrap_err();
        assert!(error.to_string().ends_with("etc/hostname"), "{error}");
    }

    #[test]
    fn loopback_is_switched_on_through_sysfs() {
        let root = tempfile::tempdir().unwrap();
        let lo = root.path().join("sys/class/net/lo");
        fs::create_dir_all(&lo).unwrap();
        loopback_up(root.path()).unwrap();
        assert_eq!(fs::read_to_string(lo.join("flags")).unwrap(), "0x9");
    }

    #[test]
    fn modules_are_locked_where_there_are_modules() {
        let root = tempfile::tempdir().unwrap();
        lock_modules(root.path()).unwrap();
        let kernel = root.path().join("proc/sys/kernel");
        fs::create_dir_all(kernel.join("modules_disabled")).unwrap();
        let error = lock_modules(root.path()).unwrap_err();
        assert!(error.to_string().ends_with("modules_disabled"), "{error}");
        fs::remove_dir(kernel.join("modules_disabled")).unwrap();
        fs::write(kernel.join("modules_disabled"), "0").unwrap();
        lock_modules(root.path()).unwrap();
        assert_eq!(fs::read_to_string(kernel.join("modules_disabled")).unwrap(), "1");
    }
}
