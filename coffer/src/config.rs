//! `coffer config`: the effective configuration of this node.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use vmm_config::config::{Entry, FILE, MAX_FILE, NodeConfig, Origin};

use crate::files::is_stdin;

/// Arguments of `coffer config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file [default: /etc/coffer/config.toml, or the built-in values if that is absent]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// A configuration file with every key, its meaning and its origin in comments
    Text,
    /// A list of objects
    Json,
    /// A page of documentation
    Markdown,
}

/// Prints the effective configuration.
///
/// # Errors
/// A file that cannot be read, and everything that is wrong with its content.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let config = effective(args.config.as_deref())?;
    match args.output {
        Output::Text => text(&config.entries(), out)?,
        Output::Json => json(&config.entries(), out)?,
        Output::Markdown => markdown(&config.entries(), out)?,
    }
    Ok(())
}

/// The configuration of the named file, or of this node.
///
/// # Errors
/// As [`run`]'s.
pub(crate) fn effective(file: Option<&Path>) -> Result<NodeConfig> {
    match file {
        Some(path) => read(path).with_context(|| unreadable(path)),
        None => read_default(Path::new(FILE)),
    }
}

/// The file's configuration, or the built-in one where there is no file.
fn read_default(path: &Path) -> Result<NodeConfig> {
    match read(path) {
        Err(error) if is_absent(&error) => Ok(NodeConfig::default()),
        other => other.with_context(|| unreadable(path)),
    }
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound)
}

fn unreadable(path: &Path) -> String {
    format!("cannot use the configuration file {}", path.display())
}

fn read(path: &Path) -> Result<NodeConfig> {
    let mut text = String::new();
    // One byte more than is parsed, so that the parser sees that there is too much.
    let limit = MAX_FILE as u64 + 1;
    if is_stdin(path) {
        io::stdin().lock().take(limit).read_to_string(&mut text)?;
    } else {
        File::open(path)?.take(limit).read_to_string(&mut text)?;
    }
    Ok(NodeConfig::parse(&text, &path.display().to_string())?)
}

fn text(entries: &[Entry], out: &mut impl Write) -> io::Result<()> {
    for (i, Entry { key, value, origin, doc }) in entries.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        for line in doc.lines() {
            writeln!(out, "# {}", line.trim())?;
        }
        let origin = match origin {
            Origin::Default => "default".to_owned(),
            Origin::File { path, line } => format!("{path}:{line}"),
        };
        if value.is_null() {
            writeln!(out, "# {key} is not set  # {origin}")?;
        } else {
            // JSON's strings, numbers and lists of strings are TOML's.
            writeln!(out, "{key} = {value}  # {origin}")?;
        }
    }
    Ok(())
}

/// What `docs/configuration.md` is.
fn markdown(entries: &[Entry], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "# Configuration\n\nThe keys of a configuration file. `coffer config --output markdown` prints this page."
    )?;
    for Entry { key, value, doc, .. } in entries {
        let value = if value.is_null() { "unset".to_owned() } else { format!("`{value}`") };
        writeln!(out, "\n## `{key}`\n")?;
        for line in doc.lines() {
            writeln!(out, "{}", line.trim())?;
        }
        writeln!(out, "\nDefault: {value}")?;
    }
    Ok(())
}

fn json(entries: &[Entry], out: &mut impl Write) -> Result<()> {
    let list: Vec<serde_json::Value> = entries
        .iter()
        .map(|Entry { key, value, origin, doc }| {
            let origin = match origin {
                Origin::Default => serde_json::json!("default"),
                Origin::File { path, line } => serde_json::json!({ "file": path, "line": line }),
            };
            let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
            serde_json::json!({ "key": key, "value": value, "origin": origin, "doc": doc })
        })
        .collect();
    writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn output(content: &str, output: Output) -> Result<String> {
        let (_dir, path) = file(content);
        let mut out = Vec::new();
        run(&Args { config: Some(path), output }, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn text_is_a_configuration_file_with_the_same_values() {
        let content = "accel = \"tcg\"\nallowed_annotations = \
                       [\"io.katacontainers.config.hypervisor.default_vcpus\"]\n";
        let printed = output(content, Output::Text).unwrap();
        let values = |text: &str| -> Vec<_> {
            let config = NodeConfig::parse(text, "c").unwrap();
            config.entries().into_iter().map(|e| (e.key, e.value)).collect()
        };
        assert_eq!(values(&printed), values(content));
        assert!(printed.contains("config.toml:1\n") && printed.contains("# default\n"), "{printed}");
        assert!(printed.contains("# firmware is not set  # default\n"), "{printed}");
    }

    #[test]
    fn the_documented_keys_are_those_that_there_are() {
        let documented = include_str!("../../docs/configuration.md");
        let printed = output("", Output::Markdown).unwrap();
        assert_eq!(
            printed, documented,
            "coffer config --config /dev/null --output markdown > docs/configuration.md"
        );
    }

    #[test]
    fn json_has_key_value_origin_and_meaning() {
        let printed = output("\ndefault_vcpus = 2\n", Output::Json).unwrap();
        let list: Vec<serde_json::Value> = serde_json::from_str(&printed).unwrap();
        assert_eq!(list.len(), NodeConfig::KEYS.len());
        let entry = list.iter().find(|e| e["key"] == "default_vcpus").unwrap();
        assert_eq!((&entry["value"], &entry["origin"]["line"]), (&2.into(), &2.into()));
        assert!(entry["doc"].as_str().unwrap().starts_with("vCPUs of a pod"));
        assert_eq!(list.iter().find(|e| e["key"] == "tee").unwrap()["origin"], "default");
    }

    #[test]
    fn errors_name_file_line_and_nearest_key() {
        let error = format!("{:#}", output("quemu = \"q\"\ntee = \"sgx\"\n", Output::Text).unwrap_err());
        assert!(error.contains("config.toml:1: unknown key `quemu`; did you mean `qemu`?"), "{error}");
        assert!(error.contains("config.toml:2: `tee` is \"sgx\"; values that exist: none"), "{error}");
    }

    #[test]
    fn a_named_file_must_exist_and_the_default_one_need_not() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent.toml");
        let args = Args { config: Some(absent.clone()), output: Output::Text };
        let error = format!("{:#}", run(&args, &mut Vec::new()).unwrap_err());
        assert!(error.contains("absent.toml") && error.contains("No such file"), "{error}");
        assert_eq!(read_default(&absent).unwrap(), NodeConfig::default());
    }

    #[test]
    fn a_default_file_that_is_wrong_is_an_error() {
        let (_dir, path) = file("x = 1");
        assert!(read_default(&path).is_err());
    }

    #[test]
    fn a_huge_file_is_not_read_to_its_end() {
        let error = output(&"#".repeat(MAX_FILE * 2), Output::Text).unwrap_err();
        assert!(format!("{error:#}").contains("bytes; at most"), "{error:#}");
    }
}
