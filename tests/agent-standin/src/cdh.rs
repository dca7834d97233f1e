//! Sealed secrets, as kata-agent 4.1.0 has them opened (`src/agent/src/confidential_data_hub/mod.rs`, `src/agent/src/rpc.rs`): by
//! whom it finds at a socket when it starts. What is not opened stays as it is, and the container runs with that.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use agent_client::proto::confidential_data_hub::UnsealSecretInput;
use agent_client::proto::confidential_data_hub_ttrpc::SealedSecretServiceClient;
use oci_spec::runtime::Spec;
use ttrpc::r#async::Client;
use ttrpc::context;

use crate::copy::SHARED;
use crate::error::{Error, Result};
use crate::log;

/// Where a hub listens.
pub const SOCKET: &str = "/run/confidential-containers/cdh.sock";
/// How a sealed secret begins.
const PREFIX: &str = "sealed.";
/// How long the agent waits for an answer, in nanoseconds (`agent.cdh_api_timeout`).
const PATIENCE: i64 = 50_000_000_000;
/// Ends of mounts' sources that are not looked into.
const LEFT_ALONE: [&str; 5] = ["resolv.conf", "termination-log", "hostname", "hosts", "serviceaccount"];

/// Whoever opens sealed secrets.
pub struct Hub(SealedSecretServiceClient);

impl Hub {
    /// Whoever listens there; nobody where there is no socket. One at which nobody listens ends the agent.
    pub async fn find(socket: &Path) -> Result<Option<Self>> {
        if !fs::metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
            return Ok(None);
        }
        let client = Client::connect(&format!("unix://{}", socket.display())).await;
        let client = client.map_err(|error| Error::refused(format!("{}: {error}", socket.display())))?;
        Ok(Some(Self(SealedSecretServiceClient::new(client))))
    }

    async fn unseal(&self, secret: &str) -> Result<Vec<u8>> {
        let input = UnsealSecretInput { secret: secret.as_bytes().to_vec(), ..Default::default() };
        let opened = self.0.unseal_secret(context::with_timeout(PATIENCE), &input).await;
        Ok(opened.map_err(|error| Error::refused(error.to_string()))?.plaintext)
    }

    /// Opens a container's variables, and the files of its volumes.
    pub async fn open(&self, spec: &mut Spec) {
        if let Some(env) = spec.process_mut().as_mut().and_then(|process| process.env_mut().as_mut()) {
            for entry in env {
                match self.variable(entry).await {
                    Ok(opened) => *entry = opened,
                    Err(error) => log::line(format_args!("failed to unseal secret: {error}")),
                }
            }
        }
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        for source in mounts.iter().filter_map(|mount| mount.source().as_deref()).filter_map(Path::to_str) {
            if source.starts_with(SHARED)
                && !LEFT_ALONE.iter().any(|end| source.ends_with(end))
                && let Err(error) = self.files(Path::new(source)).await
            {
                log::line(format_args!("failed to unseal file {source}: {error}"));
            }
        }
    }

    async fn variable(&self, entry: &str) -> Result<String> {
        match entry.split_once('=') {
            Some((name, value)) if value.starts_with(PREFIX) => {
                let value = String::from_utf8(self.unseal(value).await?);
                let value = value.map_err(|_| Error::refused("the secret is not text"))?;
                Ok(format!("{name}={value}"))
            }
            _ => Ok(entry.to_owned()),
        }
    }

    /// What is right in a volume: a file beside the sealed one gets its content, and the volume's link names that.
    async fn files(&self, volume: &Path) -> Result<()> {
        let unread = || Error::path("read", volume);
        for entry in fs::read_dir(volume).map_err(unread())? {
            let entry = entry.map_err(unread())?;
            let kind = entry.file_type().map_err(unread())?;
            if !kind.is_symlink() && !kind.is_file() {
                continue;
            }
            let target = fs::canonicalize(entry.path()).map_err(Error::path("follow", entry.path()))?;
            if !target.is_file() || !begins(&target)? {
                continue;
            }
            let sealed = fs::read_to_string(&target).map_err(Error::path("read", &target))?;
            let opened = self.unseal(&sealed).await?;
            let beside = format!("{}.unsealed", target.display());
            fs::write(&beside, opened).map_err(Error::path("write", &beside))?;
            let directory = target.parent().and_then(Path::file_name).unwrap_or_default();
            let link = Path::new(directory).join(format!("{}.unsealed", entry.file_name().display()));
            fs::remove_file(entry.path()).map_err(Error::path("remove", entry.path()))?;
            symlink(link, entry.path()).map_err(Error::path("link", entry.path()))?;
        }
        Ok(())
    }
}

fn begins(file: &Path) -> Result<bool> {
    let mut begin = Vec::new();
    let opened = File::open(file).map_err(Error::path("open", file))?;
    opened.take(PREFIX.len() as u64).read_to_end(&mut begin).map_err(Error::path("read", file))?;
    Ok(begin == PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::thread;

    use attest::hub::{self, Hub as Opener};

    use super::*;

    /// The guest's own service behind another opener.
    struct Opens;

    impl Opener for Opens {
        fn unseal(&self, secret: &[u8]) -> std::result::Result<Vec<u8>, String> {
            match secret {
                b"sealed.good" => Ok(b"opened".to_vec()),
                b"sealed.bytes" => Ok(vec![0xff]),
                _ => Err("the key broker said no".to_owned()),
            }
        }

        fn resource(&self, _: &str) -> std::result::Result<Vec<u8>, String> {
            Err("none".to_owned())
        }
    }

    async fn hub(directory: &Path) -> Hub {
        let socket = directory.join("cdh.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let opens: Arc<dyn Opener> = Arc::new(Opens);
            hub::run(&listener, &opens)
        });
        Hub::find(&socket).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn variables_are_opened_and_what_is_not_stays() {
        let directory = tempfile::tempdir().unwrap();
        let hub = hub(directory.path()).await;
        let mut spec = Spec::default();
        let env =
            ["A=sealed.good", "B=plain", "C=sealed.bad", "D=sealed.bytes", "sealed.good", "E=a=sealed.good"];
        let env = env.map(str::to_owned).to_vec();
        spec.process_mut().as_mut().unwrap().set_env(Some(env));
        hub.open(&mut spec).await;
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        let expected =
            ["A=opened", "B=plain", "C=sealed.bad", "D=sealed.bytes", "sealed.good", "E=a=sealed.good"];
        assert_eq!(env, expected);
    }

    #[tokio::test]
    async fn a_volumes_link_names_the_opened_file() {
        let directory = tempfile::tempdir().unwrap();
        let hub = hub(directory.path()).await;
        let volume = directory.path().join("volume");
        let generation = volume.join("..1");
        fs::create_dir_all(&generation).unwrap();
        symlink("..1", volume.join("..data")).unwrap();
        for (name, text) in [("key", "sealed.good"), ("plain", "text")] {
            fs::write(generation.join(name), text).unwrap();
            symlink(format!("..data/{name}"), volume.join(name)).unwrap();
        }
        hub.files(&volume).await.unwrap();
        assert_eq!(fs::read_to_string(volume.join("key")).unwrap(), "opened");
        assert_eq!(fs::read_link(volume.join("key")).unwrap(), Path::new("..1/key.unsealed"));
        assert_eq!(fs::read_link(volume.join("plain")).unwrap(), Path::new("..data/plain"));
        fs::write(generation.join("plain"), "sealed.bad").unwrap();
        let error = hub.files(&volume).await.unwrap_err().to_string();
        assert!(error.contains("the key broker said no"), "{error}");
        assert_eq!(fs::read_to_string(volume.join("plain")).unwrap(), "sealed.bad");
    }

    #[tokio::test]
    async fn without_a_socket_there_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Hub::find(&file).await.unwrap().is_none());
        assert!(Hub::find(&directory.path().join("none")).await.unwrap().is_none());
        let socket = directory.path().join("left.sock");
        drop(UnixListener::bind(&socket).unwrap());
        assert!(Hub::find(&socket).await.is_err());
    }
}
