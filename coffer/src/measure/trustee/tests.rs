//! The policy against what Trustee would show it, honest and forged.

use measurement::Sha384Digest;
use regorus::Engine;

use super::super::pod::{Class, Demand};

use super::*;

const INITDATA: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn demand(gpus: u32) -> Demand {
    let registers = vec![("launch_digest", register(b"launch"))];
    let (class, initdata) = (Class::CofferSnp, INITDATA.into());
    Demand { name: "p".into(), class, registers, initdata, gpus, snp_policy: Some(0x30000) }
}

fn tdx() -> Demand {
    let registers = vec![("mrtd", register(b"0")), ("rtmr1", register(b"1")), ("rtmr2", register(b"2"))];
    Demand {
        class: Class::CofferTdx,
        registers,
        initdata: INITDATA.to_owned() + &INITDATA[..32],
        snp_policy: None,
        ..demand(1)
    }
}

/// With RTMR0, as `--acpi` gives it.
fn tdx_with_platform() -> Demand {
    let mut demand = tdx();
    demand.registers.insert(1, ("rtmr0", register(b"acpi")));
    demand
}

fn register(of: &[u8]) -> String {
    Sha384Digest::of(of).to_string()
}

fn gpu(rank: u32) -> Value {
    json!({
        "ear.status": "affirming",
        "ear.veraison.annotated-evidence": { "nvidia": {
            "secboot": true, "dbgstat": "disabled", "measres": "success", "hwmodel": "GB100 A01 GSP BROM",
            "ueid": format!("4780{rank}"),
        }},
    })
}

/// The token of a VM that is as demanded.
fn honest(demand: &Demand) -> Value {
    let value =
        |name: &str| demand.registers.iter().find(|(register, _)| *register == name).unwrap().1.clone();
    let evidence = match demand.class {
        Class::CofferSnp => json!({
            "snp": {
                "measurement": value("launch_digest"), "policy_debug_allowed": false, "policy_migrate_ma": false,
                "policy_smt_allowed": true, "policy_single_socket": false, "policy_abi_major": 0, "policy_abi_minor": 0,
            },
            "init_data": demand.initdata, "report_data": "00",
        }),
        Class::CofferTdx => json!({
            "tdx": {
                "quote": { "body": {
                    "mr_td": value("mrtd"), "rtmr_1": value("rtmr1"), "rtmr_2": value("rtmr2"), "rtmr_0": register(b"acpi"),
                    "td_attributes": "0000001000000000",
                } },
                "td_attributes": { "debug": false },
            },
            "init_data": demand.initdata,
        }),
    };
    let mut token = json!({ "submods": {
        "cpu0": { "ear.status": "affirming", "ear.veraison.annotated-evidence": evidence },
    }});
    for rank in 0..demand.gpus {
        token["submods"][format!("gpu{rank}")] = gpu(rank);
    }
    token
}

/// What the pods of these tests may have.
fn resource() -> Resource {
    "default/key/model".parse().unwrap()
}

fn policy(demand: &Demand) -> String {
    rego::policy(&BTreeSet::from([demand.for_trustee([resource()])]))
}

/// KBS's own question, `data.policy.allow`, about a path.
fn answer(policy: &str, token: &Value, plugin: &str, path: &[&str]) -> bool {
    let mut engine = Engine::new();
    engine.add_policy("policy.rego".into(), policy.into()).unwrap();
    let data = json!({ "plugin": plugin, "resource-path": path, "query": {} });
    engine.add_data(regorus::Value::from_json_str(&data.to_string()).unwrap()).unwrap();
    engine.set_input(regorus::Value::from_json_str(&token.to_string()).unwrap());
    engine.eval_rule("data.policy.allow".into()).unwrap() == regorus::Value::from(true)
}

fn allows(demand: &Demand, token: &Value) -> bool {
    answer(&policy(demand), token, "resource", &["default", "key", "model"])
}

#[test]
fn the_vm_as_demanded_gets_the_resource() {
    for gpus in [0, 1, 2, 8] {
        assert!(allows(&demand(gpus), &honest(&demand(gpus))), "{gpus}");
    }
    assert!(allows(&tdx(), &honest(&tdx())));
    assert!(allows(&tdx_with_platform(), &honest(&tdx_with_platform())));
}

#[test]
fn other_acpi_tables_are_denied_where_they_were_measured() {
    let mut token = honest(&tdx());
    let body = "/submods/cpu0/ear.veraison.annotated-evidence/tdx/quote/body/rtmr_0";
    *token.pointer_mut(body).unwrap() = register(b"other").into();
    assert!(allows(&tdx(), &token), "RTMR0 is not demanded");
    assert!(!allows(&tdx_with_platform(), &token));
}

#[test]
fn digests_in_base64_as_older_verifiers_write_them_are_understood() {
    let demand = demand(1);
    let mut token = honest(&demand);
    let evidence = &mut token["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    for at in ["/snp/measurement", "/init_data"] {
        let value = evidence.pointer_mut(at).unwrap();
        *value = forms(value.as_str().unwrap())[1].clone().into();
    }
    assert!(allows(&demand, &token));
}

#[test]
fn a_pod_has_its_own_resources_and_of_no_other_plugin() {
    let token = honest(&demand(1));
    let of = |resources: &[&str], plugin: &str, path: &str| {
        let resources = resources.iter().map(|resource| resource.parse().unwrap());
        let policy = rego::policy(&BTreeSet::from([demand(1).for_trustee(resources)]));
        answer(&policy, &token, plugin, &path.split('/').collect::<Vec<_>>())
    };
    assert!(of(&["default/key/model"], "resource", "default/key/model"));
    assert!(of(&["a/b/c", "default/key/*"], "resource", "default/key/other"));
    assert!(of(&["*/*/*"], "resource", "a/b/c"));
    for (resources, plugin, path) in [
        (&["default/key/model"][..], "resource", "default/key/other"),
        (&["default/key/model"], "resource", "other/key/model"),
        (&["default/key/model"], "resource", "default/key"),
        (&["default/key/*"], "resource", "default/key/model/more"),
        (&["default/key/*"], "resource", "default/password/model"),
        (&["default/key/model"], "pkcs11", "default/key/model"),
        (&["*/*/*"], "nebula-ca", "a/b/c"),
    ] {
        assert!(!of(resources, plugin, path), "{resources:?} {plugin} {path}");
    }
}

#[test]
fn what_names_no_resource_is_refused() {
    for text in ["", "a", "a/b", "a/b/c/d", "a//c", "../b/c", "a/b/c\"]", "a/b/c d", "a/**/c", "ä/b/c"] {
        assert!(text.parse::<Resource>().is_err(), "{text}");
    }
    let text = Resource::from_str("a.b/c_d/*").unwrap().to_string();
    assert_eq!(text, "a.b/c_d/*");
}

/// A board of eight Hoppers and four switches, as Trustee shows it.
fn board() -> Value {
    let mut token = honest(&demand(8));
    for rank in 0..8 {
        token["submods"][format!("gpu{rank}")]["ear.veraison.annotated-evidence"]["nvidia"]["hwmodel"] =
            "GH100 A01 GSP BROM".into();
    }
    for rank in 0..4 {
        token["submods"][format!("switch{rank}")] = json!({ "ear.status": "affirming" });
    }
    token["submods"]["ppcie0"] = json!({ "ear.status": "affirming" });
    token
}

#[test]
fn several_hoppers_are_a_whole_board_with_its_switches() {
    assert!(allows(&demand(8), &board()));
    for part in ["ppcie0", "switch0", "switch3", "gpu7"] {
        let mut token = board();
        token["submods"].as_object_mut().unwrap().remove(part);
        assert!(!allows(&demand(8), &token), "without {part}");
    }
    for (part, status) in [("ppcie0", "warning"), ("switch1", "contraindicated")] {
        let mut token = board();
        token["submods"][part]["ear.status"] = status.into();
        assert!(!allows(&demand(8), &token), "{part} {status}");
    }
    let mut fifth = board();
    fifth["submods"]["switch4"] = fifth["submods"]["switch0"].clone();
    assert!(!allows(&demand(8), &fifth));
    // One Hopper alone has no board; two have one.
    let few = |gpus: u32| {
        let mut token = honest(&demand(gpus));
        for rank in 0..gpus {
            token["submods"][format!("gpu{rank}")]["ear.veraison.annotated-evidence"]["nvidia"]["hwmodel"] =
                "GH100".into();
        }
        allows(&demand(gpus), &token)
    };
    assert_eq!([few(1), few(2)], [true, false]);
}

#[test]
fn one_kbs_serves_several_pods() {
    let (first, second) = (demand(1), tdx());
    let one = output([first.for_trustee(["default/key/first".parse().unwrap()])]).unwrap();
    let two = output([second.for_trustee(["default/key/second".parse().unwrap()])]).unwrap();
    let both = merge(&[one.clone(), two.clone()]).unwrap();
    assert_eq!(
        both,
        merge(&[two.clone(), one.clone(), two]).unwrap(),
        "neither order nor repetition matters"
    );
    let policy = both["resource_policy"].as_str().unwrap();
    for (demand, own, others) in [(&first, "first", "second"), (&second, "second", "first")] {
        assert!(answer(policy, &honest(demand), "resource", &["default", "key", own]), "{own}");
        assert!(!answer(policy, &honest(demand), "resource", &["default", "key", others]), "{own}");
    }
    let values = both["reference_values"].as_object().unwrap();
    assert_eq!(values.keys().collect::<Vec<_>>(), ["mr_td", "rtmr_1", "rtmr_2", "snp_launch_measurement"]);
    // A second SNP pod's measurement stands beside the first's.
    let mut third = demand(0);
    third.registers[0].1 = register(b"another");
    let three = merge(&[one, output([third.for_trustee([resource()])]).unwrap()]).unwrap();
    assert_eq!(three["reference_values"]["snp_launch_measurement"].as_array().unwrap().len(), 4);
}

#[test]
fn an_output_that_somebody_changed_is_not_merged() {
    let whole = output([demand(1).for_trustee([resource()])]).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut output = whole.clone();
        change(&mut output);
        format!("{:#}", merge(&[output]).unwrap_err())
    };
    assert!(refused(&|output| output["format"] = 2.into()).contains("of this version"));
    assert!(refused(&|output| output["pods"] = Value::Null).contains("cannot be read"));
    assert!(refused(&|output| output["pods"][0]["more"] = 1.into()).contains("more"));
    assert!(refused(&|output| output["pods"][0]["resources"] = json!([])).contains("no resource at all"));
    assert!(
        refused(&|output| output["pods"][0]["resources"] = json!(["a/b/c\"] }"]))
            .contains("names no resource")
    );
    assert!(
        refused(&|output| output["pods"][0]["initdata"] = "00\"} allow".into()).contains("64 lower-case")
    );
    assert!(refused(&|output| output["pods"][0]["measurements"] = json!({})).contains("is missing"));
    assert!(
        refused(&|output| output["pods"][0]["measurements"]["mr_td"] = register(b"x").into())
            .contains("mr_td")
    );
    assert!(
        refused(&|output| output["pods"][0]["measurements"]["snp_launch_measurement"] = "AB".into())
            .contains("96 lower-case")
    );
    assert!(refused(&|output| output["pods"][0]["snp_policy"] = Value::Null).contains("snp_policy"));
    assert!(format!("{:#}", merge(&[]).unwrap_err()).contains("no pod"));
}

#[test]
fn the_policy_is_the_golden_one() {
    let policy = rego::policy(&BTreeSet::from([
        demand(1).for_trustee([resource()]),
        tdx_with_platform().for_trustee([resource()]),
    ]));
    assert_eq!(policy, include_str!("two-pods.rego"));
}

#[test]
fn any_other_number_of_gpus_is_denied() {
    for wanted in [0, 1, 2, 8] {
        for there in [0, 1, 2, 7, 8, 9] {
            let token = honest(&demand(there));
            assert_eq!(allows(&demand(wanted), &token), wanted == there, "{wanted} wanted, {there} there");
        }
    }
}

#[test]
fn what_is_forged_is_denied() {
    let remove = |token: &mut Value, name: &str| {
        token["submods"].as_object_mut().unwrap().remove(name);
    };
    type Forge = Box<dyn Fn(&mut Value)>;
    let set = |path: &'static str, value: Value| -> Forge {
        Box::new(move |token| *token.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value.clone())
    };
    const CPU: &str = "/submods/cpu0/ear.veraison.annotated-evidence";
    let forged: Vec<(&str, Forge)> = vec![
        ("GPU missing", Box::new(move |t| remove(t, "gpu1"))),
        ("all GPUs missing", Box::new(move |t| ["gpu0", "gpu1"].iter().for_each(|name| remove(t, name)))),
        ("CPU missing", Box::new(move |t| remove(t, "cpu0"))),
        ("GPU without claims", set("/submods/gpu0/ear.veraison.annotated-evidence", json!({}))),
        (
            "GPU of another maker",
            set("/submods/gpu0/ear.veraison.annotated-evidence", json!({ "sampledevice": {} })),
        ),
        ("GPU not judged well", set("/submods/gpu1/ear.status", "warning".into())),
        ("GPU not judged", set("/submods/gpu1", json!({}))),
        ("devtools", set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/dbgstat", "enabled".into())),
        ("no secure boot", set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/secboot", false.into())),
        (
            "measurements differ",
            set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/measres", "fail".into()),
        ),
        ("one GPU twice", set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/ueid", "47800".into())),
        (
            "GPU without name",
            set(
                "/submods/gpu1/ear.veraison.annotated-evidence/nvidia",
                json!({
            "secboot": true, "dbgstat": "disabled", "measres": "success", "hwmodel": "GB100" }),
            ),
        ),
        (
            "GPU whose name is nothing",
            set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/ueid", Value::Null),
        ),
        (
            "GPU whose name is empty",
            set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/ueid", "".into()),
        ),
        ("GPU of no model", set("/submods/gpu1/ear.veraison.annotated-evidence/nvidia/hwmodel", Value::Null)),
        ("a switch", Box::new(|t| t["submods"]["switch0"] = json!({ "ear.status": "affirming" }))),
        ("CPU not judged well", set("/submods/cpu0/ear.status", "contraindicated".into())),
        ("a second CPU", Box::new(|t| t["submods"]["cpu1"] = t["submods"]["cpu0"].clone())),
        ("a broken board", Box::new(|t| t["submods"]["ppcie0"] = json!({ "ear.status": "contraindicated" }))),
        (
            "other initdata",
            set("/submods/cpu0/ear.veraison.annotated-evidence/init_data", "22".repeat(32).into()),
        ),
        (
            "initdata all zeros",
            set("/submods/cpu0/ear.veraison.annotated-evidence/init_data", "00".repeat(32).into()),
        ),
        ("no evidence", set(CPU, json!({}))),
        (
            "no initdata",
            Box::new(|t| {
                t.pointer_mut(CPU).unwrap().as_object_mut().unwrap().remove("init_data");
            }),
        ),
    ];
    for (what, forge) in &forged {
        for demand in [Demand { gpus: 2, ..demand(2) }, Demand { gpus: 2, ..tdx() }] {
            let mut token = honest(&demand);
            assert!(allows(&demand, &token), "before {what}");
            forge(&mut token);
            assert!(!allows(&demand, &token), "{what}");
        }
    }
    let snp = demand(2);
    for (path, value) in [
        ("measurement", "00".into()),
        ("policy_debug_allowed", json!(true)),
        ("policy_migrate_ma", json!(true)),
        ("policy_smt_allowed", json!(false)),
        ("policy_single_socket", json!(true)),
        ("policy_abi_major", json!(1)),
        ("policy_abi_minor", json!(55)),
        ("policy_migrate_ma", Value::Null),
    ] {
        let mut token = honest(&snp);
        token.pointer_mut(CPU).unwrap()["snp"][path] = value;
        assert!(!allows(&snp, &token), "{path}");
    }
    for path in ["mr_td", "rtmr_1", "rtmr_2", "td_attributes"] {
        let mut token = honest(&tdx());
        *token.pointer_mut(&format!("{CPU}/tdx/quote/body/{path}")).unwrap() = json!(true);
        assert!(!allows(&tdx(), &token), "{path}");
    }
    // DEBUG, MIGRATABLE, PKS, PERFMON, and without SEPT_VE_DISABLE: each is another VM.
    for word in
        ["0100001000000000", "0000003000000000", "0000005000000000", "0000001000000080", "0000000000000000"]
    {
        let mut token = honest(&tdx());
        token.pointer_mut(CPU).unwrap()["tdx"]["quote"]["body"]["td_attributes"] = word.into();
        assert!(!allows(&tdx(), &token), "{word}");
    }
    // Quotes of version 5 say which service TD is behind it.
    for (measurement, allowed) in [("0".repeat(96), true), (register(b"migration TD"), false)] {
        let mut token = honest(&tdx());
        token.pointer_mut(CPU).unwrap()["tdx"]["quote"]["body"]["mr_servicetd"] = measurement.clone().into();
        assert_eq!(allows(&tdx(), &token), allowed, "{measurement}");
    }
    assert!(!allows(&tdx(), &honest(&snp)) && !allows(&snp, &honest(&tdx())), "the other processor");
}

#[test]
fn only_the_machines_that_are_named_get_it() {
    for (demand, claim, digits) in [(demand(1), "chip_id", 128), (tdx(), "platform_instance_id", 32)] {
        let tee = if claim == "chip_id" { "snp" } else { "tdx" };
        let machines = ["a".repeat(digits), "b".repeat(digits)];
        let pod = Pod { machines: machines.clone().into(), ..demand.for_trustee([resource()]) };
        let printed = output([pod.clone()]).unwrap();
        let policy = printed["resource_policy"].as_str().unwrap();
        let on = |machine: Value| {
            let mut token = honest(&demand);
            let cpu = "/submods/cpu0/ear.veraison.annotated-evidence";
            token.pointer_mut(cpu).unwrap()[tee][claim] = machine;
            answer(policy, &token, "resource", &["default", "key", "model"])
        };
        assert!(machines.iter().all(|machine| on(machine.as_str().into())), "{policy}");
        for other in ["c".repeat(digits).into(), "".into(), Value::Null, json!(1)] {
            assert!(!on(other), "{policy}");
        }
        assert!(!answer(policy, &honest(&demand), "resource", &["default", "key", "model"]), "no claim");
        // It stays through a merge.
        assert_eq!(merge(std::slice::from_ref(&printed)).unwrap(), printed);
        for bad in ["", "a", &"A".repeat(digits), &"\"".repeat(digits)] {
            let pod = Pod { machines: [bad.to_owned()].into(), ..pod.clone() };
            let error = output([pod]).unwrap_err().to_string();
            assert!(error.contains(claim), "{error}");
        }
    }
}

#[test]
fn nothing_gets_nothing() {
    for token in [json!({}), json!({ "submods": {} }), json!({ "submods": null }), json!([]), Value::Null] {
        for gpus in [0, 1] {
            assert!(!allows(&demand(gpus), &token), "{token}");
        }
    }
}

#[test]
fn a_name_cannot_write_the_policy() {
    let evil = Demand { name: "x\n default allow := true\nallow if { true }\u{2028}".into(), ..demand(1) };
    assert!(!allows(&evil, &json!({})));
    assert!(allows(&evil, &honest(&evil)));
}

#[test]
fn reference_values_have_trustees_names() {
    let printed = |demand: Demand| output([demand.for_trustee([resource()])]).unwrap();
    let of_tdx = printed(tdx());
    let names: Vec<_> = of_tdx["reference_values"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["mr_td", "rtmr_1", "rtmr_2"]);
    assert!(printed(tdx_with_platform())["reference_values"]["rtmr_0"][0].is_string());
    let payload = STANDARD.decode(of_tdx["rvps_message"]["payload"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), of_tdx["reference_values"]);
    // Both forms of SNP's.
    let of_snp = printed(demand(0));
    let values: BTreeSet<_> = of_snp["reference_values"]["snp_launch_measurement"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let forms = forms(&register(b"launch"));
    assert_eq!(values, forms.iter().map(String::as_str).collect());
}
