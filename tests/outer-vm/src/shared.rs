//! What the VM is given in a directory of its own: its first program, and the command.

use std::io;
use std::path::{Path, PathBuf};

const INIT: &str = include_str!("../init");

/// Variables that go with the command. The others are the machine's, which the VM is not.
const PREFIXES: [&str; 2] = ["COFFER_", "RUST_"];

/// Writes all of it. `token` begins the line that tells the command's end.
pub(crate) fn write(folder: &Path, token: &str, shares: &[PathBuf], command: &[String]) -> io::Result<()> {
    let line = |(index, path): (usize, &PathBuf)| format!("share{index} {}\n", path.display());
    let shares: String = shares.iter().enumerate().map(line).collect();
    let passed = |(name, _): &(String, String)| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let mut script = format!("cd {}\n", quoted(&std::env::current_dir()?.display().to_string()));
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    for (name, value) in std::env::vars_os().filter_map(text).filter(passed) {
        script.push_str(&format!("export {name}={}\n", quoted(&value)));
    }
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    script.push_str(&format!("exec {}\n", words.join(" ")));
    for (name, content) in [("init", INIT), ("token", token), ("shares", &shares), ("command", &script)] {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
