//! The shims' log lines, as containerd keeps them: logfmt, a sandbox's lines with `sandbox=ID`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::files::is_stdin;

/// Which pod, and where its shim's log is.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The sandbox's id, or its beginning
    #[arg(value_name = "POD")]
    pod: String,
    /// File with containerd's log [default: the journal of containerd's unit]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl Which {
    /// What was asked for.
    pub(super) fn pod(&self) -> &str {
        &self.pod
    }

    /// The file that was named.
    pub(super) fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// The lines of the pod.
    pub(super) fn lines(&self) -> Result<Vec<Line>> {
        let of_pod = |text: io::Result<String>| match text {
            Ok(text) => Line::parse(&text).filter(|line| line.is_of(&self.pod)).map(Ok),
            Err(error) => Some(Err(error)),
        };
        let read = source(self.log.as_deref())?;
        read.lines().filter_map(of_pod).collect::<io::Result<_>>().context("cannot read the log")
    }
}

/// Whose lines are asked for: whichever runs containerd. k3s and rke2 have them in their own unit's journal or in a file.
const JOURNAL: [&str; 5] =
    ["--output=cat", "--no-pager", "--unit=containerd", "--unit=k0sworker", "--unit=crio"];

/// The log: a file's, or the journal's.
pub(super) fn source(log: Option<&Path>) -> Result<Box<dyn BufRead + Send>> {
    match log {
        Some(path) if is_stdin(path) => Ok(Box::new(BufReader::new(io::stdin()))),
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Box::new(BufReader::new(file)))
        }
        None => journal(&[]),
    }
}

/// The journal, with more options of journalctl's.
pub(super) fn journal(options: &[&str]) -> Result<Box<dyn BufRead + Send>> {
    let mut child = Command::new("journalctl")
        .args(JOURNAL)
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot ask journalctl for containerd's log: name a file with --log")?;
    let output = child.stdout.take().context("journalctl has no output")?;
    Ok(Box::new(BufReader::new(output)))
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    values: Vec<(String, String)>,
}

impl Line {
    /// `key=value` and `key="quoted value"`, with spaces between; `None` without time and message.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mut values, mut rest) = (Vec::new(), text.trim());
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=')?;
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted_value(quoted)?,
                None => {
                    let end = after.find(' ').unwrap_or(after.len());
                    (after[..end].to_owned(), &after[end..])
                }
            };
            values.push((key.trim().to_owned(), value));
            rest = after.trim_start();
        }
        let line = Self { values };
        (line.get("time").is_some() && line.get("msg").is_some()).then_some(line)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The id of the sandbox that it is about.
    pub(super) fn sandbox(&self) -> &str {
        self.get("sandbox").unwrap_or_default()
    }

    fn is_of(&self, pod: &str) -> bool {
        !pod.is_empty() && self.sandbox().starts_with(pod)
    }

    /// What happened, with what it is about.
    pub(super) fn told(&self) -> String {
        const FRAME: [&str; 7] = ["time", "level", "msg", "sandbox", "namespace", "runtime", "ms"];
        let about = self.values.iter().filter(|(key, _)| !FRAME.contains(&key.as_str()));
        about.fold(self.get("msg").unwrap_or_default().to_owned(), |text, (key, value)| {
            format!("{text}  {key} {value}")
        })
    }

    /// As it is printed: time, level, and what is told.
    pub(super) fn shown(&self) -> String {
        let get = |key| self.get(key).unwrap_or_default();
        format!("{} {:<7} {}", get("time"), get("level"), self.told())
    }

    /// Milliseconds since 1970, from `2026-01-31T23:59:59.999888777Z`.
    pub(super) fn time_ms(&self) -> Option<u64> {
        let time: Timestamp = self.get("time")?.parse().ok()?;
        u64::try_from(time.as_millisecond()).ok()
    }
}

/// Up to the closing quote, and what is behind it; `\"` and `\\` stand for themselves.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"time="2026-11-28T12:59:21.254665059Z" level=info msg="GPU: reset" gpu=0000:40:00.0 why="a \"b\"" sandbox=abc1 namespace=k8s.io runtime=coffer"#;

    #[test]
    fn a_line_is_taken_apart() {
        let line = Line::parse(LINE).unwrap();
        assert_eq!((line.sandbox(), line.get("why")), ("abc1", Some("a \"b\"")));
        assert_eq!(line.told(), "GPU: reset  gpu 0000:40:00.0  why a \"b\"");
        // `date --date=2026-11-28T12:59:21Z +%s`
        assert_eq!(line.time_ms(), Some(1_795_870_761_254));
        assert!(line.is_of("abc") && !line.is_of("b") && !line.is_of(""));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "no line", "time=1", "msg=\"open", "time=\"1\" msg=\"a\\", "=", "\"\"=\""] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }
}
