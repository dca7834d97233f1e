//! A broker that is wrong for the pod in one thing each, which must be named.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kbs::{Identity, Kbs, Setup, Trouble};
use serde_json::json;

use super::super::samples::{register, resource, snp, tdx};
use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TOKEN: &str = "an-administrators-token";

fn values(demand: &Demand) -> BTreeMap<String, Value> {
    let own = demand.for_trustee([resource()]).measurements.into_iter();
    let own = own.map(|(name, value)| (name, json!([register("another pod's"), value])));
    let names: &[&str] = if demand.class == Class::CofferSnp { &SNP } else { &TDX };
    own.chain(names.iter().map(|name| ((*name).to_owned(), json!([3])))).collect()
}

fn wrong(demand: &Demand, values: &BTreeMap<String, Value>) -> Vec<String> {
    let ask = |name: &str| Ok(values.get(name).cloned().unwrap_or_default());
    let findings = references(demand, &resource(), ask).unwrap();
    findings.iter().filter_map(Finding::wrong).map(str::to_owned).collect()
}

#[test]
fn a_broker_with_the_pods_values_is_right() {
    for demand in [snp(), tdx()] {
        assert!(wrong(&demand, &values(&demand)).is_empty());
    }
    let mut one = values(&snp());
    one.insert("snp_launch_measurement".into(), register("launch").into());
    assert!(wrong(&snp(), &one).is_empty(), "a single value");
    let base64 = forms(&register("launch"))[1].clone();
    one.insert("snp_launch_measurement".into(), json!([base64]));
    assert!(wrong(&snp(), &one).is_empty(), "as older brokers have it");
}

#[test]
fn each_value_that_is_missing_or_anothers_is_named() {
    for demand in [snp(), tdx()] {
        let all = values(&demand);
        for name in all.keys() {
            let mut without = all.clone();
            without.remove(name);
            let said = wrong(&demand, &without);
            assert!(said.len() == 1 && said[0].contains(&format!("no reference value {name}")), "{said:?}");
        }
        for (name, value) in demand.for_trustee([resource()]).measurements {
            let mut other = all.clone();
            other.insert(name.clone(), json!([register("older")]));
            let said = wrong(&demand, &other);
            assert!(said.len() == 1 && said[0].contains(&name) && said[0].contains(&value), "{said:?}");
            other.insert(name.clone(), json!({ "not": "a list" }));
            assert_eq!(wrong(&demand, &other).len(), 1, "{name}");
        }
    }
}

#[test]
fn an_image_that_drives_no_gpus_is_named_and_one_that_does_is_not_called_right() {
    let of = |gpus, version| driver(&Demand { gpus, ..snp() }, version);
    assert!(of(0, None).is_empty());
    assert!(of(1, None)[0].wrong().unwrap().contains("no driver for them"));
    assert!(of(1, Some("fake"))[0].wrong().unwrap().contains("the tests'"));
    assert!(of(1, Some("550.163.01")).is_empty(), "whether NVIDIA has a RIM is not known here");
}

/// A broker, and what is said of it.
fn asked(setup: Setup, token: Option<&str>) -> Result<(String, Vec<Finding>)> {
    let kbs = Kbs::start(SocketAddr::new(HERE, 0), None, setup)?;
    let admin = Admin::new(&kbs.url, None, token.map(str::to_owned))?;
    Ok((admin.policy()?, admin.references(&snp(), &resource())?))
}

fn setup() -> Setup {
    Setup { admin: Some(TOKEN.to_owned()), references: values(&snp()), ..Setup::default() }
}

#[test]
fn an_administrator_reads_policy_and_values() {
    let (policy, findings) = asked(setup(), Some(TOKEN)).unwrap();
    assert_eq!(policy, kbs::ALLOW_ALL);
    assert!(findings.len() == 5 && findings.iter().all(|finding| finding.wrong().is_none()), "{findings:?}");
    let none = Setup { references: BTreeMap::new(), ..setup() };
    let (_, findings) = asked(none, Some(TOKEN)).unwrap();
    assert!(findings.iter().all(|finding| finding.right().is_none()), "{findings:?}");
}

#[test]
fn a_broker_that_does_not_answer_is_no_yes() {
    for (setup, token, said) in [
        (setup(), None, "it does not let a stranger read that; give --kbs-token"),
        (setup(), Some("another"), "it does not let this administrator read that"),
        (setup().trouble(Trouble::Endless), Some(TOKEN), "asked for its resource-policy"),
        (setup().trouble(Trouble::Elsewhere), Some(TOKEN), "the status 302"),
        (setup().trouble(Trouble::Nonsense), Some(TOKEN), "asked for its resource-policy"),
        (setup().trouble(Trouble::Fails(1)), Some(TOKEN), "the status 503"),
    ] {
        let error = format!("{:#}", asked(setup, token).unwrap_err());
        assert!(error.contains(said), "{said:?} is not in: {error}");
    }
    let gone = Kbs::start(SocketAddr::new(HERE, 0), None, setup()).unwrap().url.clone();
    let error = Admin::new(&gone, None, None).unwrap().policy().unwrap_err();
    assert!(format!("{error:#}").contains(&gone), "{error:#}");
}

#[test]
fn only_the_certificate_that_is_given_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kbs.pem");
    let identity = Identity::new(HERE).unwrap();
    let kbs = Kbs::start(SocketAddr::new(HERE, 0), Some(&identity), setup()).unwrap();
    fs::write(&path, &identity.certificate).unwrap();
    let ask = || Admin::new(&kbs.url, Some(&path), Some(TOKEN.to_owned())).and_then(|admin| admin.policy());
    assert_eq!(ask().unwrap(), kbs::ALLOW_ALL);
    fs::write(&path, Identity::new(HERE).unwrap().certificate).unwrap();
    assert!(format!("{:#}", ask().unwrap_err()).contains("certificate"));
    fs::write(&path, "no certificate").unwrap();
    assert!(format!("{:#}", ask().unwrap_err()).contains("holds no certificate"));
    for (url, certificate, said) in [
        ("https://192.0.2.1", None, "--kbs-cert is needed"),
        ("http://192.0.2.1", Some(path.as_path()), "leave --kbs-cert out"),
        ("192.0.2.1:8080", None, "no address of a key broker"),
    ] {
        let error = Admin::new(url, certificate, None).err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}
