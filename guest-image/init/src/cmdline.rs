//! The kernel's command line: a closed list of keys, each at most once.
//!
//! The host writes the line. In a confidential VM it is measured, but a key that nobody thought of when the
//! measurement was compared would be believed; so what is not on the list ends the boot. The agent reads the same line and
//! splits it at every space, quotes or not (kata-agent 4.1.0, `src/agent/src/config.rs`): what stands within quotes
//! must mean nothing to it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use shared_types::kernel_keys::{ALWAYS, INSIGHT, NO_COMPONENTS, STANDIN};

use crate::profile::Profile;

/// Values that a release image has; other keys may have any.
const RELEASE_VALUES: [(&str, &str); 6] = [
    NO_COMPONENTS,
    ("agent.log", "warn"),
    ("console", "null"),
    ("panic", "-1"),
    ("root", "/dev/dm-0"),
    ("rootfstype", "erofs"),
];

/// Beginnings of words that mean something to the agent.
const AGENTS: [&str; 3] = ["agent.", "cgroup_no_v1", "systemd."];

/// Why the line is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A key that is not on the list.
    #[error("the kernel's command line has the key `{0}`, which is not on this image's list")]
    Unknown(String),
    /// A key that is there twice.
    #[error("the kernel's command line has the key `{0}` twice")]
    Twice(String),
    /// Another value than the image's.
    #[error("the kernel's command line has `{key}={value}`, and a release image has `{key}={wanted}`")]
    Value { key: String, value: String, wanted: &'static str },
    /// A character outside printable ASCII: other spaces than the kernel's would part words for the agent.
    #[error("the kernel's command line has byte {0:#04x}")]
    Byte(u8),
    /// Quotes that do not enclose a whole value, or words in it that the agent would take for its own.
    #[error("the kernel's command line has quotes around more or less than the value of `dm-mod.create`")]
    Quotes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The line cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] CmdlineError),
}

/// Checks `/proc/cmdline` below `root`.
///
/// # Errors
///
/// [`ReadError`].
pub fn check(root: &Path, profile: Profile) -> Result<(), ReadError> {
    let path = root.join("proc/cmdline");
    let line = fs::read(&path).map_err(|source| ReadError::Read { path, source })?;
    Ok(check_line(&String::from_utf8_lossy(&line), profile)?)
}

fn check_line(line: &str, profile: Profile) -> Result<(), CmdlineError> {
    let line = line.trim_end_matches('\n');
    if let Some(byte) = line.bytes().find(|byte| *byte != b' ' && !byte.is_ascii_graphic()) {
        return Err(CmdlineError::Byte(byte));
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut rest = line.trim_matches(' ');
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        rest = after.trim_start_matches(' ');
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if !known(key, profile) {
            return Err(CmdlineError::Unknown(key.chars().take(60).collect()));
        }
        if seen.contains(&key) {
            return Err(CmdlineError::Twice(key.to_owned()));
        }
        seen.push(key);
        let wanted = RELEASE_VALUES.into_iter().find(|(name, _)| profile == Profile::Release && *name == key);
        if let Some((_, wanted)) = wanted.filter(|(_, wanted)| value != *wanted) {
            let value = value.chars().take(60).collect();
            return Err(CmdlineError::Value { key: key.to_owned(), value, wanted });
        }
    }
    Ok(())
}

/// The first word, with its quotes, and what follows it.
fn word(text: &str) -> Result<(&str, &str), CmdlineError> {
    let end = text.find([' ', '"']).unwrap_or(text.len());
    if !text[end..].starts_with('"') {
        return Ok(text.split_at(end));
    }
    let opened = &text[end + 1..];
    let closed = opened.find('"').ok_or(CmdlineError::Quotes)?;
    let (quoted, after) = (&opened[..closed], &opened[closed + 1..]);
    let agents = |word: &str| AGENTS.iter().any(|begin| word.starts_with(begin));
    let whole = text[..end].eq("dm-mod.create=") && (after.is_empty() || after.starts_with(' '));
    if !whole || quoted.split_ascii_whitespace().any(agents) {
        return Err(CmdlineError::Quotes);
    }
    Ok(text.split_at(end + closed + 2))
}

fn known(key: &str, profile: Profile) -> bool {
    let insight = profile != Profile::Release && INSIGHT.contains(&key);
    ALWAYS.contains(&key) || insight || (profile == Profile::Dev && key == STANDIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "dm-mod.create=\"coffer-root,,,ro,0 8 verity 1 /dev/vda /dev/vda 4096 4096 1 1 sha256 ab cd 1 \
                         panic_on_corruption\"";

    fn line(first: &str, last: &str) -> String {
        format!("{first} quiet panic=-1 root=/dev/dm-0 rootfstype=erofs ro {TABLE}{last}\n")
    }

    #[test]
    fn the_lines_of_the_builder_are_taken() {
        assert_eq!(check_line(&line("console=ttyS0", ""), Profile::Dev), Ok(()));
        assert_eq!(check_line(&line("console=ttyS0", " agent.log=debug"), Profile::Debug), Ok(()));
        assert_eq!(check_line(&line("console=null", " agent.log=warn"), Profile::Release), Ok(()));
    }

    #[test]
    fn the_stand_ins_faults_are_for_dev_images() {
        let asked = line("console=ttyS0", " coffer.standin=die-at=CreateSandbox");
        assert_eq!(check_line(&asked, Profile::Dev), Ok(()));
        for profile in [Profile::Debug, Profile::Release] {
            let error = check_line(&line("console=null", " coffer.standin=die"), profile).unwrap_err();
            assert_eq!(error, CmdlineError::Unknown("coffer.standin".into()));
        }
    }

    #[test]
    fn what_looks_inside_is_on_no_release_images_list() {
        for word in [
            "agent.debug_console",
            "agent.debug_console_vport=1026",
            "agent.log_vport=1025",
            "agent.trace=true",
            "agent.devmode",
            "agent.config_file=/run/a.toml",
            "agent.policy_file=/run/a.rego",
            "agent.server_addr=vsock://-1:1",
            "agent.passfd_listener_port=1027",
            "agent.guest_components_rest_api=all",
            "agent.https_proxy=http://a",
            "systemd.unified_cgroup_hierarchy=0",
            "init=/bin/sh",
            "rdinit=/bin/sh",
            "single",
            "--",
            "mitigations=off",
            "dm_mod.create=x",
            "Root=/dev/vda",
            "loglevel=7",
            "initrd=initrd",
        ] {
            let key = word.split('=').next().unwrap().to_owned();
            let checked = check_line(&line("console=null", &format!(" {word}")), Profile::Release);
            assert_eq!(checked, Err(CmdlineError::Unknown(key)), "{word}");
        }
    }

    #[test]
    fn a_key_counts_once() {
        for (more, key) in [
            ("root=/dev/vda", "root"),
            ("quiet", "quiet"),
            ("console=ttyS0", "console"),
            (TABLE, "dm-mod.create"),
        ] {
            let checked = check_line(&line("console=null", &format!(" {more}")), Profile::Release);
            assert_eq!(checked, Err(CmdlineError::Twice(key.into())), "{more}");
        }
    }

    #[test]
    fn a_release_image_has_its_own_values() {
        let error = check_line(&line("console=ttyS0", ""), Profile::Release).unwrap_err();
        assert!(error.to_string().contains("`console=null`"), "{error}");
        let components = line("console=null", " agent.guest_components_procs=none");
        assert_eq!(check_line(&components, Profile::Release), Ok(()));
        let error =
            check_line(&components.replace("=none", "=api-server-rest"), Profile::Release).unwrap_err();
        assert!(error.to_string().contains("`agent.guest_components_procs=none`"), "{error}");
        let error = check_line(&line("console=null", " agent.log=trace"), Profile::Release).unwrap_err();
        assert!(matches!(error, CmdlineError::Value { .. }), "{error}");
        let other_root = line("console=null", "").replace("/dev/dm-0", "/dev/vdb");
        assert!(matches!(check_line(&other_root, Profile::Release), Err(CmdlineError::Value { .. })));
    }

    #[test]
    fn quotes_hide_nothing_from_the_agent() {
        for word in [
            "dm-mod.create=\"a agent.debug_console b\"",
            "dm-mod.create=\"a systemd.unified_cgroup_hierarchy=0\"",
            "dm-mod.create=\"agent.trace=1\"",
            "agent.log=\"warn agent.debug_console\"",
            "dm-mod.create=\"a\"b",
            "dm-mod.create=a\"b\"",
            "\"quiet\"",
            "root=\"/dev/dm-0",
            "quiet\"",
        ] {
            for profile in [Profile::Dev, Profile::Release] {
                assert_eq!(check_line(word, profile), Err(CmdlineError::Quotes), "{word}");
            }
        }
        let tab = check_line("panic=-1\tagent.debug_console", Profile::Dev);
        assert_eq!(tab, Err(CmdlineError::Byte(b'\t')));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_an_error() {
        let error = check(Path::new("/nowhere"), Profile::Release).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/proc/cmdline");
    }
}
