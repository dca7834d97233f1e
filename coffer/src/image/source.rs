//! Where images and their hashes come from: options of several commands.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use layers::{HashedImage, Hasher, Places, Registries, Source};

/// How images are read.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    /// Ask registries without TLS: for one in a lab. Digests are checked in any case
    #[arg(long)]
    plain_http: bool,
    /// Directory for what was found out [default: $XDG_CACHE_HOME/coffer, ~/.cache/coffer]
    #[arg(long, value_name = "DIRECTORY")]
    cache: Option<PathBuf>,
}

impl How {
    /// An image with the root hashes of its layers; says on standard error what it is doing.
    ///
    /// # Errors
    /// An image that cannot be had, or is not what its digest says.
    pub(crate) fn image(&self, source: &Source) -> Result<HashedImage> {
        let hasher = Hasher {
            cache: self.cache.clone().or_else(default_cache).context(
                "there is no place for what is found out of an image: give --cache, or set XDG_CACHE_HOME or HOME",
            )?,
            search: search(),
            registries: Registries {
                logins: Places::from_env(|name| env::var_os(name)),
                plain_http: self.plain_http,
                silence: None,
            },
        };
        let name = source.to_string();
        let image = hasher.image(source, &|text| eprintln!("{name}: {text}"));
        image.with_context(|| format!("cannot use the image {source}"))
    }
}

fn default_cache() -> Option<PathBuf> {
    let path = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    Some(path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?.join("coffer"))
}

/// Where mkfs.erofs is looked for: a user's PATH often lacks the directories of Debian's erofs-utils.
pub(crate) fn search() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).filter(|directory| directory.is_absolute()).collect()
}
