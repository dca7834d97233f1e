//! Which lines of the rules requests reach.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regorus::coverage::Report;

use crate::engine::POLICY;
use crate::{commands, files, forged, honest, lifecycle, network, scratch, table, volumes};

/// A line of a file of the rules.
type Line = (String, usize);

#[derive(Default)]
struct Reached {
    reached: BTreeSet<Line>,
    not_reached: BTreeSet<Line>,
}

thread_local! {
    static COLLECTED: RefCell<Option<Reached>> = const { RefCell::new(None) };
}

/// Whether this thread's engines take note of lines, which makes them slow.
pub(crate) fn is_collected() -> bool {
    COLLECTED.with_borrow(Option::is_some)
}

/// Takes over what one engine has reached.
pub(crate) fn add(policy: &str, report: &Report) {
    COLLECTED.with_borrow_mut(|collected| {
        let Some(Reached { reached, not_reached }) = collected else { return };
        let known = lines(policy);
        for file in report.files.iter().filter(|file| file.path == POLICY) {
            let of = |line: &u32| known.get(&(*line as usize)).cloned();
            reached.extend(file.covered.iter().filter_map(of));
            not_reached.extend(file.not_covered.iter().filter_map(of));
        }
    });
}

/// The policy's lines that are the rules', by number.
fn lines(policy: &str) -> BTreeMap<usize, Line> {
    let mut known = BTreeMap::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules");
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let start = policy.find(&text).unwrap_or_else(|| panic!("{} is not in the policy", path.display()));
        let before = policy[..start].lines().count();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        known.extend((1..=text.lines().count()).map(|line| (before + line, (name.clone(), line))));
    }
    known
}

#[test]
fn every_line_of_the_rules_is_reached() {
    COLLECTED.set(Some(Reached::default()));
    honest::all();
    lifecycle::all();
    files::all();
    network::all();
    commands::all();
    forged::all();
    scratch::all();
    volumes::all();
    table::all();
    let Reached { reached, not_reached } = COLLECTED.take().unwrap();
    let missing: Vec<String> =
        not_reached.difference(&reached).map(|(file, line)| format!("{file}:{line}")).collect();
    let all = reached.union(&not_reached).count();
    println!("policy rules: {} of {all} lines reached by honest and forged requests", all - missing.len());
    assert!(all > 500, "{all} lines");
    assert_eq!(missing, Vec::<String>::new(), "not reached");
}
