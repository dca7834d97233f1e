//! Kernel parameters of the network: the guest's network is the pod's, so they are set in the guest itself, as
//! kata-agent does. The library sets the others, and refuses these for containers without a network namespace.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};

/// Sets a container's `net.*` parameters and takes them out of its specification.
pub fn apply_network(spec: &mut Spec) -> Result<()> {
    let Some(sysctl) = spec.linux_mut().as_mut().and_then(|linux| linux.sysctl_mut().as_mut()) else {
        return Ok(());
    };
    for (name, value) in sysctl.iter().filter(|(name, _)| name.starts_with("net.")) {
        let path = Path::new("/proc/sys").join(relative(name)?);
        fs::write(&path, value).map_err(Error::path("set", &path))?;
    }
    sysctl.retain(|name, _| !name.starts_with("net."));
    Ok(())
}

/// A parameter's path below /proc/sys. With a slash in it the name has slashes for separators already (sysctl(8)).
fn relative(name: &str) -> Result<String> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::refused(format!("kernel parameter {name:?}")));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_and_none_leaves_the_tree() {
        assert_eq!(relative("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(relative("net/ipv4/conf/eth0.1/mtu").unwrap(), "net/ipv4/conf/eth0.1/mtu");
        assert!(relative("net/../../etc/passwd").is_err());
        assert!(relative("net..x").is_err());
    }
}
