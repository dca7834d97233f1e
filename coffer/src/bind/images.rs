//! Images by their names in manifests: each is looked up once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use agent_policy::Image;
use layers::{HashedImage, Source};

use crate::image::source::How;

/// An image, and the name that says which it is.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// The manifest's name of it, with its digest.
    pub(super) written: String,
    /// The digest that was found, where the manifest's own is another.
    pub(super) other: Option<String>,
    pub(super) image: Image,
}

/// The digest of a source and its image, or why there is none.
type Answer = Result<(String, Image), String>;

/// Where images come from.
#[derive(Debug)]
pub(super) struct Images<'a> {
    instead: &'a [(String, Source)],
    how: &'a How,
    /// By source.
    known: RefCell<BTreeMap<String, Answer>>,
}

impl<'a> Images<'a> {
    pub(super) fn new(instead: &'a [(String, Source)], how: &'a How) -> Self {
        Self { instead, how, known: RefCell::default() }
    }

    /// The image of a container. A name with a digest stays; another gets the digest of what it leads to today.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub(super) fn resolve(&self, container: &str, written: &str) -> Result<Resolved, String> {
        if written.trim().is_empty() {
            return Err("the container has no image".to_owned());
        }
        let bare = written.split_once('@').map_or(written, |(bare, _)| bare);
        let given =
            self.instead.iter().find(|(name, _)| name == container || name == written || name == bare);
        let source = match given {
            Some((_, source)) => source.clone(),
            None => written.parse().map_err(|error: layers::Error| error.to_string())?,
        };
        let key = source.to_string();
        let known = self.known.borrow().get(&key).cloned();
        let found = known.unwrap_or_else(|| {
            let found = self.find(&source);
            self.known.borrow_mut().insert(key, found.clone());
            found
        });
        let (digest, image) = found?;
        let pinned = written.split_once('@').map(|(_, pinned)| pinned.to_owned());
        let other = pinned.as_ref().is_some_and(|pinned| *pinned != digest).then(|| digest.clone());
        let written = if pinned.is_some() { written.to_owned() } else { format!("{written}@{digest}") };
        Ok(Resolved { written, other, image })
    }

    fn find(&self, source: &Source) -> Answer {
        let found: HashedImage = self.how.image(source).map_err(|error| format!("{error:#}"))?;
        let digest = found.digest.to_string();
        let image = crate::policy::image(found)
            .map_err(|error| format!("cannot use the image {source}: {error:#}"))?;
        Ok((digest, image))
    }
}
