//! The pod's initdata: read once, compared with the hardware's report, and from then on only what was compared is used.
//!
//! The agent reads no disk: there is no node for one. It finds the texts where kata-agent 4.1.0 writes them itself
//! (`src/agent/src/initdata.rs`), and its policy by the environment (`src/agent/src/config.rs`, `KATA_AGENT_POLICY_FILE`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use measurement::initdata::disk::{DiskError, MAX_DISK, decode};
use measurement::initdata::{Algorithm, InitData};
use model_volumes::{DOCUMENT, Volumes};
use shared_types::one_line;

use crate::console::say;
use crate::inventory::Declared;
use crate::private::{Device, Kind, Private};
use crate::profile::Profile;
use crate::report::Claim;

/// Texts with a meaning, by their key.
const POLICY: &str = "policy.rego";
const DECLARATION: &str = "coffer.toml";
const COPIED: [&str; 2] = ["aa.toml", "cdh.toml"];

/// What `coffer.toml` declares.
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Declaration {
    gpus: u16,
    switches: u16,
    /// Size of the scratch disk in MiB; 0 for none.
    pub scratch_mib: u64,
    /// Which product all GPUs are: words of its name, such as `H100`.
    pub gpu_model: Option<String>,
    /// Whether containers may have the private key of their attestation token.
    pub token_key: bool,
    /// Whom the attestation service asks for the key broker's address.
    pub nameservers: Vec<IpAddr>,
    /// Through which proxy it asks, `http://HOST:PORT`.
    pub proxy: Option<String>,
}

impl Declaration {
    /// How many NVIDIA devices there are to be.
    pub const fn devices(&self) -> Declared {
        Declared { gpus: self.gpus, switches: self.switches }
    }
}

/// Where the agent's policy is, below the root.
pub const POLICY_PATH: &str = "run/coffer/policy.rego";
/// Where the attestation components look for the texts and for the document.
const TEXTS: &str = "run/confidential-containers/initdata";
/// The document among them, as it is.
pub const CHECKED: &str = "run/confidential-containers/initdata/initdata.toml";

/// Why the initdata is not used, and with it the VM.
#[derive(Debug, thiserror::Error)]
pub enum InitdataError {
    /// The disk cannot be read.
    #[error("the initdata disk cannot be read")]
    Read(#[source] io::Error),
    /// It holds no document.
    #[error("the initdata disk is not usable: {0}")]
    Disk(String),
    /// Another document than the report says.
    #[error(
        "the initdata is not the one that the hardware's report names: its {algorithm} gives {found}, and the report has \
         {claimed}"
    )]
    Other { algorithm: Algorithm, found: String, claimed: String },
    /// The report names one that is not there.
    #[error("the hardware's report names initdata {0}, and the VM has no initdata disk")]
    Missing(String),
    /// The report names none.
    #[error("the VM has initdata, and the hardware's report names none: its field is all zeros")]
    Unbound,
    /// A release image without a policy.
    #[error("this image runs no pod without a policy in its initdata")]
    NoPolicy,
    /// The declaration of devices is none.
    #[error("coffer.toml in the initdata is not usable: {0}")]
    Declaration(String),
    /// The declaration of model volumes is none.
    #[error("{DOCUMENT} in the initdata is not usable")]
    Volumes(#[from] model_volumes::DeclarationError),
    /// Nobody to ask for a key.
    #[error(
        "{DOCUMENT} in the initdata declares an encrypted volume, and neither aa.toml nor cdh.toml names a key broker"
    )]
    NoBroker,
    /// A text cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Reads the disk, but not more of it than a document can have.
///
/// # Errors
///
/// [`InitdataError`].
pub fn read(private: &Private, disk: Device) -> Result<InitData, InitdataError> {
    let file = private.open(Kind::Block, disk, false).map_err(InitdataError::Read)?;
    parse(file)
}

fn parse(disk: impl Read) -> Result<InitData, InitdataError> {
    let mut bytes = Vec::new();
    disk.take(MAX_DISK as u64).read_to_end(&mut bytes).map_err(InitdataError::Read)?;
    decode(&bytes).map_err(|error: DiskError| InitdataError::Disk(one_line(&error)))
}

/// Compares initdata with the report.
///
/// # Errors
///
/// [`InitdataError`] unless both say the same, or there is nothing to compare with, and a release image has a policy.
pub fn check(initdata: Option<&InitData>, claim: &Claim, profile: Profile) -> Result<(), InitdataError> {
    match (initdata, claim) {
        (_, Claim::None) => {}
        (None, claim) if claim.is_set() => return Err(InitdataError::Missing(hex(claim))),
        (None, _) => {}
        (Some(_), claim) if !claim.is_set() => return Err(InitdataError::Unbound),
        (Some(document), claim) => {
            let found = match claim {
                Claim::None => Claim::None,
                Claim::Snp(_) => Claim::Snp(*document.host_data().as_bytes()),
                Claim::Tdx(_) => Claim::Tdx(*document.mr_config_id().as_bytes()),
            };
            if found != *claim {
                let algorithm = document.algorithm();
                return Err(InitdataError::Other { algorithm, found: hex(&found), claimed: hex(claim) });
            }
        }
    }
    let policy = initdata.is_some_and(|document| document.data().contains_key(POLICY));
    if profile == Profile::Release && !policy { Err(InitdataError::NoPolicy) } else { Ok(()) }
}

/// What the document declares.
///
/// # Errors
///
/// [`InitdataError::Declaration`].
pub fn declared(document: &InitData) -> Result<Declaration, InitdataError> {
    let text = document.data().get(DECLARATION).map_or("", String::as_str);
    let one_line = |error: toml::de::Error| InitdataError::Declaration(error.message().to_owned());
    toml::from_str(text).map_err(one_line)
}

/// The model volumes that the document declares.
///
/// # Errors
///
/// [`InitdataError::Volumes`].
pub fn volumes(document: &InitData) -> Result<Volumes, InitdataError> {
    Ok(Volumes::parse(document.data().get(DOCUMENT).map_or("", String::as_str))?)
}

/// Writes the checked texts below `root`, and says which nobody reads.
///
/// # Errors
///
/// [`InitdataError::Write`].
pub fn write(root: &Path, document: &InitData) -> Result<(), InitdataError> {
    let texts = root.join(TEXTS);
    put(&root.join(CHECKED), document.raw())?;
    for (key, text) in document.data() {
        match key.as_str() {
            POLICY => put(&root.join(POLICY_PATH), text.as_bytes())?,
            DECLARATION | DOCUMENT => {}
            key if COPIED.contains(&key) => put(&texts.join(key), text.as_bytes())?,
            key => say(format_args!("initdata: nobody reads {key:?}")),
        }
    }
    Ok(())
}

/// Writes a file that must not be there.
fn put(path: &Path, bytes: &[u8]) -> Result<(), InitdataError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| io::Write::write_all(&mut File::create_new(path)?, bytes))
        .map_err(|source| InitdataError::Write { path: path.to_owned(), source })
}

fn hex(claim: &Claim) -> String {
    let field: &[u8] = match claim {
        Claim::None => &[],
        Claim::Snp(field) => field,
        Claim::Tdx(field) => field,
    };
    field.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
