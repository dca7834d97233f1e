//! Which layers a pod's policy demands, and which of an image's volumes it knows to have nothing in them, as its generator
//! notes them; for a clear error before the guest's refusal, and for a directory where the guest takes one.
//!
//! The guest decides, by the rules. The notes are comments of the policy, one line per layer, a container's topmost layer
//! first: `# layer <container> <root hash>`; and one per volume: `# volume <container> <path>`.

use std::collections::{BTreeMap, BTreeSet};

use guest_spec::member;
use oci_spec::runtime::Spec;
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
    volumes: BTreeMap<String, BTreeSet<String>>,
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
        for (container, place) in notes(VOLUME) {
            pinned.volumes.entry(container).or_default().insert(place);
        }
        pinned
    }

    /// The layers that the policy demands for the container with this spec; `None` where it notes none.
    pub fn layers(&self, spec: &Spec) -> Option<&[RootHash]> {
        self.layers.get(name(spec)?).map(Vec::as_slice)
    }

    /// The places of the image's volumes, as Go cleans paths, that the policy knows to have nothing in them.
    pub fn volumes(&self, spec: &Spec) -> &BTreeSet<String> {
        const NONE: &BTreeSet<String> = &BTreeSet::new();
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
        let pinned = Pinned::of("# volume web /data\n# volume web /a b\n# volume db /x\n# volume web\n");
        assert_eq!(pinned.volumes(&named("web")), &["/data".to_owned(), "/a b".to_owned()].into());
        assert!(pinned.volumes(&named("side")).is_empty() && pinned.volumes(&Spec::default()).is_empty());
    }

    proptest! {
        #[test]
        fn any_policy_is_read(policy in "(# (layer|volume) [a-z ]{0,8}[0-9a-f]{60,66}\n|.{0,20}\n){0,20}") {
            let _ = Pinned::of(&policy);
        }
    }
}
