//! The document as a pod annotation: base64 of gzip.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::gzip::{self, GzipError};
use super::{DocumentError, InitData, MAX_COMPRESSED};

/// The annotation's name, as Kata Containers reads it.
pub const NAME: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// Longest annotation in characters; what is longer cannot hold a document that is small enough.
pub(crate) const MAX_ANNOTATION: usize = MAX_COMPRESSED.div_ceil(3) * 4;

/// What is wrong with an annotation.
#[derive(Debug, thiserror::Error)]
pub enum AnnotationError {
    /// Too long.
    #[error("the annotation has {0} characters; at most {MAX_ANNOTATION} are read")]
    TooLong(usize),
    /// No base64.
    #[error("the annotation is not base64")]
    Base64(#[source] base64::DecodeError),
    /// Base64 of something else.
    #[error("the annotation does not hold a compressed document")]
    Gzip(#[from] GzipError),
    /// Compressed, but no document.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Writes a document as an annotation's value.
///
/// # Errors
/// [`GzipError`] for a document that is too large once compressed.
pub fn encode(document: &InitData) -> Result<String, GzipError> {
    Ok(BASE64_STANDARD.encode(gzip::compress(document.raw())?))
}

/// Reads an annotation's value. Space around it, as a file has at its end, does not matter.
///
/// # Errors
/// [`AnnotationError`] for what is no annotation with a document.
pub fn decode(text: &str) -> Result<InitData, AnnotationError> {
    let text = text.trim_ascii();
    if text.len() > MAX_ANNOTATION {
        return Err(AnnotationError::TooLong(text.len()));
    }
    let compressed = BASE64_STANDARD.decode(text).map_err(AnnotationError::Base64)?;
    Ok(InitData::parse(gzip::decompress(&compressed)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, build};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_survives() {
        let data = [("policy.rego".to_owned(), "package agent_policy\n".to_owned())].into();
        let document = build(Algorithm::Sha256, data).unwrap();
        let text = encode(&document).unwrap();
        // gzip, deflate, no name, no time.
        assert!(text.starts_with("H4sIAAAAAAA"), "{text}");
        assert_eq!(decode(&format!("{text}\n")).unwrap(), document);
    }

    #[test]
    fn other_values_are_refused() {
        assert!(matches!(decode("H4sI*"), Err(AnnotationError::Base64(_))));
        assert!(matches!(decode("AAAA"), Err(AnnotationError::Gzip(_))));
        assert!(matches!(decode(&"A".repeat(MAX_ANNOTATION + 1)), Err(AnnotationError::TooLong(_))));
        let text = BASE64_STANDARD.encode(gzip::compress(b"some content").unwrap());
        assert!(matches!(decode(&text), Err(AnnotationError::Document(DocumentError::Toml(_)))));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = decode(&text);
        }
    }
}
