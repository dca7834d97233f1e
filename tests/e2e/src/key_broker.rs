//! A key broker of a pod's owner, at the bridge that CNI gives the pods: the stand-in for Trustee of `tests/kbs`. It believes
//! the GPUs of the tests' device authority.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs::hopper::Authority;
use kbs::{Identity, Kbs, Setup};

use crate::or_fail::OrFail;
use crate::tenant::Tenant;

/// The bridge's address.
const BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));

/// A broker's place and certificate: what a pod's owner writes down before there is a pod.
#[derive(Debug)]
pub struct KeyBroker {
    address: SocketAddr,
    identity: Identity,
}

impl KeyBroker {
    /// The resource that it has.
    pub const PATH: &str = "default/key/model";
    /// What is in it.
    pub const KEY: &str = "the key of the model";

    /// One at a port that nobody else in the rig has.
    pub fn at(port: u16) -> Self {
        Self {
            address: SocketAddr::new(BRIDGE, port),
            identity: Identity::new(BRIDGE).or_fail("a certificate"),
        }
    }

    /// The document of initdata that names it, `aa.toml`.
    pub fn document(&self) -> String {
        let Self { address, identity } = self;
        format!("[token_configs.kbs]\nurl = \"https://{address}\"\ncert = '''\n{}'''\n", identity.certificate)
    }

    /// The document of initdata that names it for the data hub of the guest components, `cdh.toml`.
    pub fn data_hubs_document(&self) -> String {
        let Self { address, identity } = self;
        format!(
            "[kbc]\nname = \"cc_kbc\"\nurl = \"https://{address}\"\nkbs_cert = '''\n{}'''\n",
            identity.certificate
        )
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.identity.certificate
    }

    /// Opens it; its policy is for the pod with the tenant's initdata alone.
    pub fn open(&self, tenant: &Tenant) -> Kbs {
        self.open_as(&self.identity, tenant, Self::KEY)
    }

    /// Opens it with another key.
    pub fn open_with_key(&self, tenant: &Tenant, key: &str) -> Kbs {
        self.open_as(&self.identity, tenant, key)
    }

    /// Opens it with these resources instead, all of which the pod may have.
    pub fn open_with(&self, tenant: &Tenant, resources: &[(&str, &[u8])]) -> Kbs {
        let paths = resources.iter().map(|(path, _)| *path).collect::<Vec<_>>();
        let setup = Setup::default().policy(policy(tenant, &paths));
        let setup = resources.iter().fold(setup, |setup, (path, content)| setup.resource(path, content));
        Kbs::start(self.address, Some(&self.identity), setup).or_fail("start a key broker")
    }

    /// Opens another one in its place.
    pub fn open_stranger(&self, tenant: &Tenant) -> Kbs {
        self.open_as(&Identity::new(BRIDGE).or_fail("a certificate"), tenant, Self::KEY)
    }

    fn open_as(&self, identity: &Identity, tenant: &Tenant, key: &str) -> Kbs {
        let authority = Authority::known().or_fail("the tests' device authority");
        let setup = Setup { gpu_root: Some(authority.root()), ..Setup::default() };
        let setup = setup.policy(policy(tenant, &[Self::PATH])).resource(Self::PATH, key.as_bytes());
        Kbs::start(self.address, Some(identity), setup).or_fail("start a key broker")
    }
}

/// What a sample's claims can show of a pod is its initdata; its GPUs show what they are.
fn policy(tenant: &Tenant, paths: &[&str]) -> String {
    let paths: Vec<Vec<&str>> = paths.iter().map(|path| path.split('/').collect()).collect();
    let hex = tenant.host_data();
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).or_fail("a digest");
    let digest: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
    format!(
        r#"package policy

import rego.v1

default allow := false

allow if {{
	data.plugin == "resource"
	data["resource-path"] in {paths:?}
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == {digest:?}
	count(gpus) == {gpus}
	every _, gpu in gpus {{
		gpu.measres == "success"
		gpu.secboot == true
		gpu.dbgstat == "disabled"
	}}
}}

gpus[name] := part["ear.veraison.annotated-evidence"].nvidia if {{
	some name, part in input.submods
	startswith(name, "gpu")
}}
"#,
        digest = STANDARD.encode(digest),
        gpus = tenant.gpus(),
    )
}
