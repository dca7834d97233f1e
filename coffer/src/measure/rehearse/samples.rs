//! Pods that are rehearsed in tests.

use measurement::Sha384Digest;

use super::super::pod::{Class, Demand};
use super::super::trustee::Resource;

pub(super) fn register(of: &str) -> String {
    Sha384Digest::of(of.as_bytes()).to_string()
}

pub(super) fn snp() -> Demand {
    Demand {
        name: "inference".into(),
        class: Class::CofferSnp,
        registers: vec![("launch_digest", register("launch"))],
        initdata: "1".repeat(64),
        gpus: 1,
        snp_policy: Some(0x30000),
    }
}

pub(super) fn tdx() -> Demand {
    let registers =
        vec![("mrtd", register("mrtd")), ("rtmr1", register("kernel")), ("rtmr2", register("line"))];
    Demand { class: Class::CofferTdx, registers, initdata: "1".repeat(96), snp_policy: None, ..snp() }
}

pub(super) fn resource() -> Resource {
    "default/key/model".parse().unwrap()
}
