//! Texts: files, the files of directories, standard input.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pod_manifest::yaml;

use super::report::{At, Report};
use crate::files::{Kind, is_stdin};

/// What is read of a directory.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// Files of all directories; a chart has a few hundred.
const MAX_FILES: usize = 10_000;

/// A text and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// None is standard input.
    pub(super) path: Option<PathBuf>,
    /// Its place below the directory that was given, or its own name.
    pub(super) name: PathBuf,
    pub(super) text: String,
}

impl Input {
    /// Its name in messages.
    pub(super) fn label(&self) -> String {
        self.path.as_ref().map_or_else(|| "(standard input)".to_owned(), |path| path.display().to_string())
    }

    pub(super) fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.label())
    }

    pub(super) fn at(&self, line: usize, path: &yaml::Path) -> At {
        At { file: self.label(), line, path: path.clone() }
    }
}

/// Reads all; what cannot be read is a fault, and the others go on.
pub(super) fn read(paths: &[PathBuf], in_place: bool, report: &mut Report) -> Vec<Input> {
    let mut files = Vec::new();
    for path in paths {
        if is_stdin(path) {
            if in_place {
                report
                    .fault(At::default(), "standard input cannot be written in place: leave --in-place out");
            }
            files.push((None, PathBuf::from("stdin.yaml")));
        } else if path.is_dir() {
            let before = files.len();
            let mut seen = BTreeSet::new();
            walk(path, path, &mut seen, &mut files, report);
            if files.len() == before {
                let at = At { file: path.display().to_string(), ..At::default() };
                report.fault(at, "there is no .yaml, .yml or .json file in the directory");
            }
        } else {
            let name = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
            files.push((Some(path.clone()), name));
        }
    }
    files
        .into_iter()
        .filter_map(|(path, name)| {
            let text = text(path.as_deref().unwrap_or_else(|| Path::new("-")));
            match text {
                Ok(text) => Some(Input { path, name, text }),
                Err(error) => {
                    report.fault(At::default(), format!("{error:#}"));
                    None
                }
            }
        })
        .collect()
}

fn text(path: &Path) -> anyhow::Result<String> {
    let content = Kind::MANIFESTS.read(path)?;
    String::from_utf8(content).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "cannot use {}: it is no text (byte {at} is not UTF-8), and no manifest",
            path.display()
        )
    })
}

fn walk(
    root: &Path,
    directory: &Path,
    seen: &mut BTreeSet<PathBuf>,
    files: &mut Vec<(Option<PathBuf>, PathBuf)>,
    report: &mut Report,
) {
    let at = |path: &Path| At { file: path.display().to_string(), ..At::default() };
    // A link may lead back up.
    if !directory.canonicalize().is_ok_and(|real| seen.insert(real)) {
        return;
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries: Vec<PathBuf> = match entries {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(error) => return report.fault(at(directory), format!("cannot read the directory: {error}")),
    };
    entries.sort();
    for path in entries {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if path.is_dir() {
            walk(root, &path, seen, files, report);
        } else if ENDINGS.contains(&ending) {
            if files.len() >= MAX_FILES {
                return report.fault(at(directory), format!("more than {MAX_FILES} files"));
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            files.push((Some(path), name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_with_a_loop_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        symlink(dir.path(), dir.path().join("sub/up")).unwrap();
        for name in ["b.yaml", "sub/a.json", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut report = Report::default();
        let inputs = read(&[dir.path().to_path_buf()], false, &mut report);
        let names: Vec<_> = inputs.iter().map(|input| input.name.display().to_string()).collect();
        assert_eq!(names, ["b.yaml", "sub/a.json"]);
        assert!(report.is_clean());
    }

    #[test]
    fn what_cannot_be_read_is_a_fault_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
        fs::write(path("good.yaml"), "a: 1\n").unwrap();
        fs::create_dir(path("empty")).unwrap();
        let mut report = Report::default();
        let inputs = read(
            &[path("binary.yaml"), path("absent.yaml"), path("empty"), path("good.yaml")],
            false,
            &mut report,
        );
        assert_eq!(inputs.len(), 1);
        let said = report.lines();
        for word in ["binary.yaml: it is no text", "absent.yaml: No such file", "empty: there is no .yaml"] {
            assert!(said.contains(word), "{said}");
        }
    }
}
