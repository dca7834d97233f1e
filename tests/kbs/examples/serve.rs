//! The stand-in by itself, to try a guest or a policy with:
//!
//! `cargo run -p kbs --example serve -- ADDRESS:PORT POLICY.rego REPOSITORY/TYPE/TAG=FILE...`
//!
//! It prints the `aa.toml` for the pod's initdata, and serves until its input ends. It knows sample evidence only.

use std::error::Error;
use std::fs;
use std::io::{Read, stdin};
use std::net::SocketAddr;

use kbs::{Identity, Kbs, Setup};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, policy, resources @ ..] = &words[..] else {
        return Err("say where to listen, the policy, and the resources".into());
    };
    let address: SocketAddr = address.parse()?;
    let mut setup = Setup::default().policy(fs::read_to_string(policy)?);
    for resource in resources {
        let (path, file) = resource.split_once('=').ok_or("a resource is PATH=FILE")?;
        setup = setup.resource(path, &fs::read(file)?);
    }
    let identity = Identity::new(address.ip())?;
    let kbs = Kbs::start(address, Some(&identity), setup)?;
    println!("[token_configs.kbs]\nurl = \"{}\"\ncert = '''\n{}'''", kbs.url, identity.certificate);
    stdin().read_to_end(&mut Vec::new())?;
    eprintln!("{} handshakes, {} resources asked for", kbs.handshakes(), kbs.questions());
    Ok(())
}
