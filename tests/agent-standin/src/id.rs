//! Rules for container and exec ids.

use crate::error::{Error, Result};

/// Checks a container id: at least two characters, the first a letter or digit, the others those or `.`, `-`, `_`.
pub fn verify(id: &str) -> Result<()> {
    let mut chars = id.chars();
    let first = chars.next().is_some_and(char::is_alphanumeric);
    let rest = chars.clone().count() > 0 && chars.all(|c| c.is_alphanumeric() || "._-".contains(c));
    if first && rest {
        Ok(())
    } else {
        Err(Error::refused(format!(
            "container id {id:?}: two or more of letters, digits, '.', '-', '_', starting with a letter or digit"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_usual_ids() {
        for id in ["ab", "a1", "0a", "a.b-c_d", "3f0c2d"] {
            verify(id).unwrap();
        }
    }

    #[test]
    fn refuses_short_and_path_like_ids() {
        for id in ["", "a", ".a", "-a", "a/b", "..", "a b", "a\0"] {
            assert!(verify(id).is_err(), "{id:?}");
        }
    }
}
