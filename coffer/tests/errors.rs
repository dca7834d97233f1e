//! docs/errors.md has every text of an error that the code can say, taken from the sources: what is new there is missing here
//! until the page is written again by `COFFER_WRITE_DOCS=1 cargo test -p coffer --test errors`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where an operator's errors come from, and what that part does.
const PARTS: [(&str, &str); 18] = [
    (
        "crates/node-install",
        "`coffer install`, `uninstall`, `status`; [node.md](node.md#troubleshooting) says more of each",
    ),
    ("crates/shared-types", "words that several parts read: addresses, modes"),
    ("vmm-config", "the node's configuration, the pod's request, the VM's description"),
    ("crates/gpu-selection", "which GPUs a pod gets"),
    ("crates/gpu", "GPUs on the host: modes, resets, locks, quarantine"),
    ("crates/host-claims", "what a VM claims from the host: network, vsock, cgroup, images"),
    ("crates/jail", "the jail of QEMU and other programs"),
    ("crates/readiness", "`coffer doctor`, and the checks before a start"),
    ("crates/vmm", "a VM's boot, life and end"),
    ("crates/guest-spec", "a container's specification on its way into the guest"),
    ("crates/agent-client", "talking to the agent"),
    ("crates/layers", "images' layers"),
    ("crates/verity", "hash trees"),
    ("crates/measurement", "measurements and initdata"),
    ("crates/model-volumes", "model volumes"),
    ("crates/pod-manifest", "manifests"),
    ("crates/agent-policy", "policies"),
    ("shim", "the shim"),
];

/// An error's text with what its source says of it.
struct Entry {
    text: String,
    about: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The string literal that an `#[error(` begins with; none where it hands its cause's text on.
fn literal(rest: &str) -> Option<String> {
    let mut characters = rest.trim_start().strip_prefix('"')?.chars().peekable();
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                // A line that goes on.
                '\n' => while characters.next_if(|c| c.is_whitespace()).is_some() {},
                'n' => text.push('\n'),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

/// As a reader meets it: `{path}` stays, `{0:?}` and `{.first.0}` are `...`, with whatever is behind the colon left out.
fn shown(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        shown.push_str(before);
        if let Some(brace) = after.strip_prefix('{') {
            shown.push('{');
            rest = brace;
            continue;
        }
        let (value, after) = after.split_once('}').unwrap_or((after, ""));
        let name = value.split(':').next().unwrap_or_default();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        shown.push_str(&if is_name { format!("<{name}>") } else { "...".to_owned() });
        rest = after;
    }
    shown.push_str(rest);
    shown.replace("}}", "}").replace('\n', " ").replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;")
}

/// The documentation right above a line, attributes between them.
fn about(lines: &[&str]) -> String {
    let above = lines.iter().rev().map(|line| line.trim());
    let mut words: Vec<&str> = above
        .skip_while(|line| line.starts_with("#["))
        .map_while(|line| line.strip_prefix("///"))
        .map(str::trim)
        .collect();
    words.reverse();
    let text = words.split(|line| line.is_empty()).next().unwrap_or_default().join(" ");
    text.replace(['[', ']'], "").replace('|', "\\|")
}

fn entries(text: &str) -> Vec<Entry> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, _) in text.match_indices("#[error(") {
        let before: Vec<&str> = text[..at].lines().collect();
        let before = if text[..at].ends_with('\n') { &before[..] } else { &before[..before.len() - 1] };
        if let Some(literal) = literal(&text[at + "#[error(".len()..]) {
            // What is nothing but its parts says nothing itself.
            let own = literal.split('{').map(|part| part.split('}').next_back().unwrap_or_default());
            if own.flat_map(str::chars).any(char::is_alphabetic) {
                found.push(Entry { text: shown(&literal), about: about(before) });
            }
        }
    }
    found
}

fn page() -> String {
    let mut page = String::from(
        "# Errors\n\nEvery text of an error that shim, installer and command can say, by the part that says it. Look for a few words of the \
         message that you have. What is in `<angle brackets>` or `...` is another each time; behind a text come its causes, \
         after `: `. A text says what to do where that can be said; the second column says what the text is about. \
         [node.md](node.md#troubleshooting) has the installer's errors and what to do first when a pod does not start.\n\n\
         This page is made from the sources (`coffer/tests/errors.rs`).\n",
    );
    for (part, what) in PARTS {
        let mut files = Vec::new();
        sources(&repository().join(part).join("src"), &mut files);
        let mut all: Vec<Entry> = Vec::new();
        for file in files.iter().filter(|file| !file.to_string_lossy().contains("/tests")) {
            for entry in entries(&fs::read_to_string(file).unwrap()) {
                if !all.iter().any(|other| other.text == entry.text) {
                    all.push(entry);
                }
            }
        }
        assert!(!all.is_empty(), "{part} has no errors");
        let _ = write!(page, "\n## `{part}`: {what}\n\n| text | about |\n|---|---|\n");
        for Entry { text, about } in all {
            let _ = writeln!(page, "| {text} | {about} |");
        }
    }
    page
}

#[test]
fn every_error_of_the_code_is_on_the_page() {
    let (path, page) = (repository().join("docs/errors.md"), page());
    if std::env::var_os("COFFER_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<_> = page.lines().filter(|line| !written.lines().any(|other| other == *line)).collect();
    assert!(
        written == page,
        "docs/errors.md is out of date, write it again by COFFER_WRITE_DOCS=1; it lacks {missing:#?}"
    );
    assert!(page.lines().filter(|line| line.starts_with("| ")).count() > 200);
}

#[test]
fn texts_are_read_as_they_are_said() {
    let source = "/// What a file is.\n///\n/// More.\n#[derive(Debug)]\nenum E {\n    /// One\n    /// of two.\n    #[error(\n        \"cannot \
                  read {path}: \\\n         {0:?} or {{x}}; say \\\"so\\\"\"\n    )]\n    A,\n    #[error(transparent)]\n    B,\n    /// None.\n    #[error(\"{0}\")]\n    C,\n}\n";
    let found: Vec<_> = entries(source).into_iter().map(|entry| (entry.text, entry.about)).collect();
    assert_eq!(
        found,
        [("cannot read &lt;path&gt;: ... or {x}; say \"so\"".to_owned(), "One of two.".to_owned())]
    );
}
