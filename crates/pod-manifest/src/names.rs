//! How the pods of a template are called, and their hosts.

/// Letters of what the cluster makes up (Kubernetes, `apimachinery/pkg/util/rand`).
const LETTER: &str = "[bcdfghjklmnpqrstvwxz2456789]";
/// Most letters of a name to which the cluster adds five (`apiserver/pkg/storage/names`).
const MAX_BASE: usize = 58;

/// Which names a pod may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// One.
    Exact(String),
    /// Those that a regular expression matches; it is anchored.
    Pattern(String),
}

impl Default for Names {
    fn default() -> Self {
        Self::any()
    }
}

impl Names {
    /// Any name that Kubernetes takes.
    pub fn any() -> Self {
        Self::Pattern("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$".to_owned())
    }

    /// A beginning that is in the manifest, and what the cluster adds.
    pub(crate) fn generated(base: &str) -> Self {
        let base: String = base.chars().take(MAX_BASE).collect();
        Self::Pattern(format!("^{}{LETTER}{{5}}$", escape(&base)))
    }

    /// Of a controller's pods, by its kind and name (Kubernetes, `pkg/controller`).
    pub(crate) fn of(kind: &str, name: &str) -> Self {
        let five = |middle: &str, longest: usize| {
            if name.len() + 1 + longest <= MAX_BASE {
                return Self::Pattern(format!("^{}-{middle}{LETTER}{{5}}$", escape(name)));
            }
            // Too long together: the cluster cuts it somewhere in the middle.
            let kept: String = name.chars().take(MAX_BASE).collect();
            Self::Pattern(format!("^{}[a-z0-9.-]*{LETTER}{{5}}$", escape(&kept)))
        };
        match kind {
            "Pod" => Self::Exact(name.to_owned()),
            // Of a ReplicaSet whose name ends in a hash.
            "Deployment" => five(&format!("{LETTER}{{1,10}}-"), 11),
            // With the minutes since 1970.
            "CronJob" => five("[0-9]{8,11}-([0-9]+-)?", 22),
            // An indexed one's pods have their index.
            "Job" => five("([0-9]+-)?", 10),
            "StatefulSet" => Self::Pattern(format!("^{}-[0-9]+$", escape(name))),
            // Leaders by their group, workers by group and number.
            "LeaderWorkerSet" => Self::Pattern(format!("^{}-[0-9]+(-[0-9]+)?$", escape(name))),
            "ReplicaSet" | "ReplicationController" | "DaemonSet" => five("", 0),
            _ => Self::Pattern(format!("^{}[a-z0-9.-]*$", escape(name))),
        }
    }

    /// A regular expression for exactly these.
    pub fn pattern(&self) -> String {
        match self {
            Self::Exact(name) => format!("^{}$", escape(name)),
            Self::Pattern(pattern) => pattern.clone(),
        }
    }
}

/// A text as a regular expression for itself.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if !letter.is_alphanumeric() && !matches!(letter, '_' | '-' | ' ' | '/' | '=' | ':' | ',') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_of_the_controllers() {
        for (kind, pattern) in [
            ("Pod", "^web$"),
            ("Deployment", "^web-[bcdfghjklmnpqrstvwxz2456789]{1,10}-[bcdfghjklmnpqrstvwxz2456789]{5}$"),
            ("ReplicaSet", "^web-[bcdfghjklmnpqrstvwxz2456789]{5}$"),
            ("StatefulSet", "^web-[0-9]+$"),
            ("Job", "^web-([0-9]+-)?[bcdfghjklmnpqrstvwxz2456789]{5}$"),
            ("CronJob", "^web-[0-9]{8,11}-([0-9]+-)?[bcdfghjklmnpqrstvwxz2456789]{5}$"),
            ("LeaderWorkerSet", "^web-[0-9]+(-[0-9]+)?$"),
            ("RayCluster", "^web[a-z0-9.-]*$"),
        ] {
            assert_eq!(Names::of(kind, "web").pattern(), pattern, "{kind}");
        }
        let long = Names::of("Deployment", &"a".repeat(60)).pattern();
        assert_eq!(long, format!("^{}[a-z0-9.-]*{LETTER}{{5}}$", "a".repeat(58)));
        assert_eq!(Names::generated("a.b-").pattern(), format!("^a\\.b-{LETTER}{{5}}$"));
    }
}
