//! What each help page ends with.

use clap::Command;

/// By the names of a command and those above it. Each line is a whole command; a test parses all, and runs those that need
/// no hardware.
const EXAMPLES: [(&[&str], &str); 40] = [
    (
        &["bind"],
        "coffer bind web.yaml > bound.yaml\nhelm template shop | coffer bind - --class coffer-snp\ncoffer bind manifests/ --check",
    ),
    (&["config"], "coffer config --output json"),
    (&["doctor"], "coffer doctor --class coffer-snp"),
    (&["completions"], "coffer completions bash > coffer.bash"),
    (&["man"], "coffer man man1/"),
    (
        &["measure"],
        "coffer measure --pod pod.yaml --class coffer-snp\ncoffer measure --pod pod.yaml --class coffer-tdx --output trustee --resource default/keys/web",
    ),
    (&["measure", "snp"], "coffer measure snp --firmware OVMF.amdsev.fd --vcpus 4 --cpu EPYC-v4"),
    (&["measure", "tdx"], "coffer measure tdx --firmware OVMF.tdx.fd"),
    (&["measure", "initdata"], "coffer measure initdata initdata.toml --field host-data"),
    (&["measure", "pod"], "coffer measure pod pod.yaml --class coffer-snp"),
    (&["measure", "acpi"], "coffer measure acpi pod.yaml --class coffer-tdx --directory acpi/"),
    (&["measure", "merge"], "coffer measure merge one.json other.json"),
    (&["measure", "diff"], "coffer measure diff guest-image/ other-image/"),
    (&["measure", "explain"], "coffer measure explain report.bin --pod pod.yaml --class coffer-snp"),
    (
        &["rehearse"],
        "coffer rehearse pod.yaml --class coffer-snp --policy policy.rego --resource default/keys/web",
    ),
    (&["measure", "image"], "coffer measure image guest-image/"),
    (
        &["measure", "id-block"],
        "coffer measure id-block --launch-digest 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff --id-key id.pem --directory blocks/",
    ),
    (&["gpu", "list"], "coffer gpu list --output json"),
    (&["gpu", "cc-mode"], "coffer gpu cc-mode on 0000:41:00.0"),
    (&["gpu", "ppcie"], "coffer gpu ppcie on --all"),
    (&["gpu", "reset"], "coffer gpu reset 0000:41:00.0"),
    (&["gpu", "bind"], "coffer gpu bind --all"),
    (&["gpu", "unbind"], "coffer gpu unbind 0000:41:00.0"),
    (&["gpu", "release"], "coffer gpu release 0000:41:00.0"),
    (
        &["image", "verity"],
        "coffer image verity oci:image\ncoffer image verity registry.example.com/web:v1 --output json",
    ),
    (
        &["image", "convert"],
        "coffer image convert --containerd /run/containerd/containerd.sock --namespace k8s.io --container web --cache /var/lib/coffer/layers",
    ),
    (&["initdata", "build"], "coffer initdata build --file policy.rego --pod pod.yaml --form annotation"),
    (&["initdata", "inspect"], "coffer initdata inspect initdata.toml"),
    (
        &["volume", "build"],
        "coffer volume build model/ --name weights --out weights.img --key key --resource kbs:///default/key/weights > volumes.toml",
    ),
    (
        &["install"],
        "coffer install --bundle coffer-0.1.0/\ncoffer install --bundle coffer-0.1.0/ --class coffer-snp",
    ),
    (&["uninstall"], "coffer uninstall\ncoffer uninstall --wait 600"),
    (&["status"], "coffer status --output json"),
    (&["pods"], "coffer pods --output json"),
    (&["timeline"], "coffer timeline 3f1c\ncoffer timeline 3f1c --svg > start.svg"),
    (&["metrics"], "coffer metrics\ncoffer metrics --listen 127.0.0.1:9464"),
    (&["logs"], "coffer logs 3f1c"),
    (&["debug"], "coffer debug 3f1c\ncoffer debug 3f1c --out report.tar"),
    (&["sweep"], "coffer sweep"),
    (&["policy", "generate"], "coffer policy generate --pod pod.yaml --image server=oci:image > policy.rego"),
    (&["policy", "check"], "coffer policy check --policy policy.rego requests.json"),
];

/// The command with examples at the end of each page.
pub(crate) fn added_to(command: Command) -> Command {
    walk(command, &[])
}

fn walk(mut command: Command, above: &[&str]) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let path = [above, &[name.as_str()]].concat();
        command = command.mut_subcommand(&name, |sub| walk(sub, &path));
    }
    let Some((_, examples)) = EXAMPLES.iter().find(|(path, _)| *path == above) else { return command };
    let lines: String = examples.lines().map(|line| format!("\n  {line}")).collect();
    let before = command.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
    command.after_help(format!("{before}Examples:{lines}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    fn pages(command: &Command, above: &[String], out: &mut Vec<Vec<String>>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = [above, &[sub.get_name().to_owned()]].concat();
            if sub.get_subcommands().next().is_none() {
                out.push(path.clone());
            }
            pages(sub, &path, out);
        }
    }

    #[test]
    fn every_page_has_examples_and_each_is_a_command() {
        let mut all = Vec::new();
        pages(&Cli::command(), &[], &mut all);
        for path in &all {
            let found = EXAMPLES.iter().find(|(known, _)| known == path);
            assert!(found.is_some(), "{path:?} has no example");
        }
        for (path, examples) in EXAMPLES {
            for line in examples.lines() {
                let command = line.rsplit("| ").next().unwrap_or(line).split(" > ").next().unwrap_or(line);
                let parsed = added_to(Cli::command()).try_get_matches_from(command.split(' '));
                assert!(
                    parsed.is_ok(),
                    "{path:?}: {line}: {}",
                    parsed.err().map(|e| e.to_string()).unwrap_or_default()
                );
            }
        }
    }

    #[test]
    fn the_first_page_fits_a_screen() {
        let text = added_to(Cli::command()).term_width(80).render_help().to_string();
        assert!(text.lines().count() <= 24, "{} lines:\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
