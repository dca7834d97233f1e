//! A container's termination message: fetched from the guest when its first process has ended, and written to where kubelet
//! reads it before anybody is told of the end.

use std::fs;
use std::io;
use std::time::Duration;

use agent_client::Below;
use agent_client::proto::agent::GetDiagnosticDataRequest;
use guest_spec::TerminationLog;
use slog::warn;
use tokio::time::timeout;

use super::pod_vm::PodVm;
use crate::api::{ContainerId, one_line};

/// How much of a termination message kubelet reads, in bytes.
const MAX_MESSAGE: usize = 4096;
/// How long the guest may take to say it: the container's end waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fetches the message of a container. One that cannot be had is lost, which the log says.
pub async fn fetch(vm: &PodVm, id: &ContainerId, to: &TerminationLog) {
    let request = GetDiagnosticDataRequest {
        log_type: "termination_log".to_owned(),
        container_id: id.to_string(),
        ..Default::default()
    };
    let written = match timeout(PATIENCE, vm.vm.agent().get_diagnostic_data(request)).await {
        Ok(Ok(answer)) => write(to, answer.data.as_bytes())
            .map_err(|error| format!("write it to {}: {error}", to.host.display())),
        Ok(Err(error)) => Err(one_line(&error)),
        Err(_) => Err(format!("the guest's agent did not say it within {PATIENCE:?}")),
    };
    if let Err(error) = written {
        warn!(vm.context.log, "termination message is lost"; "container" => %id, "error" => error);
    }
}

/// Writes what the guest says is the message: so much of it as kubelet reads, into the file that is there, through no
/// symbolic link.
fn write(to: &TerminationLog, message: &[u8]) -> io::Result<()> {
    let (below, path) = match &to.below {
        Some(directory) => (Below::open(directory)?, to.host.clone()),
        None => {
            let path = fs::canonicalize(&to.host)?;
            (Below::open(path.parent().unwrap_or(&path))?, path)
        }
    };
    below.write(&path, &message[..message.len().min(MAX_MESSAGE)])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::*;

    fn log(host: PathBuf, below: Option<PathBuf>) -> TerminationLog {
        TerminationLog { host, below, destination: "/dev/termination-log".to_owned() }
    }

    #[test]
    fn a_message_is_bounded_and_written_through_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let pod = directory.path().join("pod");
        fs::create_dir_all(pod.join("containers/app")).unwrap();
        let (mine, theirs) = (pod.join("containers/app/1a2b"), directory.path().join("shadow"));
        fs::write(&theirs, "root").unwrap();
        let of_pod = |host: &Path| log(host.to_path_buf(), Some(pod.clone()));
        // kubelet makes the file; where none is, none is made.
        assert!(write(&of_pod(&mine), b"x").is_err() && !mine.exists());
        symlink(&theirs, &mine).unwrap();
        assert!(write(&of_pod(&mine), b"x").is_err());
        fs::remove_file(&mine).unwrap();
        // A link on the way is one as well.
        symlink(directory.path(), pod.join("containers/away")).unwrap();
        assert!(write(&of_pod(&pod.join("containers/away/shadow")), b"x").is_err());
        assert_eq!(fs::read(&theirs).unwrap(), b"root");
        fs::write(&mine, "what was there before, and is longer").unwrap();
        write(&of_pod(&mine), b"last words").unwrap();
        assert_eq!(fs::read(&mine).unwrap(), b"last words");
        write(&of_pod(&mine), &[b'x'; 10_000]).unwrap();
        assert_eq!(fs::read(&mine).unwrap().len(), MAX_MESSAGE);
        // Nobody's pod: the file that root of this host has named, wherever it is.
        symlink(&mine, directory.path().join("link")).unwrap();
        write(&log(directory.path().join("link"), None), b"y").unwrap();
        assert_eq!(fs::read(&mine).unwrap(), b"y");
    }
}
