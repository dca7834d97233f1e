//! The GUIDed table at the firmware's end.
//!
//! From its end backwards: 32 bytes of reset vector, the footer (2 bytes length of the whole table, 16 bytes
//! GUID), then entries (data, 2 bytes length of the entry, 16 bytes GUID).

use super::FirmwareError;
use crate::Guid;
use crate::bytes::{array_at, u16_at, u32_at};

/// Bytes after the footer: the reset vector.
const AFTER: usize = 32;
/// Length and GUID of an entry.
const HEADER: usize = 2 + 16;

/// Names the footer.
const FOOTER: Guid = Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);

/// A table's entries.
#[derive(Debug, Clone, Default)]
pub(super) struct Table<'a> {
    entries: Vec<(Guid, &'a [u8])>,
}

impl<'a> Table<'a> {
    /// Reads the table of `image`; an image without a footer has an empty one.
    pub(super) fn parse(image: &'a [u8]) -> Result<Self, FirmwareError> {
        let Some(footer) = image.len().checked_sub(AFTER + HEADER) else { return Ok(Self::default()) };
        let guid = array_at(image, footer + 2).map(Guid::from_bytes);
        let (Some(FOOTER), Some(length)) = (guid, u16_at(image, footer)) else { return Ok(Self::default()) };
        let mut rest = usize::from(length)
            .checked_sub(HEADER)
            .and_then(|entries| footer.checked_sub(entries))
            .map(|start| &image[start..footer])
            .ok_or(FirmwareError::TableLength { length, room: footer + HEADER })?;

        let mut table = Self::default();
        let mut end = footer;
        while let Some((guid, length)) = last_header(rest) {
            let start = usize::from(length)
                .checked_sub(HEADER)
                .and_then(|_| rest.len().checked_sub(usize::from(length)))
                .ok_or(FirmwareError::EntryLength { end, length, room: rest.len() })?;
            if table.get(guid).is_some() {
                return Err(FirmwareError::DuplicateEntry(guid));
            }
            table.entries.push((guid, &rest[start..rest.len() - HEADER]));
            rest = &rest[..start];
            end -= usize::from(length);
        }
        if !rest.is_empty() {
            return Err(FirmwareError::TableRest(rest.len()));
        }
        Ok(table)
    }

    /// An entry's data.
    pub(super) fn get(&self, guid: Guid) -> Option<&'a [u8]> {
        self.entries.iter().find(|(g, _)| *g == guid).map(|(_, data)| *data)
    }

    /// An entry that is one 32-bit number.
    pub(super) fn number(&self, guid: Guid) -> Result<Option<u32>, FirmwareError> {
        self.sized(guid, 4).map(|data| data.and_then(|d| u32_at(d, 0)))
    }

    /// An entry whose data has `expected` bytes.
    pub(super) fn sized(&self, guid: Guid, expected: usize) -> Result<Option<&'a [u8]>, FirmwareError> {
        match self.get(guid) {
            Some(data) if data.len() != expected => {
                Err(FirmwareError::EntrySize { guid, length: data.len(), expected })
            }
            other => Ok(other),
        }
    }
}

/// GUID and length of the entry that `table` ends with.
fn last_header(table: &[u8]) -> Option<(Guid, u16)> {
    let at = table.len().checked_sub(HEADER)?;
    Some((Guid::from_bytes(array_at(table, at + 2)?), u16_at(table, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Guid = Guid::from_bytes([0xaa; 16]);
    const B: Guid = Guid::from_bytes([0xbb; 16]);

    fn entry(guid: Guid, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len() + HEADER).unwrap();
        [data, &length.to_le_bytes(), guid.as_bytes()].concat()
    }

    fn image(entries: &[u8]) -> Vec<u8> {
        let length = u16::try_from(entries.len() + HEADER).unwrap();
        [&[0; 100][..], entries, &length.to_le_bytes(), FOOTER.as_bytes(), &[0; AFTER]].concat()
    }

    #[test]
    fn entries_are_found_by_guid() {
        let image = image(&[entry(A, &[1, 2, 3, 4]), entry(B, b"")].concat());
        let table = Table::parse(&image).unwrap();
        assert_eq!(table.number(A), Ok(Some(0x0403_0201)));
        assert_eq!(table.get(B), Some(&[][..]));
        assert_eq!(table.get(FOOTER), None);
        assert_eq!(table.number(B), Err(FirmwareError::EntrySize { guid: B, length: 0, expected: 4 }));
    }

    #[test]
    fn no_footer_is_an_empty_table() {
        for image in [&[][..], &[0; 10], &[0; 4096]] {
            assert!(Table::parse(image).unwrap().entries.is_empty());
        }
        assert!(Table::parse(&image(b"")).unwrap().entries.is_empty());
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        let with_footer = |length: u16| {
            let mut image = image(&entry(A, b"data"));
            let at = image.len() - AFTER - HEADER;
            image[at..at + 2].copy_from_slice(&length.to_le_bytes());
            image
        };
        for length in [0, 17, 200, u16::MAX] {
            let error = Table::parse(&with_footer(length)).unwrap_err();
            assert_eq!(error, FirmwareError::TableLength { length, room: 100 + 22 + HEADER });
        }
        assert_eq!(Table::parse(&with_footer(40 + 5)).unwrap_err(), FirmwareError::TableRest(5));

        for length in [0, 17, 23, u16::MAX] {
            let mut image = image(&entry(A, b"data"));
            let at = image.len() - AFTER - 2 * HEADER;
            image[at..at + 2].copy_from_slice(&length.to_le_bytes());
            let error = Table::parse(&image).unwrap_err();
            assert_eq!(error, FirmwareError::EntryLength { end: 122, length, room: 22 });
        }
    }

    #[test]
    fn the_same_guid_twice_is_an_error() {
        let image = image(&[entry(A, b"1"), entry(B, b""), entry(A, b"2")].concat());
        assert_eq!(Table::parse(&image).unwrap_err(), FirmwareError::DuplicateEntry(A));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Table::parse(&bytes);
            let _ = Table::parse(&image(&bytes));
        }
    }
}
