//! The documents that make an image: index, manifest, configuration (OCI image specification 1.1; Docker's schema 2
//! has the same fields).

use serde::Deserialize;

use crate::error::{Error, Problem};
use crate::layer::{Layer, MAX_LAYERS};
use crate::{Descriptor, Digest};

/// Largest index or manifest that is read, in bytes: what the distribution specification asks registries to take.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest configuration that is read, in bytes.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;
/// More entries than any index has.
const MAX_ENTRIES: usize = 1024;

/// What a document turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// A choice of images.
    Index(Vec<Descriptor>),
    /// One image.
    Image { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

impl Document {
    /// Reads an index or a manifest. One that could be taken for both is neither: two readers of the same digest
    /// would run different images.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Problem> {
        let written: Written = serde_json::from_slice(json).map_err(Problem::Json)?;
        if written.schema_version != Some(2) {
            return Err(Problem::Schema);
        }
        let media_type = written.media_type.as_deref();
        let is = |kinds: [&str; 2]| media_type.is_none_or(|found| kinds.contains(&found));
        match (written.manifests, written.config, written.layers) {
            (Some(manifests), None, None) if is(INDEX) => match manifests.len() {
                0..=MAX_ENTRIES => Ok(Self::Index(manifests)),
                entries => Err(Problem::Entries(entries)),
            },
            (None, Some(config), Some(layers)) if is(MANIFEST) => match layers.len() {
                0 => Err(Problem::NoLayers),
                1..=MAX_LAYERS => Ok(Self::Image { config, layers }),
                layers => Err(Problem::Layers(layers)),
            },
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(Problem::Ambiguous),
            _ => Err(Problem::MediaType(media_type.unwrap_or("none").chars().take(100).collect())),
        }
    }
}

/// The image of an index that runs here.
pub(crate) fn choose(entries: &[Descriptor]) -> Result<&Descriptor, Problem> {
    let fits = |entry: &&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform| {
            (platform.os.as_str(), platform.architecture.as_str()) == ("linux", "amd64")
                && matches!(platform.variant.as_deref(), None | Some("" | "v1"))
                && platform.os_features.is_empty()
        })
    };
    match entries {
        // A layout made by hand often says nothing of the platform; the configuration will.
        [only] if only.platform.is_none() => Ok(only),
        _ => entries.iter().find(fits).ok_or_else(|| Problem::Platform(platforms(entries))),
    }
}

fn platforms(entries: &[Descriptor]) -> String {
    let names = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let names: Vec<String> = names.map(|p| format!("{}/{}", p.os, p.architecture)).take(20).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// Puts the manifest's layers and the configuration's diffIDs together.
pub(crate) fn layers(config: &[u8], layers: Vec<Descriptor>) -> Result<Vec<Layer>, Error> {
    let config: Config = serde_json::from_slice(config).map_err(|e| Error::Config(Problem::Json(e)))?;
    if (config.os.as_str(), config.architecture.as_str()) != ("linux", "amd64") {
        let found = format!("{}/{}", config.os, config.architecture);
        return Err(Error::Config(Problem::Platform(found)));
    }
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(Error::Config(Problem::DiffIds { layers: layers.len(), diff_ids: diff_ids.len() }));
    }
    layers.into_iter().zip(diff_ids).map(|(descriptor, diff_id)| Layer::new(descriptor, diff_id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor() -> serde_json::Value {
        json!({"mediaType": "x", "digest": Digest::of(b"x"), "size": 1})
    }

    fn entry(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let mut value = descriptor();
        value["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
        value["size"] = os.len().into();
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn documents_that_are_no_image_are_refused_by_name() {
        let one = [descriptor()];
        let parse = |value: serde_json::Value| Document::parse(value.to_string().as_bytes());
        let good = json!({"schemaVersion": 2, "config": descriptor(), "layers": one});
        assert!(matches!(parse(good.clone()), Ok(Document::Image { .. })));
        let with = |name: &str, value: serde_json::Value| {
            let mut document = good.clone();
            document[name] = value;
            parse(document).unwrap_err()
        };
        assert!(matches!(with("schemaVersion", 1.into()), Problem::Schema));
        assert!(matches!(with("schemaVersion", serde_json::Value::Null), Problem::Schema));
        assert!(matches!(with("manifests", json!(one)), Problem::Ambiguous));
        assert!(matches!(with("mediaType", INDEX[0].into()), Problem::MediaType(_)));
        assert!(matches!(with("mediaType", "application/json".into()), Problem::MediaType(_)));
        assert!(matches!(with("layers", json!([])), Problem::NoLayers));
        assert!(matches!(with("layers", json!(vec![descriptor(); 128])), Problem::Layers(128)));
        assert!(matches!(with("layers", "x".into()), Problem::Json(_)));
        let sha512 = json!({"digest": format!("sha512:{}", "0".repeat(128)), "size": 1});
        assert!(matches!(with("config", sha512), Problem::Json(e) if e.to_string().contains("sha256")));
        assert!(matches!(with("config", json!({"digest": Digest::of(b""), "size": -1})), Problem::Json(_)));
        let most = json!(vec![descriptor(); 127]);
        let most = json!({"schemaVersion": 2, "config": descriptor(), "layers": most});
        assert!(matches!(parse(most), Ok(Document::Image { layers, .. }) if layers.len() == 127));
        let many = json!({"schemaVersion": 2, "manifests": vec![descriptor(); 1025]});
        assert!(matches!(parse(many), Err(Problem::Entries(1025))));
    }

    #[test]
    fn the_index_has_to_have_an_image_for_this_processor() {
        let entries = [
            entry("windows", "amd64", None),
            entry("linux", "arm64", Some("v8")),
            entry("linux", "amd64", Some("v3")),
            entry("linux", "amd64", None),
            entry("unknown", "unknown", None),
        ];
        assert_eq!(choose(&entries).unwrap(), &entries[3]);
        let error = choose(&entries[..3]).unwrap_err();
        assert!(
            matches!(&error, Problem::Platform(found) if found == "windows/amd64, linux/arm64, linux/amd64")
        );
        assert!(choose(&[]).is_err());
        let bare: Descriptor = serde_json::from_value(descriptor()).unwrap();
        assert_eq!(choose(std::slice::from_ref(&bare)).unwrap(), &bare);
        assert!(choose(&[bare.clone(), bare]).is_err());
    }

    #[test]
    fn configuration_and_manifest_have_to_agree() {
        let layer = |media_type: &str| {
            let mut value = descriptor();
            value["mediaType"] = media_type.into();
            serde_json::from_value::<Descriptor>(value).unwrap()
        };
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let config = |n: usize, architecture: &str| {
            let ids = vec![Digest::of(b"y"); n];
            json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": ids}})
                .to_string()
        };
        assert_eq!(layers(config(1, "amd64").as_bytes(), vec![layer(tar)]).unwrap().len(), 1);
        let error = |config: String| match layers(config.as_bytes(), vec![layer(tar)]) {
            Err(Error::Config(problem)) => problem,
            other => panic!("{other:?}"),
        };
        assert!(matches!(error(config(2, "amd64")), Problem::DiffIds { layers: 1, diff_ids: 2 }));
        assert!(matches!(error(config(1, "arm64")), Problem::Platform(_)));
        assert!(matches!(error("{}".into()), Problem::Json(_)));
    }
}
