//! Which layers a pod's policy demands, and which of an image's volumes it knows to have nothing in them, as its generator
//! notes them; for a clear error before the guest's refusal, and for a directory where the guest takes one.
//!
//! The guest decides, by the rules. The notes are comments of the policy, one line per layer, a container's topmost layer
//! first: `# layer <container> <root hash>`; and one per volume: `# volume <container> <uid>:<gid>:<mode> <path>`.

use std::collections::BTreeMap;

use guest_spec::member;
use oci_spec::runtime::Spec;
use shared_types::EmptyDirectory;
use verity::RootHash;

/// How the notes begin.
const LAYER: &str = "# layer ";
const VOLUME: &str = "# volume ";
/// More of each than a pod's containers have in all.
const MAX_NOTES: usize = 8192;

/// By the containers' names: their layers, the topmost first, and their images' volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    layers: BTreeMap<String, Vec<RootHash>>,
    volumes: BTreeMap<String, BTreeMap<String, EmptyDirectory>>,
}

impl Pinned {
    /// Reads a policy's notes; what does not look like one is none.
    pub fn of(policy: &str) -> Self {
        let notes = |prefix: &'static str| {
            let note = move |line: &str| {
                let (container, what) = line.strip_prefix(prefix)?.trim_end().split_once(' ')?;
                Some((container.to_owned(), what.to_owned()))
            };
            policy.lines().filter_map(note).take(MAX_NOTES)
        };
        let mut pinned = Self::default();
        for (container, root) in notes(LAYER) {
            if let Ok(root) = root.parse() {
                pinned.layers.entry(container).or_default().push(root);
            }
        }
        for (container, volume) in notes(VOLUME) {
            let Some((directory, place)) = volume.split_once(' ') else { continue };
            if let Ok(directory) = directory.parse() {
                pinned.volumes.entry(container).or_default().insert(place.to_owned(), directory);
            }
        }
        pinned
    }

    /// The layers that the policy demands for the container with this spec; `None` where it notes none.
    pub fn layers(&self, spec: &Spec) -> Option<&[RootHash]> {
        self.layers.get(name(spec)?).map(Vec::as_slice)
    }

    /// What the policy knows of the image's volumes that have nothing in them, by their places, as Go cleans paths.
    pub fn volumes(&self, spec: &Spec) -> &BTreeMap<String, EmptyDirectory> {
        const NONE: &BTreeMap<String, EmptyDirectory> = &BTreeMap::new();
        name(spec).and_then(|name| self.volumes.get(name)).unwrap_or(NONE)
    }
}

/// Its name in its pod. Whoever's it might be is refused before anything is made for it.
fn name(spec: &Spec) -> Option<&str> {
    member(spec).ok()??.container
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn named(name: &str) -> Spec {
        let annotations = json!({ "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": name });
        serde_json::from_value(json!({ "ociVersion": "1.1.0", "annotations": annotations })).unwrap()
    }

    #[test]
    fn notes_are_found_in_their_order() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let policy = format!(
            "package agent_policy\n# layer web {b}\n# layer web {a}\n  # layer web {a}\n# layer db nonsense\n# layer\n"
        );
        let pinned = Pinned::of(&policy);
        let expected = [b.parse().unwrap(), a.parse().unwrap()];
        assert_eq!(pinned.layers(&named("web")), Some(&expected[..]));
        assert_eq!(pinned.layers(&named("db")), None);
        assert_eq!(pinned.layers(&Spec::default()), None);
    }

    #[test]
    fn volumes_are_noted_by_their_places() {
        let policy = "# volume web 999:998:1770 /data\n# volume web 0:0:0755 /a b\n# volume db 0:0:0755 /x\n\
            # volume web /none\n# volume web\n";
        let pinned = Pinned::of(policy);
        let data = EmptyDirectory { uid: 999, gid: 998, mode: 0o1770 };
        let expected = [("/data".to_owned(), data), ("/a b".to_owned(), EmptyDirectory::NEW)].into();
        assert_eq!(pinned.volumes(&named("web")), &expected);
        assert!(pinned.volumes(&named("side")).is_empty() && pinned.volumes(&Spec::default()).is_empty());
    }

    proptest! {
        #[test]
        fn any_policy_is_read(policy in "(# (layer|volume) [a-z ]{0,8}[0-9a-f]{60,66}\n|.{0,20}\n){0,20}") {
            let _ = Pinned::of(&policy);
        }
    }
}
