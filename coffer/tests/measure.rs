//! `coffer measure` and `coffer initdata` as a user meets them: output, exit codes, messages.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

#[path = "../../crates/measurement/tests/image/mod.rs"]
mod image;
#[path = "../../crates/measurement/tests/volume/mod.rs"]
mod volume;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::Image;

fn coffer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coffer"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("coffer starts")
}

/// What a command that succeeds prints, and nothing on standard error.
fn stdout(args: &[&str]) -> Vec<u8> {
    let output = coffer(args);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn text(args: &[&str]) -> String {
    String::from_utf8(stdout(args)).unwrap()
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_slice(&stdout(args)).unwrap()
}

/// What a command that fails with `code` says, having printed nothing.
fn failure(code: i32, args: &[&str]) -> String {
    let output = coffer(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(output.stdout.is_empty());
    message
}

/// A directory with files in it.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn snp_prints_one_line() {
    let files = Files::new();
    let firmware = files.write("firmware", Image::amdsev().build());
    let (kernel, initrd) = (files.write("kernel", "kernel"), files.write("initrd", "initrd"));
    let base = ["measure", "snp", "--firmware", &firmware, "--vcpus", "16"];
    let boot = ["--kernel", &kernel, "--initrd", &initrd, "--append", "console=ttyS0"];
    let digest = text(&[&base[..], &boot, &["--cpu", "EPYC-Genoa", "--guest-features", "0x21"]].concat());
    // sev-snp-measure 0.0.13 says so, too (crates/measurement/tests/vectors.rs).
    let expected =
        "427f4e89b11382a2f1f74f62543f855d4200402c1cd270ae65101fdf065fafafb92d623e36ff031173a73d0211917e52";
    assert_eq!(digest, format!("{expected}\n"));
    let by_signature = ["--cpu-signature", "0xa10f10", "--guest-features", "0x21", "-o", "json"];
    let object = json(&[&base[..], &boot, &by_signature].concat());
    assert_eq!(object["launch_digest"], expected);
    assert_eq!((&object["vcpus"], &object["cpu_signature"]), (&16.into(), &"0xa10f10".into()));
    assert_eq!(object["kernel_hashes"]["kernel"].as_str().unwrap().len(), 64);
    let without_kernel = json(&[&base[..], &["--cpu", "EPYC", "--output", "json"]].concat());
    assert!(without_kernel["kernel_hashes"].is_null());
}

#[test]
fn snp_refuses_what_it_cannot_measure() {
    let files = Files::new();
    let kernel = files.write("kernel", "kernel");
    let amdsev = files.write("amdsev", Image::amdsev().build());
    let mut unhashed = Image::amdsev();
    unhashed.sev.as_mut().unwrap().pop();
    let unhashed = files.write("unhashed", unhashed.build());
    let tdx = files.write("tdx", Image::inteltdx().build());
    let odd = files.write("odd", "x");
    let run = |code, firmware: &str, more: &[&str]| {
        failure(code, &[&["measure", "snp", "--firmware", firmware, "--vcpus", "1"], more].concat())
    };
    let cpu = ["--cpu", "EPYC"];
    let message = run(1, &unhashed, &[&cpu[..], &["--kernel", &kernel]].concat());
    assert!(message.contains(&unhashed) && message.contains("use an AmdSev build"), "{message}");
    let message = run(1, &tdx, &cpu);
    assert!(message.contains("no SEV metadata"), "{message}");
    let message = run(1, &odd, &cpu);
    assert!(message.contains("the firmware has 1 bytes"), "{message}");
    let message = run(1, &amdsev, &[&cpu[..], &["--kernel", "/nonexistent/k"]].concat());
    assert!(message.contains("cannot read the kernel /nonexistent/k: No such file"), "{message}");
    let message = run(1, &amdsev, &[&cpu[..], &["--kernel", &kernel, "--append", "é"]].concat());
    assert!(message.contains("printable ASCII"), "{message}");

    let message = run(2, &amdsev, &["--cpu", "EPYC-Naples"]);
    assert!(message.contains("EPYC-Genoa"), "{message}");
    for usage in [
        &[][..],
        &["--cpu", "EPYC", "--cpu-signature", "0x800f12"],
        &["--cpu-signature", "800f12"],
        &["--cpu", "EPYC", "--initrd", &kernel],
        &["--cpu", "EPYC", "--append", "x"],
        &["--cpu", "EPYC", "--guest-features", "0x20"],
        &["--cpu", "EPYC", "--guest-features", "1"],
    ] {
        run(2, &amdsev, usage);
    }
    failure(2, &["measure", "snp", "--firmware", &amdsev, "--vcpus", "0", "--cpu", "EPYC"]);
}

#[test]
fn tdx_prints_the_register_that_is_asked_for() {
    let files = Files::new();
    let firmware = files.write("firmware", Image::inteltdx().build());
    // dstack-mr says so, too (crates/measurement/tests/vectors.rs).
    for (more, mrtd) in [
        (
            &[][..],
            "6455795fc6580f00f8712910fae3dc5d338b448ee5b3bcfe1123e462fafc628c3b553eb3f880be87c3c9170826e9419d",
        ),
        (
            &["--two-pass"],
            "70e721579c5c0fb2bb9a10adda97984e9b2a9dcde544a63ed6a9447e2cdf8c8402b38309ed7f17a3d7dcad612fb8b6f3",
        ),
    ] {
        let args = [&["measure", "tdx", "--firmware", &firmware], more].concat();
        assert_eq!(text(&args), format!("{mrtd}\n"));
        assert_eq!(json(&[&args[..], &["-o", "json"]].concat())["mrtd"], mrtd);
    }

    let initrd = files.write("initrd", vec![b'I'; 70_001]);
    let rtmr2 = ["measure", "tdx", "--rtmr2", "--append", "console=ttyS0", "--initrd", &initrd];
    let after = [&rtmr2[..], &["--initrd-option", "after"]].concat();
    let value =
        "faad2ba8e10320d8e9e937e4adbc6ab3f74f96eeeacca3c65f1da7db6746f3b57a1167bc08c3d529fd56dee26e404d79";
    assert_eq!(text(&after), format!("{value}\n"));
    // What our firmware does is what needs no option.
    assert_eq!(text(&rtmr2), text(&after));
    assert_ne!(text(&[&rtmr2[..], &["--initrd-option", "before"]].concat()), text(&after));
    let object = json(&[&after[..], &["--events", "-o", "json"]].concat());
    assert_eq!(object["rtmr2"], value);
    assert_eq!(object["events"][1]["name"], "initrd");
    let events = text(&[&after[..], &["--events"]].concat());
    assert_eq!(events.lines().count(), 3);
    assert!(events.ends_with(&format!("{value} rtmr2\n")), "{events}");
}

/// The script of `etc/table-loader` that reads these files.
fn script(names: &[&str]) -> Vec<u8> {
    let command = |name: &&str| {
        let mut command = [&[1, 0, 0, 0], name.as_bytes()].concat();
        command.resize(128, 0);
        command
    };
    names.iter().flat_map(command).collect()
}

#[test]
fn rtmr0_follows_firmware_memory_and_acpi_files() {
    let files = Files::new();
    let filled = files.write("filled", Image { variables: true, ..Image::inteltdx() }.build());
    let of_drivers = |names: &[&str]| Image { volumes: volume::section(names), ..Image::inteltdx() }.build();
    let empty = files.write("empty", of_drivers(&volume::PREDICTED));
    let older = files.write("older", of_drivers(&volume::TDX));
    let silent = files.write("silent", Image::inteltdx().build());
    let acpi = files.0.path().to_str().unwrap().to_owned();
    fs::create_dir_all(files.0.path().join("etc/acpi")).unwrap();
    files.write("etc/table-loader", script(&["etc/acpi/rsdp", "etc/acpi/tables"]));
    files.write("etc/acpi/rsdp", "rsdp");
    let of = |firmware, mib| {
        ["measure", "tdx", "--rtmr0", "--firmware", firmware, "--memory", mib, "--acpi", &acpi]
            .map(str::to_owned)
    };
    let run = |args: &[String]| text(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let fail = |args: &[String]| failure(1, &args.iter().map(String::as_str).collect::<Vec<_>>());

    assert!(fail(&of(&empty, "512")).contains("etc/acpi/tables"));
    files.write("etc/acpi/tables", "tables");
    let value = run(&of(&empty, "512"));
    assert_ne!(run(&of(&empty, "1024")), value);
    files.write("etc/acpi/tables", "other tables");
    assert_ne!(run(&of(&empty, "512")), value);
    let events = run(&[&of(&empty, "512")[..], &["--events".to_owned()]].concat());
    assert_eq!(events.lines().count(), 8 + 3 + 2 + 1, "{events}");
    assert!(events.contains(" ACPI: etc/acpi/rsdp\n"), "{events}");

    assert!(fail(&of(&filled, "512")).contains("comes with variables"));
    assert!(fail(&of(&older, "512")).contains("does not measure the machine's ACPI tables"));
    assert!(fail(&of(&silent, "512")).contains("does not tell what it measures"));
    assert!(fail(&of(&empty, "4")).contains("is not in the memory"));
    files.write("etc/table-loader", script(&["../etc/acpi/rsdp"]));
    assert!(fail(&of(&empty, "512")).contains("leads out of the directory"));
}

#[test]
fn tdx_refuses_what_it_cannot_measure() {
    let files = Files::new();
    let (kernel, amdsev) = (files.write("kernel", "kernel"), files.write("amdsev", Image::amdsev().build()));
    let message = failure(1, &["measure", "tdx", "--rtmr1", "--kernel", &kernel]);
    assert!(message.contains(&kernel) && message.contains("no PE image"), "{message}");
    let message = failure(1, &["measure", "tdx", "--firmware", &amdsev]);
    assert!(message.contains("no TDVF metadata"), "{message}");
    for usage in [
        &[][..],
        &["--rtmr1"],
        &["--rtmr2"],
        &["--rtmr1", "--kernel", &kernel, "--append", "x"],
        &["--firmware", &amdsev, "--kernel", &kernel],
        &["--firmware", &amdsev, "--events"],
        &["--rtmr1", "--kernel", &kernel, "--two-pass"],
        &["--rtmr1", "--rtmr2", "--kernel", &kernel, "--append", "x"],
        &["--rtmr2", "--append", "x", "--initrd-option", "after"],
        &["--rtmr0", "--firmware", &amdsev, "--memory", "512"],
        &["--firmware", &amdsev, "--memory", "512", "--acpi", "/"],
        &["--rtmr0", "--rtmr1", "--kernel", &kernel],
    ] {
        failure(2, &[&["measure", "tdx"], usage].concat());
    }
}

#[test]
fn initdata_goes_through_all_its_forms() {
    let files = Files::new();
    let policy = files.write("policy.rego", "package agent_policy\n");
    let aa = files.write("my-aa", "[token_configs]\n");
    let named = format!("aa.toml={aa}");
    let build = ["initdata", "build", "--file", &policy, "--file", &named, "--algorithm", "sha256"];
    let document = files.write("initdata.toml", stdout(&build));
    let as_form = |form| stdout(&["initdata", "build", "--document", &document, "--form", form]);
    let annotation = files.write("annotation", as_form("annotation"));
    let disk = files.write("disk", as_form("disk"));
    assert_eq!(fs::read(&document).unwrap(), as_form("document"));
    assert_eq!(fs::metadata(&disk).unwrap().len() % 512, 0);

    let digest = text(&["measure", "initdata", &document]);
    assert_eq!(digest.trim_end().len(), 64);
    let mrconfigid = format!("{}{}\n", digest.trim_end(), "0".repeat(32));
    for (file, form) in [(&document, "document"), (&annotation, "annotation"), (&disk, "disk")] {
        assert_eq!(text(&["measure", "initdata", file]), digest);
        assert_eq!(text(&["measure", "initdata", file, "--field", "host-data"]), digest);
        assert_eq!(text(&["measure", "initdata", file, "--field", "mrconfigid"]), mrconfigid);
        let object = json(&["initdata", "inspect", file, "--output", "json"]);
        assert_eq!((&object["form"], &object["algorithm"]), (&form.into(), &"sha256".into()));
        assert_eq!(object["digest"], digest.trim_end());
        assert_eq!(object["data"]["aa.toml"], "[token_configs]\n");
        let shown = text(&["initdata", "inspect", file]);
        assert!(shown.contains(&format!("form        {form}\n")) && shown.contains("policy.rego"), "{shown}");
    }
    let object = json(&["measure", "initdata", &disk, "-o", "json"]);
    assert_eq!(object["mrconfigid"], mrconfigid.trim_end());
}

/// One that another tool made, or a hand.
#[test]
fn a_document_that_the_guest_cannot_read_is_refused_by_its_entry() {
    let files = Files::new();
    let document = |policy: &str| {
        let text = format!(
            "version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"policy.rego\" = \"\"\"\n{policy}\"\"\"\nnotes = \"{{\"\n"
        );
        files.write("initdata.toml", text)
    };
    let broken = document("package agent_policy\n\nallow := {\n");
    for form in ["document", "annotation", "disk"] {
        let message = failure(1, &["initdata", "build", "--document", &broken, "--form", form]);
        for words in [&broken, "\"policy.rego\"", "it is no policy in Rego"] {
            assert!(message.contains(words), "{words}: {message}");
        }
    }
    // It can be looked at all the same.
    let shown = text(&["initdata", "inspect", &broken]);
    let wrong: Vec<&str> = shown.lines().filter(|line| line.starts_with("wrong ")).collect();
    assert!(matches!(wrong[..], [line] if line.contains("\"policy.rego\": it is no policy")), "{shown}");
    let object = json(&["initdata", "inspect", &broken, "-o", "json"]);
    assert!(object["wrong"]["policy.rego"].as_str().unwrap().contains("no policy in Rego"), "{object}");
    let sound = document("package agent_policy\n");
    let build = stdout(&["initdata", "build", "--document", &sound]);
    assert_eq!(build, fs::read(&sound).unwrap());
    assert!(!text(&["initdata", "inspect", &sound]).contains("wrong"));
}

#[test]
fn initdata_that_is_none_is_refused() {
    let files = Files::new();
    let (text, binary) = (files.write("a.toml", "x"), files.write("binary", [0xff]));
    let iana = files.write("iana", "version = \"0.1.0\"\nalgorithm = \"sha-384\"\n[data]\n");
    let message = failure(1, &["measure", "initdata", &iana]);
    assert!(message.contains(&iana) && message.contains("use sha256, sha384 or sha512"), "{message}");
    let disk = files.write("disk", [b"initdata", &[0xff; 8][..], &[0; 496]].concat());
    let message = failure(1, &["initdata", "inspect", &disk]);
    assert!(message.contains("the disk says that the document has 18446744073709551615 bytes"), "{message}");
    let message = failure(1, &["initdata", "build", "--file", &binary]);
    assert!(message.contains("cannot use the initdata entry") && message.contains(&binary), "{message}");
    let message = failure(1, &["initdata", "build", "--file", &text, "--file", &format!("a.toml={text}")]);
    assert!(message.contains("two files have the name \"a.toml\""), "{message}");
    let large = files.write("large", vec![b'#'; (8 << 20) + 1]);
    let message = failure(1, &["initdata", "inspect", &large]);
    assert!(message.contains("has more than 8388608 bytes"), "{message}");
    assert!(Path::new(&large).exists());
    failure(2, &["initdata", "build"]);
    failure(2, &["initdata", "build", "--file", &text, "--document", &iana]);
    failure(2, &["initdata", "build", "--file", &text, "--algorithm", "sha-384"]);
}
