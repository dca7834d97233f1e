//! The settings in the InfoROM.

use std::collections::BTreeMap;

use crate::Product;

pub(crate) const DEVTOOLS: u16 = 6;
pub(crate) const COMPUTING: u16 = 8;
pub(crate) const DECOUPLER: u16 = 10;
pub(crate) const PPCIE: u16 = 45;
/// Unnamed features that exclude both modes.
pub(crate) const CONFLICTING: [u16; 3] = [2, 4, 34];

/// Settings by id. They survive resets.
#[derive(Debug, Clone)]
pub(crate) struct Knobs(BTreeMap<u16, u16>);

impl Knobs {
    /// As delivered: everything off, everything open to the host.
    pub(crate) fn new(product: Product) -> Self {
        let mut knobs: BTreeMap<u16, u16> =
            (1..=10).chain([33, 34, 35, 36, 41, 46, 47]).map(|id| (id, 0)).collect();
        let mut open = vec![1, 3, 5, 7, 9, 33, 35, 46];
        if !product.is_blackwell() {
            knobs.extend([(44, 0), (PPCIE, 0)]);
            open.push(44);
        }
        knobs.extend(open.into_iter().map(|id| (id, 1)));
        Self(knobs)
    }

    pub(crate) fn get(&self, id: u16) -> Option<u16> {
        self.0.get(&id).copied()
    }

    /// Tells whether there is such a setting.
    pub(crate) fn set(&mut self, id: u16, value: u16) -> bool {
        self.0.get_mut(&id).map(|place| *place = value).is_some()
    }

    pub(crate) fn all(&self) -> BTreeMap<u16, u16> {
        self.0.clone()
    }

    fn is(&self, id: u16, value: u16) -> u32 {
        u32::from(self.get(id) == Some(value))
    }

    /// The mode's register, as a reset makes it of the settings.
    pub(crate) fn mode_word(&self, product: Product) -> u32 {
        let computing = self.is(COMPUTING, 1);
        let devtools = self.is(DEVTOOLS, 1) << 1;
        match product {
            Product::A100 => 0,
            Product::H100 | Product::H200 => computing | devtools | self.is(PPCIE, 1) << 5,
            Product::Nvswitch => self.is(PPCIE, 1),
            // Whether hardware sets the decoupler's bit without confidential computing is not documented.
            Product::RtxPro6000 => computing | devtools | self.is(DECOUPLER, 2) << 2,
            // Encrypted NVLink follows.
            Product::B200 | Product::Rubin => {
                computing | devtools | self.is(DECOUPLER, 2) << 2 | computing << 6
            }
        }
    }
}
