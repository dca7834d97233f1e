use proptest::prelude::*;

use super::*;

const YAML: &str = r#"
cdiVersion: "0.5.0"
kind: nvidia.com/pgpu
containerEdits:
  env: [A=b]
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/devices/vfio3
      major: 511
- name: "1"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu
      hostPath: /dev/vfio/devices/vfio4
- name: none
"#;

fn specs(files: &[(&str, &str)]) -> (tempfile::TempDir, Specs) {
    let root = tempfile::tempdir().unwrap();
    let folders = ["etc", "run"].map(|folder| root.path().join(folder));
    for (file, text) in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let specs = Specs::read(&folders);
    (root, specs)
}

fn nodes(mut specs: Specs, name: &str) -> Result<Vec<PathBuf>, Error> {
    specs.nodes(&name.parse().unwrap())
}

#[test]
fn yaml_and_json_say_the_same() {
    let value = yaml::parse(YAML).unwrap();
    for (file, text) in [("etc/a.yaml", YAML.to_owned()), ("run/a.json", value.to_string())] {
        let files = [(file, text.as_str()), ("etc/README", "?")];
        let node = |name| nodes(specs(&files).1, name).unwrap();
        assert_eq!(node("nvidia.com/pgpu=0"), [Path::new("/dev/vfio/devices/vfio3")]);
        assert_eq!(node("nvidia.com/pgpu=1"), [Path::new("/dev/vfio/devices/vfio4")]);
        assert!(node("nvidia.com/pgpu=none").is_empty());
    }
}

#[test]
fn an_unknown_device_is_told_with_the_known_ones_and_the_broken_files() {
    let (_root, specs) = specs(&[("etc/a.yaml", YAML), ("etc/b.yaml", "kind: ["), ("etc/c.json", "{}")]);
    let text = nodes(specs, "nvidia.com/pgpu=7").unwrap_err().to_string();
    for part in
        ["has device nvidia.com/pgpu=7", "there are 0, 1, none", "b.yaml is no YAML", "c.json is no CDI"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_later_folder_wins_and_two_files_of_one_folder_do_not() {
    let other = YAML.replace("vfio3", "vfio9");
    let (_root, found) = specs(&[("etc/a.yaml", YAML), ("run/a.yaml", &other)]);
    assert_eq!(nodes(found, "nvidia.com/pgpu=0").unwrap(), [Path::new("/dev/vfio/devices/vfio9")]);
    let (_root, found) = specs(&[("etc/a.yaml", YAML), ("etc/b.yaml", &other)]);
    assert!(matches!(nodes(found, "nvidia.com/pgpu=0"), Err(Error::Conflict { .. })));
}

#[test]
fn hostile_specs_are_refused() {
    let deep = format!("{}1", "- ".repeat(100));
    for (text, part) in [
        ("a: &x [1]\nb: *x", "aliases"),
        ("kind: a\nkind: b", "twice"),
        (deep.as_str(), "levels"),
        ("", "empty"),
        ("? [a]\n: b", "no text"),
    ] {
        let error = parse(text, false).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let version = YAML.replace("0.5.0", "2.0.0");
    assert!(matches!(parse(&version, false), Err(BadSpec::Version(_))));
    let (root, _) = specs(&[("etc/a.json", &" ".repeat(5 << 20))]);
    assert!(matches!(read(&root.path().join("etc/a.json")), Err(BadSpec::TooLarge)));
}

#[test]
fn names_are_checked() {
    let all = names("nvidia.com/pgpu=0, vendor.io/net-x=a:b").unwrap();
    assert_eq!(
        all.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["nvidia.com/pgpu=0", "vendor.io/net-x=a:b"]
    );
    for bad in
        ["", "x", "nvidia.com=0", "nvidia.com/gpu", "nvidia.com/gpu=", "nvidia.com/gpu=../x", "a/b=c,,"]
    {
        assert!(names(bad).is_err(), "{bad}");
    }
    let name = |text: &str| text.parse::<Name>().unwrap();
    assert!(name("nvidia.com/GH100_H200_141GB=3").is_nvidia());
    assert!(!name("nvidia.com.evil.org/gpu=0").is_nvidia());
}

proptest! {
    #[test]
    fn any_text_is_safe(text in "(?s).{0,200}") {
        let _ = parse(&text, false);
        let _ = parse(&text, true);
        if let Ok(name) = text.parse::<Name>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn almost_a_spec_is_safe(cut in 0..YAML.len(), noise in "[-:\\[\\]{}&*!|>'\"%@#\\s\\w]{0,6}") {
        let text = format!("{}{noise}{}", &YAML[..cut], &YAML[cut..]);
        let _ = parse(&text, false);
    }
}
