//! The entries of initdata that the guest reads: found out here, not when the guest has powered off.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use model_volumes::{DOCUMENT, Volumes};
use pod_manifest::Pod;
use pod_manifest::spec::{PodSpec, Spec};
use serde::Deserialize;
use shared_types::ScratchSize;

use crate::files::Kind;
use crate::policy::engine;

/// How many GPUs and NVSwitches the guest accepts, which PID 1 compares with the devices that are there; and what its
/// attestation service needs to know besides.
pub(crate) const DECLARATION: &str = "coffer.toml";
const POLICY: &str = "policy.rego";
const AA_FILE: &str = "aa.toml";
const CDH_FILE: &str = "cdh.toml";
/// What kata-agent asks, in this package.
const PACKAGE: &str = "data.agent_policy";

/// As the guest's PID 1 reads it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Declaration {
    gpus: u16,
    switches: u16,
    scratch_mib: u64,
    gpu_model: Option<String>,
    token_key: bool,
    nameservers: Vec<IpAddr>,
    proxy: Option<String>,
}

/// Whether the guest will be able to read an entry; others than the five that it reads are anybody's own.
pub(super) fn check(name: &str, text: &str) -> Result<()> {
    match name {
        POLICY => policy(text),
        AA_FILE => component(name, text, AA),
        CDH_FILE => component(name, text, CDH),
        DOCUMENT => {
            Volumes::parse(text).with_context(|| format!("{DOCUMENT} is not usable"))?;
            Ok(())
        }
        DECLARATION => {
            let read = toml::from_str::<Declaration>(text);
            let read = read.context(
                "coffer.toml may have `gpus = N`, `switches = M`, `scratch_mib = L`, `gpu_model = \"H100\"`, `token_key = true`, \
                 `nameservers = [\"ADDRESS\"]` and `proxy = \"http://HOST:PORT\"`, and nothing else",
            )?;
            if read.scratch_mib != 0 {
                ScratchSize::from_mib(read.scratch_mib).context("coffer.toml: scratch_mib")?;
            }
            read.proxy.as_deref().map_or(Ok(()), proxy)
        }
        _ => Ok(()),
    }
}

/// What no entry shows alone: GPUs take work when the key broker believed their evidence, and over http anybody on the way could
/// say that it did, so the guest asks none there (`guest-image/attest/src/broker`).
///
/// # Errors
/// Such a broker in a document that declares GPUs.
pub(crate) fn together(entries: &BTreeMap<String, String>) -> Result<()> {
    let table = |name: &str| entries.get(name).and_then(|text| toml::from_str::<toml::Table>(text).ok());
    let gpus = table(DECLARATION).and_then(|table| table.get("gpus")?.as_integer()).unwrap_or_default();
    let aa = table(AA_FILE)
        .and_then(|table| Some(table.get("token_configs")?.get("kbs")?.get("url")?.as_str()?.to_owned()));
    let cdh = table(CDH_FILE).and_then(|table| Some(table.get("kbc")?.get("url")?.as_str()?.to_owned()));
    let is_open = |url: &String| url.trim().to_ascii_lowercase().starts_with("http://");
    match [(AA_FILE, aa), (CDH_FILE, cdh)]
        .into_iter()
        .find_map(|(name, url)| Some((name, url.filter(is_open)?)))
    {
        Some((name, url)) if gpus > 0 => bail!(
            "{DECLARATION} declares GPUs, which take work when the key broker believed their evidence, and {name} names it by {url}, \
             where whoever is on the way can answer for it: write https:// and its certificate"
        ),
        _ => Ok(()),
    }
}

/// Keys of the attestation agent's configuration; one that ends with a dot stands for all below it. Sources of both: the
/// guest components of the Confidential Containers project, v0.21.0, `attestation-agent/attestation-agent/src/config` and
/// `confidential-data-hub/hub/src/config.rs`.
const AA: &[&str] = &[
    "token_configs.kbs.url",
    "token_configs.kbs.cert",
    "token_configs.kbs.tee_key_algorithm",
    "token_configs.coco_as.url",
    "eventlog_config.init_pcr",
    "eventlog_config.enable_eventlog",
    "eventlog_config.eventlog_algorithm",
    "log.level",
];
/// Keys of the confidential data hub's configuration.
const CDH: &[&str] = &[
    "socket",
    "kbc.name",
    "kbc.url",
    "kbc.kbs_cert",
    "aa.aa_socket",
    "credentials.path",
    "credentials.resource_uri",
    "image.",
    "skip_sealed_secret_verification",
    "log.level",
];

/// The configuration of a program in the guest. Those programs pass over what they do not know, so that a misspelt key
/// would be found out by what is missing.
fn component(name: &str, text: &str, known: &[&str]) -> Result<()> {
    let table = toml::from_str::<toml::Table>(text).with_context(|| format!("{name} is no TOML"))?;
    let mut keys = Vec::new();
    collect("", &toml::Value::Table(table), &mut keys);
    let is_known = |key: &String| {
        known.iter().any(|known| match known.strip_suffix('.') {
            Some(all) => key == all || key.starts_with(known),
            // A table without keys is fine where one with keys is.
            None => {
                key == known || known.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
        })
    };
    match keys.iter().find(|key| !is_known(key)) {
        None => Ok(()),
        Some(key) => bail!("{name} has the key `{key}`, which nobody reads; known are {}", known.join(", ")),
    }
}

/// The paths of all values that are no tables, and of empty tables; of a list's tables without their places in it.
fn collect(path: &str, value: &toml::Value, keys: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&below, value, keys);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| collect(path, item, keys));
        }
        _ if path.is_empty() => {}
        _ => keys.push(path.to_owned()),
    }
}

/// As the guest's attestation service takes it (`guest-image/attest/src/config.rs`).
fn proxy(text: &str) -> Result<()> {
    let rest = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let parts = rest.and_then(|rest| rest.rsplit_once(':'));
    let is_one = parts.is_some_and(|(host, port)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_host = address.map_or_else(
            || !host.is_empty() && host.chars().all(plain),
            |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
        );
        is_host && port.parse::<u16>().is_ok()
    });
    ensure!(
        is_one,
        "coffer.toml: {text:?} is no proxy: it is http://HOST:PORT, without a name and a password"
    );
    Ok(())
}

fn policy(text: &str) -> Result<()> {
    let package = engine().add_policy(POLICY.to_owned(), text.to_owned());
    match package {
        Ok(package) if package == PACKAGE => Ok(()),
        Ok(package) => bail!("its package is {package}, and the guest's agent asks {PACKAGE}"),
        // A position and what was expected there, in several lines.
        Err(error) => {
            let lines: Vec<String> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
            bail!("it is no policy in Rego: {}", lines.join(" ").trim())
        }
    }
}

/// The declaration of a pod's devices, from its manifest.
pub(super) fn declaration(path: &Path) -> Result<String> {
    let text = String::from_utf8(Kind::MANIFEST.read(path)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::MANIFEST.unusable(path))?;
    let pod = Pod::parse(&text).with_context(|| Kind::MANIFEST.unusable(path))?;
    let spec = PodSpec::parse(&text).with_context(|| Kind::MANIFEST.unusable(path))?.spec;
    of_pod(&pod, &spec).with_context(|| Kind::MANIFEST.unusable(path))
}

/// The declaration of a pod's devices and its scratch disk.
///
/// # Errors
/// More of them than any machine has, or a scratch disk of no size.
pub(crate) fn of_pod(pod: &Pod, spec: &Spec) -> Result<String> {
    // An init container's devices are given to the others when it has ended.
    let own = spec.containers.iter().map(|container| container.resources.switches).sum::<u32>();
    let first = spec.init_containers.iter().map(|container| container.resources.switches).max();
    let (gpus, switches) = (pod.limits.gpus.whole(), own.max(first.unwrap_or_default()));
    ensure!(
        u16::try_from(gpus).is_ok() && u16::try_from(switches).is_ok(),
        "the pod asks for {gpus} GPUs and {switches} NVSwitches, which no machine has"
    );
    let scratch = match pod.annotations.get(ScratchSize::ANNOTATION) {
        Some(text) => {
            let size = text.parse::<ScratchSize>();
            let size = size.with_context(|| format!("annotation {} is {text:?}", ScratchSize::ANNOTATION))?;
            format!("scratch_mib = {}\n", size.mib())
        }
        None => String::new(),
    };
    Ok(format!("gpus = {gpus}\nswitches = {switches}\n{scratch}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_guest_could_not_read_is_refused() {
        for (name, text, said) in [
            (POLICY, "package agent_policy\n\nallow := {", "it is no policy in Rego"),
            (POLICY, "package other\n", "its package is data.other"),
            (POLICY, "", "it is no policy in Rego"),
            ("aa.toml", "[token_configs", "aa.toml is no TOML"),
            ("cdh.toml", "a = ", "cdh.toml is no TOML"),
            ("aa.toml", "[token_config.kbs]\nurl = \"u\"\n", "the key `token_config.kbs.url`"),
            ("aa.toml", "[token_configs.kbs]\nkbs_cert = \"c\"\n", "the key `token_configs.kbs.kbs_cert`"),
            ("aa.toml", "[kbs]\n", "the key `kbs`"),
            ("cdh.toml", "[kbc]\ncert = \"c\"\n", "the key `kbc.cert`"),
            (
                "cdh.toml",
                "[[credentials]]\npath = \"/a\"\nuri = \"kbs:///a/b/c\"\n",
                "the key `credentials.uri`",
            ),
            (DECLARATION, "gpus = 1\ngpu = 2\n", "nothing else"),
            (DECLARATION, "gpus = 70000\n", "nothing else"),
            (DOCUMENT, "[w]\nkind = \"luks1\"\n", "volumes.toml is not usable"),
            (DECLARATION, "gpus = \"1\"\n", "nothing else"),
            (DECLARATION, "scratch_mib = 1\n", "64Mi to 16Ti"),
            (DECLARATION, "nameservers = [\"dns.example\"]\n", "nothing else"),
            (DECLARATION, "proxy = \"proxy.example:3128\"\n", "is no proxy"),
            (DECLARATION, "proxy = \"https://proxy.example:3128\"\n", "is no proxy"),
            (DECLARATION, "proxy = \"http://user:word@proxy.example:3128\"\n", "is no proxy"),
            (DECLARATION, "proxy = \"http://proxy.example\"\n", "is no proxy"),
        ] {
            let error = format!("{:#}", check(name, text).unwrap_err());
            assert!(error.contains(said) && !error.contains("\n\n"), "{name} {text}: {error}");
        }
    }

    #[test]
    fn gpus_need_a_broker_that_shows_who_it_is() {
        let aa = |url: &str| ("aa.toml", format!("[token_configs.kbs]\nurl = {url:?}\n"));
        let cdh = |url: &str| ("cdh.toml", format!("[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\n"));
        let gpus = |gpus: u16| (DECLARATION, format!("gpus = {gpus}\n"));
        let (open, tls) = ("http://192.0.2.1:8080", "https://192.0.2.1:8080");
        for (entries, refused) in [
            (vec![gpus(1), aa(open)], Some("aa.toml names it by http://")),
            (vec![gpus(1), aa(" HTTP://192.0.2.1")], Some("aa.toml")),
            (vec![gpus(8), cdh(open)], Some("cdh.toml names it by http://")),
            (vec![gpus(8), aa(tls), cdh(open)], Some("cdh.toml")),
            (vec![gpus(1), aa(tls), cdh(tls)], None),
            (vec![gpus(0), aa(open), cdh(open)], None),
            (vec![aa(open)], None),
            (vec![gpus(1)], None),
        ] {
            let entries = entries.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
            let error = together(&entries).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), refused.is_some(), "{entries:?}");
            assert!(error.unwrap_or_default().contains(refused.unwrap_or_default()), "{entries:?}");
        }
    }

    /// A variable such as NVIDIA_REQUIRE_CUDA of NVIDIA's own images has more than 1024 letters, on one line.
    #[test]
    fn a_policys_lines_are_as_long_as_the_agent_takes_them() {
        let policy = |letters: usize| {
            let text = format!("package agent_policy\n\nname := \"{}\"\n", "x".repeat(letters));
            check(POLICY, &text)
        };
        policy(2_000).unwrap();
        policy(60 << 10).unwrap();
        let error = format!("{:#}", policy(70 << 10).unwrap_err());
        assert!(error.contains("it is no policy in Rego") && error.contains("65536"), "{error}");
        let lines = |number: usize| check(POLICY, &format!("package agent_policy\n{}", "\n".repeat(number)));
        lines(100_000).unwrap();
        lines(200_001).unwrap_err();
    }

    #[test]
    fn what_the_guest_reads_and_what_is_anybodys_own_is_taken() {
        for (name, text) in [
            (POLICY, "package agent_policy\n\nimport rego.v1\n\ndefault CreateContainerRequest := false\n"),
            ("aa.toml", ""),
            ("aa.toml", "[token_configs]\n"),
            ("aa.toml", "[token_configs.kbs]\nurl = \"u\"\ncert = \"c\"\n[eventlog_config]\ninit_pcr = 17\n"),
            ("cdh.toml", "socket = \"s\"\n[kbc]\nname = \"cc_kbc\"\nurl = \"u\"\nkbs_cert = \"c\"\n"),
            (
                "cdh.toml",
                "[[credentials]]\npath = \"/a\"\nresource_uri = \"kbs:///a/b/c\"\n[image.proxy]\nhttps = \"p\"\n",
            ),
            (DECLARATION, ""),
            (DECLARATION, "gpus = 8\nswitches = 4\n"),
            (DECLARATION, "scratch_mib = 102400\n"),
            (DECLARATION, "gpus = 1\ngpu_model = \"H100\"\n"),
            (DECLARATION, "token_key = true\nnameservers = [\"10.96.0.10\", \"fd00::a\"]\n"),
            (DECLARATION, "proxy = \"http://proxy.example:3128/\"\n"),
            (DECLARATION, "proxy = \"http://[2001:db8::1]:3128\"\n"),
            (DOCUMENT, ""),
            (
                DOCUMENT,
                "[w]\nkind = \"verity\"\nroot_hash = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n",
            ),
            ("notes", "{"),
        ] {
            check(name, text).unwrap();
        }
    }

    #[test]
    fn a_scratch_disk_is_declared_as_its_annotation_asks() {
        let of = |size: &str| {
            let annotation = format!("{{annotations: {{{}: {size:?}}}}}", ScratchSize::ANNOTATION);
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {annotation}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
            );
            of_pod(&Pod::parse(&text).unwrap(), &PodSpec::parse(&text).unwrap().spec)
        };
        let declared = of("1Gi").unwrap();
        assert_eq!(declared, "gpus = 0\nswitches = 0\nscratch_mib = 1024\n");
        check(DECLARATION, &declared).unwrap();
        assert!(format!("{:#}", of("1G").unwrap_err()).contains("such as 100Gi"));
    }

    #[test]
    fn a_declaration_is_the_manifests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod.yaml");
        let declared = |limits: &[&str], first: &str| {
            let container = |(number, limits): (usize, &&str)| {
                format!("    - {{name: c{number}, image: i, resources: {{limits: {{{limits}}}}}}}\n")
            };
            let containers: String = limits.iter().enumerate().map(container).collect();
            let init = format!("    - {{name: first, image: i, resources: {{limits: {{{first}}}}}}}\n");
            let text = format!(
                "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n{init}  containers:\n{containers}"
            );
            fs::write(&path, text).unwrap();
            let text = declaration(&path).unwrap();
            check(DECLARATION, &text).unwrap();
            toml::from_str::<Declaration>(&text).unwrap()
        };
        let gpus = |gpus, switches| Declaration { gpus, switches, ..Declaration::default() };
        assert_eq!(declared(&["cpu: 1"], "cpu: 1"), gpus(0, 0));
        assert_eq!(declared(&["nvidia.com/pgpu: 1", "nvidia.com/pgpu: 2"], "nvidia.com/pgpu: 1"), gpus(3, 0));
        assert_eq!(declared(&["cpu: 1"], "nvidia.com/pgpu: 2"), gpus(2, 0));
        let board = "nvidia.com/GH100_H100_SXM5_80GB: 8, nvidia.com/GH100_H100_NVSWITCH: 4";
        assert_eq!(declared(&[board], "cpu: 1"), gpus(8, 4));
    }
}
