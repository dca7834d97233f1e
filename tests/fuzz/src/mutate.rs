//! Inputs made from others: what is worth changing in bytes whose format is not known.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::limits::MAX_INPUT;

/// Numbers at which code goes wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];

/// Words at which readers of text go wrong.
const WORDS: [&str; 16] = [
    "\"",
    "'",
    "\\",
    "\n",
    "\0",
    "=",
    ",",
    "{",
    "[",
    "-1",
    "1e999",
    "null",
    "\u{feff}",
    "\u{1f980}",
    "\\u0000",
    "18446744073709551616",
];

/// One change. Places are fractions of the input's length, so that they are there in every input.
#[derive(Debug, Clone)]
enum Edit {
    /// One bit.
    Flip(Index, u32),
    /// A number of 1, 2, 4 or 8 bytes, little- or big-endian, over what is there.
    Number(Index, u64, usize, bool),
    /// Bytes in between.
    Insert(Index, Vec<u8>),
    /// Some bytes fewer.
    Remove(Index, usize),
    /// A piece again, some times: nesting, and lists that are long.
    Repeat(Index, usize, usize),
    /// From here on a piece of another seed.
    Splice(Index, Index, Index),
    /// Nothing from here on.
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let word = prop::sample::select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec());
    prop_oneof![
        4 => (at(), 0..8_u32).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        4 => (at(), number(), prop::sample::select(&[1, 2, 4, 8][..]), any::<bool>())
            .prop_map(|(at, number, size, big)| Edit::Number(at, number, size, big)),
        3 => (at(), prop_oneof![word, vec(any::<u8>(), 1..16)]).prop_map(|(at, new)| Edit::Insert(at, new)),
        3 => (at(), 1..64_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        1 => (at(), 1..32_usize, 1..2048_usize).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        2 => (at(), at(), at()).prop_map(|(at, seed, from)| Edit::Splice(at, seed, from)),
        1 => at().prop_map(Edit::Cut),
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![2 => prop::sample::select(&NUMBERS[..]), 1 => 0..4096_u64]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        // The end is a place, too.
        let place = |at: &Index, length: usize| at.index(length + 1);
        match self {
            Self::Flip(at, bit) => {
                if !input.is_empty() {
                    let at = at.index(input.len());
                    input[at] ^= 1 << bit;
                }
            }
            Self::Number(at, number, size, big) => {
                let at = place(at, input.len());
                overwrite(&mut input[at..], *number, *size, *big);
            }
            Self::Insert(at, new) => {
                let at = place(at, input.len());
                input.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, length) => {
                let at = place(at, input.len());
                input.drain(at..input.len().min(at + length));
            }
            Self::Repeat(at, length, times) => {
                let at = place(at, input.len());
                let piece = input[at..input.len().min(at + length)].repeat(*times);
                input.splice(at..at, piece);
            }
            Self::Splice(at, seed, from) => {
                let Some(seed) = (!seeds.is_empty()).then(|| &seeds[seed.index(seeds.len())]) else { return };
                input.truncate(place(at, input.len()));
                input.extend(&seed[place(from, seed.len())..]);
            }
            Self::Cut(at) => input.truncate(place(at, input.len())),
        }
        input.truncate(MAX_INPUT);
    }
}

/// Puts the lower `size` bytes of `number` at the beginning of `input`, as far as it goes.
fn overwrite(input: &mut [u8], number: u64, size: usize, big: bool) {
    let (little, large) = (number.to_le_bytes(), number.to_be_bytes());
    let bytes = if big { &large[8 - size..] } else { &little[..size] };
    input.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
}

/// Inputs that are one of `seeds` with some changes. A failure shrinks to the fewest changes that still fail.
pub fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (any::<Index>(), vec(edit(), 1..6)).prop_map(move |(seed, edits)| {
        let mut input = if seeds.is_empty() { Vec::new() } else { seeds[seed.index(seeds.len())].clone() };
        edits.iter().for_each(|edit| edit.apply(&mut input, &seeds));
        input
    })
}

#[cfg(test)]
mod tests {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;

    #[test]
    fn every_kind_of_change_comes_and_none_fails_on_nothing() {
        let mut runner = TestRunner::deterministic();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let edit = edit().new_tree(&mut runner).unwrap().current();
            seen.insert(format!("{edit:?}").split('(').next().unwrap().to_owned());
            edit.apply(&mut Vec::new(), &[]);
            let mut input = vec![7; MAX_INPUT];
            edit.apply(&mut input, &[Vec::new()]);
            assert!(input.len() <= MAX_INPUT);
        }
        assert_eq!(seen.len(), 7, "{seen:?}");
    }

    #[test]
    fn numbers_stay_inside_and_have_their_order() {
        let mut input = [0; 4];
        overwrite(&mut input, 0x0102, 2, true);
        assert_eq!(input, [1, 2, 0, 0]);
        overwrite(&mut input, 0x0304, 2, false);
        assert_eq!(input, [4, 3, 0, 0]);
        overwrite(&mut input, u64::MAX, 8, false);
        assert_eq!(input, [0xff; 4]);
    }
}
