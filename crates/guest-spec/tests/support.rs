//! The list of what a pod can have, against CRI's messages and the page that is made of it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use guest_spec::support::{Class, MESSAGES, POD, document};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1 as core;
use serde::de::{Deserialize, Deserializer, Error, Visitor, value};

/// Fields of a CRI that is newer than the crate's.
const NEWER: [&str; 2] = ["stop_signal", "image_sub_path"];

/// Fields of a Kubernetes (1.37) that is newer than the one whose types are walked.
const NEWER_IN_PODS: [&str; 4] = ["bindMountOptions", "evictionResponders", "mode", "schedulingGroup"];

/// A message's fields, as its own text names them.
fn fields<T: Debug + Default>() -> BTreeSet<String> {
    let text = format!("{:#?}", T::default());
    let of_message = |line: &str| {
        let field = line.strip_prefix("    ")?;
        let (name, _) = field.split_once(": ")?;
        (!name.starts_with(' ')).then(|| name.trim_start_matches("r#").to_owned())
    };
    text.lines().filter_map(of_message).collect()
}

#[test]
fn every_field_that_kubernetes_hands_over_is_in_a_class() {
    let walked = [
        ("PodSandboxConfig", fields::<cri::PodSandboxConfig>()),
        ("LinuxPodSandboxConfig", fields::<cri::LinuxPodSandboxConfig>()),
        ("LinuxSandboxSecurityContext", fields::<cri::LinuxSandboxSecurityContext>()),
        ("NamespaceOption", fields::<cri::NamespaceOption>()),
        ("ContainerConfig", fields::<cri::ContainerConfig>()),
        ("LinuxContainerConfig", fields::<cri::LinuxContainerConfig>()),
        ("LinuxContainerResources", fields::<cri::LinuxContainerResources>()),
        ("LinuxContainerSecurityContext", fields::<cri::LinuxContainerSecurityContext>()),
        ("Mount", fields::<cri::Mount>()),
        ("Device", fields::<cri::Device>()),
        ("DNSConfig", fields::<cri::DnsConfig>()),
    ];
    assert_eq!(
        MESSAGES.iter().map(|m| m.name).collect::<Vec<_>>(),
        walked.iter().map(|w| w.0).collect::<Vec<_>>()
    );
    for (message, (name, walked)) in MESSAGES.iter().zip(&walked) {
        assert!(walked.len() > 1, "{name}: {walked:?}");
        let mut listed: BTreeSet<String> = message.fields.iter().map(|field| field.name.to_owned()).collect();
        assert_eq!(listed.len(), message.fields.len(), "{name}: a field is there twice");
        listed.retain(|field| !NEWER.contains(&field.as_str()) || walked.contains(field));
        assert_eq!(&listed, walked, "{name}");
    }
}

/// The names of a type's fields: what it asks for when it is read.
struct FieldsOf(BTreeSet<String>);

impl<'de> Deserializer<'de> for &mut FieldsOf {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(value::Error::custom("only the names are wanted"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields.iter().map(|name| (*name).to_owned()));
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

fn names<T: for<'de> Deserialize<'de>>() -> BTreeSet<String> {
    let mut fields = FieldsOf(BTreeSet::new());
    assert!(T::deserialize(&mut fields).is_err());
    fields.0
}

#[test]
fn every_field_of_a_manifest_is_in_a_class() {
    let container = names::<core::Container>();
    let ephemeral = names::<core::EphemeralContainer>();
    assert!(container.is_subset(&ephemeral));
    let walked = [
        ("PodSpec", names::<core::PodSpec>()),
        ("Container", container.clone()),
        ("EphemeralContainer", ephemeral.difference(&container).cloned().collect()),
        ("PodSecurityContext", names::<core::PodSecurityContext>()),
        ("SecurityContext", names::<core::SecurityContext>()),
        ("Volume", names::<core::Volume>()),
        ("EmptyDirVolumeSource", names::<core::EmptyDirVolumeSource>()),
        ("VolumeMount", names::<core::VolumeMount>()),
        ("ResourceRequirements", names::<core::ResourceRequirements>()),
    ];
    assert_eq!(
        POD.iter().map(|m| m.name).collect::<Vec<_>>(),
        walked.iter().map(|w| w.0).collect::<Vec<_>>()
    );
    for (message, (name, walked)) in POD.iter().zip(&walked) {
        let listed: BTreeSet<String> = message.fields.iter().map(|field| field.name.to_owned()).collect();
        assert_eq!(listed.len(), message.fields.len(), "{name}: a field is there twice");
        let older: BTreeSet<String> =
            listed.iter().filter(|field| !NEWER_IN_PODS.contains(&field.as_str())).cloned().collect();
        assert_eq!(&older, walked, "{name}");
    }
}

#[test]
fn what_is_left_out_refused_or_missing_says_why() {
    for field in MESSAGES.iter().chain(POD).flat_map(|message| message.fields) {
        assert!(field.class == Class::Carried || !field.how.is_empty(), "{}", field.name);
    }
}

/// `COFFER_WRITE_DOCS=1` writes it.
#[test]
fn the_page_is_the_lists() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/support.md");
    if std::env::var_os("COFFER_WRITE_DOCS").is_some() {
        std::fs::write(&page, document()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(page).unwrap(), document());
}
