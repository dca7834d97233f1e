//! What the Sandbox API's options say of a pod: `runtime.v1.PodSandboxConfig` of CRI.
//!
//! Field numbers are those of Kubernetes' `cri-api`, `pkg/apis/runtime/v1/api.proto`. What decides the VM is read, and what
//! containerd makes of it where it is the sandbox's controller itself.

use protobuf::rt::skip_field_for_tag;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Result};
use shared_types::cri::Engine;

use crate::api::{Dns, PodFacts};
use crate::bootstrap::type_name;

/// The message's name; containerd writes it without a host.
const NAME: &str = "runtime.v1.PodSandboxConfig";

/// Wire types of Protocol Buffers.
const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// The annotations that a pod may have for its VM. Others are not taken: a pod's author writes them, and those of CDI name
/// devices of the host.
const FOR_THE_VM: &str = "io.katacontainers.";

const fn tag(field: u32, wire_type: u32) -> u32 {
    field << 3 | wire_type
}

/// Reads a pod's facts. Options of another type say nothing of it.
///
/// # Errors
/// The message is damaged.
pub fn pod_facts(any: &Any) -> Result<PodFacts> {
    const METADATA: u32 = tag(1, BYTES);
    const HOSTNAME: u32 = tag(2, BYTES);
    const DNS_CONFIG: u32 = tag(4, BYTES);
    const ANNOTATIONS: u32 = tag(7, BYTES);
    const LINUX: u32 = tag(8, BYTES);

    let mut facts = PodFacts::default();
    if type_name(any) != NAME {
        return Ok(facts);
    }
    let mut input = CodedInputStream::from_bytes(&any.value);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            METADATA => metadata(&input.read_bytes()?, &mut facts)?,
            HOSTNAME => facts.hostname = input.read_string()?,
            DNS_CONFIG => facts.dns = Some(dns(&input.read_bytes()?)?),
            ANNOTATIONS => {
                let (name, value) = entry(&input.read_bytes()?)?;
                if name.starts_with(FOR_THE_VM) {
                    facts.annotations.insert(name, value);
                }
            }
            LINUX => linux(&input.read_bytes()?, &mut facts)?,
            other => skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok(facts)
}

/// `PodSandboxMetadata`: which pod it is, in the annotations that a pause container has of it.
fn metadata(bytes: &[u8], facts: &mut PodFacts) -> Result<()> {
    const NAME: u32 = tag(1, BYTES);
    const UID: u32 = tag(2, BYTES);
    const NAMESPACE: u32 = tag(3, BYTES);

    let names = Engine::Containerd.names();
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let annotation = match tag {
            NAME => names.pod,
            UID => names.uid,
            NAMESPACE => names.namespace,
            other => {
                skip_field_for_tag(other, &mut input)?;
                continue;
            }
        };
        facts.annotations.insert(annotation.to_owned(), input.read_string()?);
    }
    Ok(())
}

/// An entry of a map from text to text.
fn entry(bytes: &[u8]) -> Result<(String, String)> {
    const KEY: u32 = tag(1, BYTES);
    const VALUE: u32 = tag(2, BYTES);

    let (mut key, mut value) = (String::new(), String::new());
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            KEY => key = input.read_string()?,
            VALUE => value = input.read_string()?,
            other => skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok((key, value))
}

/// `LinuxPodSandboxConfig`.
fn linux(bytes: &[u8], facts: &mut PodFacts) -> Result<()> {
    const CGROUP_PARENT: u32 = tag(1, BYTES);
    const SECURITY_CONTEXT: u32 = tag(2, BYTES);
    const SYSCTLS: u32 = tag(3, BYTES);
    const RESOURCES: u32 = tag(5, BYTES);

    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            CGROUP_PARENT => facts.cgroup_parent = input.read_string()?,
            SECURITY_CONTEXT => security_context(&input.read_bytes()?, facts)?,
            SYSCTLS => {
                let (name, value) = entry(&input.read_bytes()?)?;
                facts.sysctls.insert(name, value);
            }
            RESOURCES => resources(&input.read_bytes()?, facts)?,
            other => skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok(())
}

/// `DNSConfig`.
fn dns(bytes: &[u8]) -> Result<Dns> {
    const SERVERS: u32 = tag(1, BYTES);
    const SEARCHES: u32 = tag(2, BYTES);
    const OPTIONS: u32 = tag(3, BYTES);

    let mut dns = Dns::default();
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            SERVERS => dns.servers.push(input.read_string()?),
            SEARCHES => dns.searches.push(input.read_string()?),
            OPTIONS => dns.options.push(input.read_string()?),
            other => skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok(dns)
}

/// `LinuxSandboxSecurityContext`, of which the namespaces count.
fn security_context(bytes: &[u8], facts: &mut PodFacts) -> Result<()> {
    const NAMESPACE_OPTIONS: u32 = tag(1, BYTES);

    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            NAMESPACE_OPTIONS => namespaces(&input.read_bytes()?, facts)?,
            other => skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok(())
}

/// `NamespaceOption`.
fn namespaces(bytes: &[u8], facts: &mut PodFacts) -> Result<()> {
    const NETWORK: u32 = tag(1, VARINT);
    const PID: u32 = tag(2, VARINT);
    const IPC: u32 = tag(3, VARINT);
    /// `NamespaceMode`'s for the host's.
    const NODE: i32 = 2;

    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let field = match tag {
            NETWORK => "hostNetwork",
            PID => "hostPID",
            IPC => "hostIPC",
            other => {
                skip_field_for_tag(other, &mut input)?;
                continue;
            }
        };
        if input.read_int32()? == NODE {
            facts.host_namespaces.push(field);
        }
    }
    Ok(())
}

/// `LinuxContainerResources`: the sum over the pod's containers. Zero is no limit.
fn resources(bytes: &[u8], facts: &mut PodFacts) -> Result<()> {
    const CPU_PERIOD: u32 = tag(1, VARINT);
    const CPU_QUOTA: u32 = tag(2, VARINT);
    const CPU_SHARES: u32 = tag(3, VARINT);
    const MEMORY_LIMIT: u32 = tag(4, VARINT);

    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            CPU_PERIOD => {
                facts.cpu_period = u64::try_from(input.read_int64()?).ok().filter(|period| *period > 0)
            }
            CPU_QUOTA => facts.cpu_quota = Some(input.read_int64()?).filter(|quota| *quota != 0),
            CPU_SHARES => {
                facts.cpu_shares = u64::try_from(input.read_int64()?).ok().filter(|shares| *shares > 0)
            }
            MEMORY_LIMIT => facts.memory_limit = Some(input.read_int64()?).filter(|limit| *limit != 0),
            other => skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// hostname "web", a log_directory, linux { cgroup_parent "/p", resources { period 100, quota 200, shares 5, memory 4096 } }
    const CONFIG: &[u8] =
        b"\x12\x03web\x1a\x01x\x42\x10\x0a\x02/p\x2a\x0a\x08\x64\x10\xc8\x01\x18\x05\x20\x80\x20";

    fn any(value: &[u8]) -> Any {
        Any { type_url: NAME.to_owned(), value: value.to_vec(), ..Any::default() }
    }

    #[test]
    fn what_decides_the_vm_is_read() {
        let facts = pod_facts(&any(CONFIG)).unwrap();
        assert_eq!((facts.hostname.as_str(), facts.cgroup_parent.as_str()), ("web", "/p"));
        assert_eq!(
            (facts.cpu_period, facts.cpu_quota, facts.cpu_shares, facts.memory_limit),
            (Some(100), Some(200), Some(5), Some(4096))
        );
    }

    /// containerd's CRI plugin gives a pod's annotations nowhere else.
    #[test]
    fn of_its_annotations_those_for_the_vm_are_read() {
        let entry = |name: &str, value: &str| {
            let field =
                |tag: u8, text: &str| [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            let body = [field(0x0a, name), field(0x12, value)].concat();
            [&[0x3a, u8::try_from(body.len()).unwrap()], &body[..]].concat()
        };
        let ours = "io.katacontainers.config.hypervisor.cc_init_data";
        let message =
            [entry(ours, "H4sI"), CONFIG.to_vec(), entry("cdi.k8s.io/gpus", "nvidia.com/gpu=0")].concat();
        let facts = pod_facts(&any(&message)).unwrap();
        assert_eq!(facts.annotations, [(ours.to_owned(), "H4sI".to_owned())].into());
        assert_eq!(facts.hostname, "web");
    }

    #[test]
    fn what_a_pause_container_would_have_is_read() {
        // dns_config { servers "1" "2", searches "s", options "o" }, linux { security_context { namespace_options {
        // network NODE, pid CONTAINER, ipc NODE } }, sysctls { "a": "b" } }
        let message = b"\x22\x0c\x0a\x011\x0a\x012\x12\x01s\x1a\x01o\
            \x42\x12\x12\x08\x0a\x06\x08\x02\x10\x01\x18\x02\x1a\x06\x0a\x01a\x12\x01b";
        let facts = pod_facts(&any(message)).unwrap();
        let dns = facts.dns.unwrap();
        assert_eq!((dns.servers, dns.searches, dns.options), (list(&["1", "2"]), list(&["s"]), list(&["o"])));
        assert_eq!(facts.sysctls, [("a".to_owned(), "b".to_owned())].into());
        assert_eq!(facts.host_namespaces, ["hostNetwork", "hostIPC"]);
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_pod_is_named_as_a_pause_container_names_it() {
        // name "web", uid "u1", namespace "ml", attempt 1
        let message = [&b"\x0a\x0f\x0a\x03web\x12\x02u1\x1a\x02ml\x20\x01"[..], CONFIG].concat();
        let annotations = pod_facts(&any(&message)).unwrap().of_a_pause_container();
        let facts = gpu_selection::Facts::new(annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())), []);
        assert_eq!(facts.unwrap().pod.unwrap().to_string(), "ml/web (u1)");
    }

    #[test]
    fn other_options_say_nothing_and_damaged_ones_are_refused() {
        let other = Any { type_url: "runtimeoptions.v1.Options".to_owned(), ..any(CONFIG) };
        assert_eq!(pod_facts(&other).unwrap(), PodFacts::default());
        assert!(pod_facts(&any(&CONFIG[..CONFIG.len() - 3])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_input_is_survived(input: Vec<u8>) {
            let _ = pod_facts(&any(&input));
        }
    }
}
