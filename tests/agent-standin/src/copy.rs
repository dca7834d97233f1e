//! CopyFile: files, directories and links that the host puts below the shared directory.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use agent_client::proto::agent::CopyFileRequest;
use nix::sys::stat::SFlag;

use crate::error::{Error, Result};

/// The only directory that CopyFile writes to.
pub const SHARED: &str = "/run/kata-containers/shared/containers";

/// Carries out one request below `shared`.
pub fn copy(request: &CopyFileRequest, shared: &Path) -> Result<()> {
    let path = below(&request.path, shared)?;
    if request.offset < 0 || request.file_size < 0 {
        return Err(Error::refused("CopyFile with a negative offset or size"));
    }
    let (uid, gid) = owner(request);
    if let Some(parent) = path.parent() {
        make_directory(parent, request.dir_mode & 0o777)?;
        if parent != shared {
            chown(parent, Some(uid), Some(gid)).map_err(Error::path("change owner of", parent))?;
        }
    }
    match SFlag::from_bits_truncate(request.file_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => {
            if path.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
                fs::remove_file(&path).map_err(Error::path("remove", &path))?;
            }
            make_directory(&path, request.file_mode & 0o777)?;
            finish(&path, request)
        }
        SFlag::S_IFLNK => {
            remove(&path)?;
            symlink(std::ffi::OsStr::from_bytes(&request.data), &path).map_err(Error::path("link", &path))?;
            lchown(&path, Some(uid), Some(gid)).map_err(Error::path("change owner of", &path))
        }
        SFlag::S_IFREG => chunk(request, &path),
        other => Err(Error::refused(format!("CopyFile of file type {:#o}", other.bits()))),
    }
}

/// Writes one chunk beside the file; the last one replaces the file.
fn chunk(request: &CopyFileRequest, path: &Path) -> Result<()> {
    let end = request.offset.saturating_add(i64::try_from(request.data.len()).unwrap_or(i64::MAX));
    if end > request.file_size {
        return Err(Error::refused(format!(
            "CopyFile chunk ends at {end}, after the file's {}",
            request.file_size
        )));
    }
    // As kata-agent 4.1.0 (`do_copy_file`), also where that is another's name.
    let partial = path.with_extension("tmp");
    if request.offset == 0 {
        remove(path)?;
    } else if !partial.exists() {
        return Err(Error::refused(format!("CopyFile at offset {} of a file not begun", request.offset)));
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(request.offset == 0)
        .mode(request.file_mode & 0o7777)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&partial)
        .map_err(Error::path("open", &partial))?;
    file.write_all_at(&request.data, request.offset.unsigned_abs())
        .map_err(Error::path("write", &partial))?;
    if size(&file, &partial)? < request.file_size.unsigned_abs() {
        return Ok(());
    }
    finish(&partial, request)?;
    fs::rename(&partial, path).map_err(Error::path("rename", &partial))
}

fn size(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(Error::path("look at", path))?.len())
}

fn finish(path: &Path, request: &CopyFileRequest) -> Result<()> {
    let (uid, gid) = owner(request);
    chown(path, Some(uid), Some(gid)).map_err(Error::path("change owner of", path))?;
    fs::set_permissions(path, Permissions::from_mode(request.file_mode & 0o7777))
        .map_err(Error::path("change mode of", path))
}

/// The wire has them signed; half of Linux's are above that.
fn owner(request: &CopyFileRequest) -> (u32, u32) {
    (request.uid.cast_unsigned(), request.gid.cast_unsigned())
}

/// Checks that the path lies below `shared`, and that no link on the way leads out of it.
fn below(path: &str, shared: &Path) -> Result<PathBuf> {
    let refused = || Error::refused(format!("CopyFile to {path:?}: must lie below {}", shared.display()));
    let rest = Path::new(path).strip_prefix(shared).map_err(|_| refused())?;
    if rest.as_os_str().is_empty() || !rest.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refused());
    }
    let mut walked = shared.to_owned();
    for part in rest.parent().into_iter().flat_map(Path::components) {
        walked.push(part);
        if walked.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            return Err(refused());
        }
    }
    Ok(shared.join(rest))
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::path("create directory", path))
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(Error::path("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: PathBuf, mode: u32, data: &[u8]) -> CopyFileRequest {
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        CopyFileRequest {
            path: path.display().to_string(),
            file_size: i64::try_from(data.len()).unwrap(),
            file_mode: mode,
            dir_mode: 0o755,
            uid: i32::try_from(uid).unwrap(),
            gid: i32::try_from(gid).unwrap(),
            data: data.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn a_file_appears_whole_with_its_mode() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b/hosts");
        let mut first = request(path.clone(), 0o100_640, b"hello");
        first.file_size = 11;
        copy(&first, base.path()).unwrap();
        assert!(!path.exists());
        let mut second = request(path.clone(), 0o100_640, b" world");
        (second.file_size, second.offset) = (11, 5);
        copy(&second, base.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_file_a_directory_and_a_link() {
        let base = tempfile::tempdir().unwrap();
        copy(&request(base.path().join("empty"), 0o100_600, b""), base.path()).unwrap();
        copy(&request(base.path().join("dir"), 0o040_750, b""), base.path()).unwrap();
        copy(&request(base.path().join("link"), 0o120_777, b"dir"), base.path()).unwrap();
        assert_eq!(fs::metadata(base.path().join("empty")).unwrap().len(), 0);
        assert!(base.path().join("dir").is_dir());
        assert_eq!(fs::read_link(base.path().join("link")).unwrap(), Path::new("dir"));
        copy(&request(base.path().join("link"), 0o100_600, b"now a file"), base.path()).unwrap();
        assert_eq!(fs::read(base.path().join("link")).unwrap(), b"now a file");
    }

    #[test]
    fn a_part_is_written_over_a_file_and_not_over_a_directory() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("b.tmp"), b"somebody's, and longer").unwrap();
        copy(&request(base.path().join("b.conf"), 0o100_600, b"b"), base.path()).unwrap();
        assert_eq!(fs::read(base.path().join("b.conf")).unwrap(), b"b");
        fs::create_dir(base.path().join("a.tmp")).unwrap();
        copy(&request(base.path().join("a.conf"), 0o100_600, b"a"), base.path()).unwrap_err();
        assert!(base.path().join("a.tmp").is_dir());
    }

    #[test]
    fn refuses_places_outside() {
        let base = tempfile::tempdir().unwrap();
        symlink("/tmp", base.path().join("out")).unwrap();
        for path in ["/etc/passwd", "../x", "", "out/x"] {
            let refused = copy(&request(base.path().join(path), 0o100_600, b"x"), base.path());
            assert!(matches!(refused, Err(Error::Refused(_))), "{path:?}");
        }
    }

    #[test]
    fn refuses_chunks_that_do_not_fit() {
        let base = tempfile::tempdir().unwrap();
        let mut long = request(base.path().join("x"), 0o100_600, b"abc");
        long.file_size = 2;
        assert!(copy(&long, base.path()).is_err());
        let mut late = request(base.path().join("y"), 0o100_600, b"abc");
        (late.file_size, late.offset) = (6, 3);
        assert!(copy(&late, base.path()).is_err());
        assert!(copy(&request(base.path().join("z"), 0o020_600, b""), base.path()).is_err());
    }
}
