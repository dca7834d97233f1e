//! What both metadata lists have in common: the way to them, and a header that says how many sections follow.

use super::MAX_SECTIONS;
use super::error::MetadataProblem;
use crate::bytes::u32_at;

/// Signature, length, version and count.
const HEADER: usize = 16;

/// A kind of metadata list.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    /// The four letters that it begins with.
    pub(super) signature: &'static [u8; 4],
    /// Size of a section in bytes.
    pub(super) section: usize,
}

impl List {
    /// The sections, each with its bytes, of the list that starts `from_end` bytes before the image's end.
    pub(super) fn sections<'a>(
        &self,
        image: &'a [u8],
        from_end: u32,
    ) -> Result<impl Iterator<Item = (usize, &'a [u8])> + use<'a>, MetadataProblem> {
        let place = || MetadataProblem::Place(from_end);
        let start =
            usize::try_from(from_end).ok().and_then(|o| image.len().checked_sub(o)).ok_or_else(place)?;
        let list = &image[start..];
        if list.len() < HEADER {
            return Err(place());
        }
        if !list.starts_with(self.signature) {
            return Err(MetadataProblem::Signature);
        }
        let field = |at| u32_at(list, at).ok_or_else(place);
        let (length, version, count) = (field(4)?, field(8)?, field(12)?);
        if version != 1 {
            return Err(MetadataProblem::Version(version));
        }
        let sections = usize::try_from(count)
            .ok()
            .filter(|n| (1..=MAX_SECTIONS).contains(n))
            .ok_or(MetadataProblem::Count(count))?;
        let expected = HEADER + sections * self.section;
        if usize::try_from(length) != Ok(expected) {
            return Err(MetadataProblem::Length { length, count, expected });
        }
        let sections = list.get(HEADER..expected).ok_or_else(place)?;
        Ok(sections.chunks_exact(self.section).enumerate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: List = List { signature: b"TEST", section: 2 };

    /// An image that ends with a list of two sections.
    fn image() -> Vec<u8> {
        let fields: Vec<u8> = [20_u32, 1, 2].into_iter().flat_map(u32::to_le_bytes).collect();
        [&[0; 8][..], b"TEST", &fields, &[1, 2, 3, 4]].concat()
    }

    fn read(image: &[u8], from_end: u32) -> Result<Vec<(usize, &[u8])>, MetadataProblem> {
        LIST.sections(image, from_end).map(Iterator::collect)
    }

    fn with(at: usize, value: u32) -> MetadataProblem {
        let mut image = image();
        image[8 + at..][..4].copy_from_slice(&value.to_le_bytes());
        read(&image, 20).unwrap_err()
    }

    #[test]
    fn sections_are_counted_from_0() {
        assert_eq!(read(&image(), 20), Ok(vec![(0, &[1, 2][..]), (1, &[3, 4][..])]));
    }

    #[test]
    fn a_header_that_lies_is_an_error() {
        for from_end in [0, 15, 29, u32::MAX] {
            assert_eq!(read(&image(), from_end), Err(MetadataProblem::Place(from_end)));
        }
        assert_eq!(read(&image(), 21), Err(MetadataProblem::Signature));
        assert_eq!(read(&image()[..27], 19), Err(MetadataProblem::Place(19)));
        assert_eq!(with(4, 21), MetadataProblem::Length { length: 21, count: 2, expected: 20 });
        assert_eq!(with(8, 2), MetadataProblem::Version(2));
        for count in [0, 65, u32::MAX] {
            assert_eq!(with(12, count), MetadataProblem::Count(count));
        }
    }
}
