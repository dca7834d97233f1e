//! From the file's text to [`NodeConfig`], with every error of the file and its line.

use std::fmt;
use std::ops::Range;

use toml::de::DeTable;

use super::{NodeConfig, Origins};

/// Largest file that is read; ours is a few hundred bytes, so more is a mistake.
pub const MAX_FILE: usize = 64 * 1024;

impl NodeConfig {
    /// Reads the file's text; `path` names it in messages. What the file does not set has its default.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigErrors> {
        let mut config = Self { origins: Origins::new(path), ..Self::default() };
        let mut errors = Vec::new();
        let mut report = |line, problem| errors.push(ConfigError { path: path.to_owned(), line, problem });
        if text.len() > MAX_FILE {
            report(1, Problem::TooLarge { bytes: text.len() });
            return Err(ConfigErrors(errors));
        }
        let lines = Lines::of(text);
        let (table, syntax) = DeTable::parse_recoverable(text);
        for error in syntax {
            let line = error.span().map_or(1, |span| lines.at(&span));
            report(line, Problem::Syntax { reason: error.message().to_owned() });
        }
        for (key, value) in table.get_ref() {
            let line = lines.at(&key.span());
            match config.set(key.get_ref(), value.get_ref()) {
                Ok(name) => config.origins.set(name, line),
                Err(problem) => report(line, problem),
            }
        }
        if errors.is_empty() {
            return Ok(config);
        }
        errors.sort_by_key(|e| e.line);
        Err(ConfigErrors(errors))
    }
}

/// One thing that is wrong with the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}:{line}: {problem}")]
pub struct ConfigError {
    /// The file.
    pub path: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong on one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such key.
    #[error("unknown key `{key}`; {}", match nearest {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`coffer config` lists the keys that exist".to_owned(),
    })]
    UnknownKey {
        /// As written.
        key: String,
        /// The existing key that is written most alike.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong type or outside its range.
    #[error("`{key}` {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, as the rest of the sentence.
        reason: String,
    },
    /// Not TOML.
    #[error("not valid TOML: {reason}")]
    Syntax {
        /// The parser's words.
        reason: String,
    },
    /// Too much to be a configuration.
    #[error("the file has {bytes} bytes; at most {MAX_FILE} are read")]
    TooLarge {
        /// The file's size.
        bytes: usize,
    },
}

/// Everything that is wrong with a configuration file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The problem of a key that does not exist.
pub(super) fn unknown(key: &str) -> Problem {
    Problem::UnknownKey { key: key.chars().take(100).collect(), nearest: nearest(key) }
}

/// The existing key at the least edit distance, if it is near enough to be meant.
fn nearest(key: &str) -> Option<&'static str> {
    let key: String = key.chars().take(100).flat_map(char::to_lowercase).map(dash_to_underscore).collect();
    NodeConfig::KEYS
        .iter()
        .map(|k| (distance(&key, k.key), k.key))
        .min()
        .filter(|(d, name)| *d <= 2.max(name.len() / 3))
        .map(|(_, name)| name)
}

fn dash_to_underscore(c: char) -> char {
    if c == '-' { '_' } else { c }
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Where the lines of a text end. A file of nothing but errors asks for each.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line, from 1, in which `span` begins.
    fn at(&self, span: &Range<usize>) -> usize {
        1 + self.0.partition_point(|end| *end < span.start)
    }
}

#[cfg(test)]
mod tests {
    use shared_types::Accelerator;

    use super::super::{AbsolutePath, AutoOr, Program, Tee};
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        NodeConfig::parse(text, "c.toml").unwrap_err().to_string()
    }

    #[test]
    fn empty_file_is_the_defaults() {
        let config = NodeConfig::parse("# nothing\n", "c.toml").unwrap();
        let defaults = NodeConfig::default();
        assert_eq!(config.entries(), defaults.entries());
        assert_eq!(config.tee, Tee::None);
    }

    #[test]
    fn defaults_obey_their_own_rules() {
        let defaults = NodeConfig::default();
        AbsolutePath::new(&defaults.image.to_string()).unwrap();
        Program::new(defaults.qemu.as_str()).unwrap();
        Program::new(defaults.vhost_device_vsock.as_str()).unwrap();
    }

    #[test]
    fn defaults_survive_a_round_trip() {
        let text: String = NodeConfig::default()
            .entries()
            .iter()
            .filter(|e| !e.value.is_null())
            .map(|e| format!("{} = {}\n", e.key, e.value))
            .collect();
        let config = NodeConfig::parse(&text, "c.toml").unwrap();
        for (read, default) in config.entries().iter().zip(NodeConfig::default().entries()) {
            assert_eq!((read.key, &read.value), (default.key, &default.value));
        }
    }

    #[test]
    fn every_key_can_be_set() {
        let config = NodeConfig::parse(
            r#"
            image = "/srv/image"
            qemu = "/usr/bin/qemu"
            qemu_users = 100000
            firmware = "/usr/share/OVMF.fd"
            vhost_device_vsock = "/opt/v"
            tee = "none"
            quote_service = "vsock:2:4050"
            snp_cpu = "EPYC-Genoa"
            snp_policy = ["no-smt"]
            snp_id_blocks = "/etc/coffer/id-blocks"
            allow_debug_image = true
            accel = "tcg"
            cc_mode = "manage"
            gpu_mode = "devtools"
            default_vcpus = 2
            default_memory_mib = 0x400
            overhead_memory_mib = 0
            max_scratch_mib = 1024
            scratch_directory = "/srv/scratch"
            allowed_annotations = ["io.katacontainers.config.hypervisor.default_vcpus"]
            "#,
            "c.toml",
        )
        .unwrap();
        assert_eq!(config.accel, AutoOr::Is(Accelerator::Tcg));
        assert_eq!(config.default_memory_mib.size().mib(), 1024);
        assert_eq!(config.allowed_annotations.len(), 1);
        assert!(config.entries().iter().all(|e| e.origin != super::super::Origin::Default));
    }

    #[test]
    fn unknown_key_names_line_and_nearest() {
        assert_eq!(
            error("accel = \"tcg\"\n\ndefault_vcpu = 2\n"),
            "c.toml:3: unknown key `default_vcpu`; did you mean `default_vcpus`?"
        );
        assert!(error("default-memory-mib = 2").ends_with("did you mean `default_memory_mib`?"));
        assert!(error("sandbox_bind_mounts = 2").ends_with("`coffer config` lists the keys that exist"));
        assert!(error("[hypervisor]\nqemu = \"q\"").contains("c.toml:1: unknown key `hypervisor`"));
    }

    #[test]
    fn all_errors_are_reported_in_order() {
        let text = "accel = \"xen\"\nimage = \"rel\"\nfoo = 1\ndefault_vcpus = 0\ndefault_memory_mib = -1\n";
        assert_eq!(
            error(text),
            "c.toml:1: `accel` is \"xen\"; values that exist: auto, kvm, tcg\n\
             c.toml:2: `image` is wrong: \"rel\" is not an absolute path\n\
             c.toml:3: unknown key `foo`; `coffer config` lists the keys that exist\n\
             c.toml:4: `default_vcpus` is wrong: 0 vCPUs is outside 1..=255\n\
             c.toml:5: `default_memory_mib` is -1; it must be a whole number from 0 on"
        );
    }

    #[test]
    fn tee_that_does_not_exist_is_refused() {
        assert_eq!(
            error("tee = \"sgx\""),
            "c.toml:1: `tee` is \"sgx\"; values that exist: none, tdx, snp, auto"
        );
    }

    #[test]
    fn wrong_types_are_named() {
        assert!(error("qemu = 3").ends_with("`qemu` is an integer; it must be a string"));
        assert!(error("default_vcpus = 1.5").ends_with("is a float; it must be a whole number"));
        assert!(error("allowed_annotations = \"x\"").ends_with("it must be a list of strings"));
        assert!(error("allowed_annotations = [\"x\"]").contains("annotations that exist: io.kata"));
        assert!(error("qemu = \"bin/qemu\"").contains("bare name"));
        assert!(error("overhead_memory_mib = 99999999").contains("above 16777216 MiB"));
    }

    #[test]
    fn syntax_errors_have_a_line() {
        assert!(error("accel = \"tcg\"\ndefault_vcpus = \n").starts_with("c.toml:2: not valid TOML: "));
        assert!(error("accel = \"tcg\"\naccel = \"kvm\"\n").starts_with("c.toml:2: not valid TOML: "));
    }

    #[test]
    fn huge_file_is_refused() {
        assert!(error(&"#".repeat(MAX_FILE + 1)).contains("at most 65536 are read"));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_config_or_errors(text in "\\PC{0,200}") {
            if let Err(errors) = NodeConfig::parse(&text, "c.toml") {
                prop_assert!(errors.iter().next().is_some());
            }
        }

        #[test]
        fn distance_is_symmetric_and_zero_on_equals(a in "[a-z_]{0,12}", b in "[a-z_]{0,12}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
        }
    }
}
