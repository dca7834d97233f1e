//! The policy against what Trustee would show it, honest and forged.

use ::measure::Sha384Digest;
use regorus::Engine;

use super::*;

const INITDATA: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn demand(gpus: u32) -> Demand {
    let registers = vec![("launch_digest", register(b"launch"))];
    Demand { name: "p".into(), class: Class::CofferSnp, registers, initdata: INITDATA.into(), gpus }
}

fn tdx() -> Demand {
    let registers = vec![("mrtd", register(b"0")), ("rtmr1", register(b"1")), ("rtmr2", register(b"2"))];
    Demand { class: Class::CofferTdx, registers, ..demand(1) }
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
            "secboot": true, "dbgstat": "disabled", "measres": "success", "hwmodel": "GH100",
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
            "snp": { "measurement": value("launch_digest"), "policy_debug_allowed": false },
            "init_data": demand.initdata, "report_data": "00",
        }),
        Class::CofferTdx => json!({
            "tdx": {
                "quote": { "body": {
                    "mr_td": value("mrtd"), "rtmr_1": value("rtmr1"), "rtmr_2": value("rtmr2"), "rtmr_0": register(b"acpi"),
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

/// KBS's own question: `data.policy.allow`.
fn allows(demand: &Demand, token: &Value) -> bool {
    let mut engine = Engine::new();
    engine.add_policy("policy.rego".into(), policy(demand)).unwrap();
    engine.set_input(regorus::Value::from_json_str(&token.to_string()).unwrap());
    engine.eval_rule("data.policy.allow".into()).unwrap() == regorus::Value::from(true)
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
fn claims_of_a_newer_verifier_are_understood() {
    let demand = demand(1);
    let mut token = honest(&demand);
    let evidence = &mut token["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    let measurement = evidence["snp"]["measurement"].take();
    evidence["snp"] =
        json!({ "evidence": { "measurement": measurement, "policy": { "debug_allowed": false } } });
    assert!(allows(&demand, &token));
    token["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["snp"]["measurement"] = "00".into();
    assert!(!allows(&demand, &token), "two that differ");
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
            "secboot": true, "dbgstat": "disabled", "measres": "success" }),
            ),
        ),
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
    for (path, value) in [("measurement", "00".into()), ("policy_debug_allowed", json!(true))] {
        let mut token = honest(&snp);
        token.pointer_mut(CPU).unwrap()["snp"][path] = value;
        assert!(!allows(&snp, &token), "{path}");
    }
    for path in ["quote/body/mr_td", "quote/body/rtmr_1", "quote/body/rtmr_2", "td_attributes/debug"] {
        let mut token = honest(&tdx());
        *token.pointer_mut(&format!("{CPU}/tdx/{path}")).unwrap() = json!(true);
        assert!(!allows(&tdx(), &token), "{path}");
    }
    assert!(!allows(&tdx(), &honest(&snp)) && !allows(&snp, &honest(&tdx())), "the other processor");
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
    let printed = output(&tdx());
    let names: Vec<_> = printed["reference_values"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["mr_td", "rtmr_1", "rtmr_2"]);
    assert!(output(&tdx_with_platform())["reference_values"]["rtmr_0"][0].is_string());
    let payload = STANDARD.decode(printed["rvps_message"]["payload"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), printed["reference_values"]);
    assert!(output(&demand(0))["reference_values"]["snp_launch_measurement"][0].is_string());
}
