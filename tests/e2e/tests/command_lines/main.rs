//! What the real QEMU says of every golden command line: it knows each object, device, board and CPU model, and each of
//! their properties; and it starts the whole line, or refuses it for the hardware that is missing here and nothing else.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do fails the test")]

mod line;
mod qmp;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use line::{Line, as_json, parse};
use qmp::{QEMU, Qmp};

/// Where QEMU runs, as in a pod's state directory: initdata's disk has no path on the line.
const STATE: &str = "/run/e2e-command-lines";

/// What the parser itself takes off a value before the object sees it.
const PARSED: [&str; 4] = ["id", "bus", "driver", "qom-type"];

#[test]
fn every_property_exists() {
    let mut qemu = Qmp::start(&["-M", "none"]);
    let machines = qemu.ask("query-machines", json!({})).unwrap();
    let q35 = machines.as_array().unwrap().iter().find(|machine| machine["alias"] == "q35").unwrap();
    let q35 = format!("{}-machine", q35["name"].as_str().unwrap());
    let lines = Line::all();
    assert!(lines.len() > 10, "golden files are found");
    for line in &lines {
        for (option, value) in &line.args {
            let (kind, names) = parse(value);
            let (command, typename) = match option.as_str() {
                "-device" => ("device-list-properties", kind),
                "-object" => ("qom-list-properties", kind),
                "-machine" => ("qom-list-properties", q35.clone()),
                "-accel" => ("qom-list-properties", format!("{kind}-accel")),
                "-cpu" => ("qom-list-properties", format!("{kind}-x86_64-cpu")),
                _ => continue,
            };
            let known = qemu.properties(command, &typename);
            let known = known.unwrap_or_else(|error| panic!("{}: {option} {value}: {error}", line.name));
            for name in names.iter().filter(|name| !PARSED.contains(&name.as_str())) {
                let found = known.iter().any(|property| property.replace('_', "-") == name.replace('_', "-"));
                assert!(found, "{}: {option} {value}: QEMU does not know {name}", line.name);
            }
        }
    }
}

#[test]
fn objects_of_confidential_guests_can_be_made() {
    let mut made = 0;
    for line in Line::all() {
        for value in line.values("-object").filter(|value| value.contains("-guest")) {
            // QEMU checks types when it makes the object, and some lengths. Over the monitor: on the command line,
            // QEMU 11.1 aborts for a tdx-guest without KVM.
            let mut qemu = Qmp::start(&["-M", "none"]);
            let object = as_json(value);
            qemu.ask("object-add", object).unwrap_or_else(|error| panic!("{}: {value}: {error}", line.name));
            made += 1;
        }
    }
    assert!(made >= 10, "TDX and SNP with 0, 1 and 8 GPUs, with initdata, quotes over vsock, an ID block");
}

#[test]
fn a_value_of_the_wrong_form_is_refused() {
    let tdx = json!({ "qom-type": "tdx-guest", "id": "t" });
    let snp = json!({ "qom-type": "sev-snp-guest", "id": "s", "cbitpos": 51, "reduced-phys-bits": 1 });
    let wrong = [
        (
            &tdx,
            "quote-generation-socket",
            json!({ "type": "vsock", "cid": 2, "port": "1" }),
            "expected: string",
        ),
        (&tdx, "mrconfig", json!("AAAA"), "'mrconfig' is unexpected"),
        (&snp, "host-data", json!(BASE64_STANDARD.encode([0; 31])), "31 not equal to 32"),
        (&snp, "id-block", json!("AAAA"), "3 not equal to 96"),
        // A shorter one QEMU takes, and the processor refuses; Coffer takes only whole ones.
        (&snp, "id-auth", json!(BASE64_STANDARD.encode([0; 4097])), "4097 exceeds max of 4096"),
        (&snp, "kernelhashes", json!(true), "'kernelhashes' is unexpected"),
    ];
    for (base, name, value, reason) in wrong {
        let mut qemu = Qmp::start(&["-M", "none"]);
        let mut object = base.clone();
        object[name] = value;
        let error = qemu.ask("object-add", object).unwrap_err();
        assert!(error.contains(reason), "{name}: {error}");
        qemu.ask("object-add", base.clone()).unwrap_or_else(|error| panic!("without {name}: {error}"));
    }
}

#[test]
fn a_document_for_the_monitor_has_the_lines_types() {
    let object = as_json("sev-snp-guest,id=tee,cbitpos=51,policy=0x30000,kernel-hashes=on,host-data=AA==");
    let expected = json!({ "qom-type": "sev-snp-guest", "id": "tee", "cbitpos": 51, "policy": 0x3_0000,
        "kernel-hashes": true, "host-data": "AA==" });
    assert_eq!(object, expected);
}

#[test]
fn whole_lines_start_or_lack_hardware_only() {
    provide_files();
    for line in Line::all() {
        let expected = missing(&line);
        let said = start(&line);
        match expected {
            None => assert_eq!(said, "", "{} starts", line.name),
            Some(reason) => assert!(said.contains(reason), "{}: not {reason:?} but {said:?}", line.name),
        }
        assert_eq!(start(&without_hardware(&line)), "", "the rest of {} starts", line.name);
    }
}

/// What QEMU says where the hardware that the line needs is missing.
fn missing(line: &Line) -> Option<&'static str> {
    if line.has("-object", "iommufd") {
        Some("/dev/iommu does not exist")
    } else if line.has("-object", "tdx-guest") {
        Some("cannot set up private guest memory for tdx-guest: KVM required")
    } else if line.has("-object", "sev-snp-guest") {
        Some("cannot set up private guest memory for sev-snp-guest: KVM required")
    } else if line.has("-device", "vfio-user-pci") {
        Some("Failed to connect to '/run/gpu.sock'")
    } else if line.has("-device", "host=") {
        Some("0000:41:00.0: no such host device")
    } else {
        None
    }
}

/// The same VM without what needs hardware.
fn without_hardware(line: &Line) -> Line {
    let needs = |value: &str| {
        value.contains("-guest,id=tee")
            || value.contains("-guest\"")
            || value.contains("vfio")
            || value.contains("iommufd")
    };
    let mut line = line.clone();
    line.args.retain(|(option, value)| !(["-object", "-device"].contains(&option.as_str()) && needs(value)));
    for (_, value) in &mut line.args {
        *value = value.replace(",confidential-guest-support=tee", "");
        if let Some(start) = value.find(",host-nodes=") {
            value.truncate(start);
        }
    }
    line
}

/// The files that the golden lines name.
fn provide_files() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/image-dev");
    for folder in ["/opt/coffer/share/guest-image", "/srv/images/a,b=c"] {
        fs::create_dir_all(folder).unwrap();
        for file in ["vmlinuz", "root.img"] {
            fs::copy(image.join(file), Path::new(folder).join(file)).unwrap();
        }
    }
    for (name, installed) in
        [("OVMF.inteltdx.fd", "OVMF.inteltdx.ms.fd"), ("OVMF.amdsev.fd", "OVMF.amdsev.fd")]
    {
        fs::copy(format!("/usr/share/ovmf/{installed}"), format!("/opt/coffer/share/{name}")).unwrap();
    }
    fs::create_dir_all(STATE).unwrap();
    fs::write(Path::new(STATE).join("initdata.img"), [0; 512]).unwrap();
    fs::write(Path::new(STATE).join("scratch.img"), [0; 512]).unwrap();
}

/// Starts QEMU with a line, stopped before the guest's first instruction, has it quit, and returns what it complained of.
/// What comes from Coffer as a descriptor is left out or stands alone: QEMU's end of a socket pair, the console's pipe, taps,
/// vhost. So is KVM, which these machines have not.
fn start(line: &Line) -> String {
    let mut command = Command::new(QEMU);
    command
        .current_dir(STATE)
        .args(["-S", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (option, value) in &line.args {
        let given = |name: &str| value.starts_with(name);
        let value = match option.as_str() {
            "-accel" if given("kvm") => "tcg".to_owned(),
            "-cpu" if given("host") => {
                value.replacen("host", "max", 1).replace("host-phys-bits=on", "phys-bits=52")
            }
            "-chardev" => {
                let id = value.split(',').find(|option| option.starts_with("id=")).unwrap();
                format!("null,{id}")
            }
            "-object" if given("iommufd") => "iommufd,id=iommufd0".to_owned(),
            "-netdev" if given("tap") => continue,
            "-device" if given("vhost-") || given("virtio-net") => continue,
            "-blockdev" => value.replace("/dev/fdset/16384", "scratch.img"),
            "-add-fd" | "-qmp" | "-run-with" => continue,
            _ => value.clone(),
        };
        command.arg(option);
        if !value.is_empty() {
            command.arg(value);
        }
    }
    let mut child = command.spawn().unwrap();
    let ask = b"{\"execute\": \"qmp_capabilities\"} {\"execute\": \"quit\"}";
    // A QEMU that has ended already says why on its standard error.
    let _ = child.stdin.take().unwrap().write_all(ask);
    let output = child.wait_with_output().unwrap();
    // What TCG does not emulate of a CPU model is no fault of the line.
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().filter(|line| !line.contains("warning: TCG doesn't support")).collect::<Vec<_>>().join("\n")
}
