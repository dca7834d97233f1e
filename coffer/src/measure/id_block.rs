//! `coffer measure id-block`: a signed ID block, by which an SNP processor refuses every other guest.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use measurement::Sha384Digest;
use measurement::snp::LaunchDigest;
use measurement::snp::id_block::{IdBlock, Policy, PrivateKey, SignedIdBlock};
use serde_json::json;

use super::{Output, json};
use crate::files::Kind;

/// Arguments of `coffer measure id-block`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The guest's launch digest, as `coffer measure snp` or `coffer measure --pod` prints it
    #[arg(long, value_name = "HEX")]
    launch_digest: Sha384Digest,
    /// Key that signs the block: P-384 in unencrypted PKCS#8 PEM, as
    /// `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384` makes it
    #[arg(long, value_name = "FILE")]
    id_key: PathBuf,
    /// Key that signs that key [default: the same]
    #[arg(long, value_name = "FILE")]
    author_key: Option<PathBuf>,
    /// The guest's policy; it must be the node's (`snp_policy`), or the guest is refused
    #[arg(long, value_name = "0xHEX", default_value = "0x30000", value_parser = policy)]
    policy: Policy,
    /// Names the kind of guest in the report: up to 16 letters
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = name)]
    family_id: [u8; 16],
    /// Names the guest's image in the report: up to 16 letters
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = name)]
    image_id: [u8; 16],
    /// The image's security version, in the report
    #[arg(long, value_name = "N", default_value_t = 0)]
    guest_svn: u32,
    /// Where to write DIGEST.id-block and DIGEST.id-auth: the directory that `snp_id_blocks` names on the node
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Form of what is printed: the digests of the keys, which the report shows
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn policy(text: &str) -> Result<Policy, String> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let bits = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let bits = bits.ok_or("a policy is a hexadecimal number, such as 0x30000")?;
    Policy::new(bits).map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<[u8; 16], String> {
    let mut name = [0; 16];
    let to = name.get_mut(..text.len()).filter(|_| text.bytes().all(|b| b.is_ascii_graphic()));
    to.ok_or("a name is up to 16 letters, digits and signs of ASCII")?.copy_from_slice(text.as_bytes());
    Ok(name)
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let id_key = key(&args.id_key)?;
    let author_key = args.author_key.as_deref().map(key).transpose()?;
    let digest = LaunchDigest::from_digest(args.launch_digest);
    let block = IdBlock {
        launch_digest: digest,
        family_id: args.family_id,
        image_id: args.image_id,
        guest_svn: args.guest_svn,
        policy: args.policy,
    };
    let signed = block.sign(&id_key, author_key.as_ref().unwrap_or(&id_key))?;
    // What is written is what the shim and the processor will take.
    let signed = SignedIdBlock::verify(&block.encode(), signed.auth(), digest)?;
    for (kind, bytes) in [("id-block", &block.encode()[..]), ("id-auth", &signed.auth()[..])] {
        let path = args.directory.join(format!("{digest}.{kind}"));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let keys = [("id_key_digest", signed.id_key_digest()), ("author_key_digest", signed.author_key_digest())];
    match args.output {
        Output::Text => {
            for (name, digest) in keys {
                writeln!(out, "{name:<17} {digest}")?;
            }
        }
        Output::Json => {
            let keys = keys.map(|(name, digest)| (name.to_owned(), json!(digest.to_string())));
            json(&keys.into_iter().collect(), out)?;
        }
    }
    Ok(())
}

fn key(path: &Path) -> Result<PrivateKey> {
    let pem = Kind::KEY.read(path)?;
    PrivateKey::from_pem(&String::from_utf8_lossy(&pem)).with_context(|| Kind::KEY.unusable(path))
}
