//! Kubernetes' quantities: `500m`, `1.5`, `2Gi`, `1e3`.

use std::str::FromStr;

/// One whole, in the unit that is counted: 10^-9.
const ONE: u128 = 1_000_000_000;

/// A quantity that is not negative, exact to 10^-9, which is Kubernetes' own limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(u128);

/// A text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadQuantity {
    /// Not of the form.
    #[error("a quantity is a number with or without a suffix, such as 2, 0.5, 500m, 4Gi")]
    Form,
    /// Below zero.
    #[error("a limit cannot be negative")]
    Negative,
    /// More than Kubernetes counts.
    #[error("a quantity is less than 2^63")]
    TooLarge,
}

impl Quantity {
    /// Thousandths, rounded up.
    pub const fn milli(self) -> u128 {
        self.0.div_ceil(ONE / 1_000)
    }

    /// Wholes, rounded up.
    pub const fn whole(self) -> u128 {
        self.0.div_ceil(ONE)
    }

    /// Whether it is a whole number.
    pub(crate) const fn is_whole(self) -> bool {
        self.0.is_multiple_of(ONE)
    }

    /// The sum, while it is below 2^63.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::new)
    }

    /// A whole number.
    pub(crate) const fn of(number: u32) -> Self {
        Self(number as u128 * ONE)
    }

    fn new(nano: u128) -> Option<Self> {
        (nano < ONE << 63).then_some(Self(nano))
    }
}

impl FromStr for Quantity {
    type Err = BadQuantity;

    /// The grammar of `apimachinery/pkg/api/resource/quantity.go`.
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        if text.starts_with('-') {
            return Err(BadQuantity::Negative);
        }
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // Another point is no digit, and neither part may be missing with the other.
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(BadQuantity::Form);
        }
        let unit = unit(suffix)?;
        let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
        let mantissa: u128 = digits.trim_start_matches('0').parse().or_else(|_| {
            // No digit is left of zero; too many are too many.
            if digits.bytes().all(|b| b == b'0') { Ok(0) } else { Err(BadQuantity::TooLarge) }
        })?;
        let places = digits.len() - whole.len();
        let divisor = u32::try_from(places).ok().and_then(|places| 10u128.checked_pow(places));
        let nano =
            mantissa.checked_mul(unit).zip(divisor).map(|(product, divisor)| product.div_ceil(divisor));
        nano.and_then(Self::new).ok_or(BadQuantity::TooLarge)
    }
}

/// What the number counts, in 10^-9.
fn unit(suffix: &str) -> Result<u128, BadQuantity> {
    Ok(match suffix {
        "n" => 1,
        "u" => ONE / 1_000_000,
        "m" => ONE / 1_000,
        "" => ONE,
        "k" => ONE * 1_000,
        "M" => ONE * 1_000_000,
        "G" => ONE * ONE,
        "T" => ONE * ONE * 1_000,
        "P" => ONE * ONE * 1_000_000,
        "E" => ONE * ONE * ONE,
        "Ki" => ONE << 10,
        "Mi" => ONE << 20,
        "Gi" => ONE << 30,
        "Ti" => ONE << 40,
        "Pi" => ONE << 50,
        "Ei" => ONE << 60,
        other => {
            let exponent: i32 = other
                .strip_prefix(['e', 'E'])
                .and_then(|exponent| exponent.parse().ok())
                .ok_or(BadQuantity::Form)?;
            let power = u32::try_from(exponent.saturating_add(9)).map_err(|_| BadQuantity::Form)?;
            10u128.checked_pow(power).ok_or(BadQuantity::TooLarge)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn milli(text: &str) -> u128 {
        text.parse::<Quantity>().unwrap().milli()
    }

    #[test]
    fn all_ways_to_write_a_number() {
        for (text, expected) in [
            ("2", 2_000),
            ("+2", 2_000),
            ("0", 0),
            ("000", 0),
            ("0.0", 0),
            (".5", 500),
            ("5.", 5_000),
            ("0.5", 500),
            ("1.50", 1_500),
            ("500m", 500),
            ("1500000u", 1_500),
            ("1n", 1),
            ("0.0001", 1),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1e-3", 1),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1.5Ki", 1_536_000),
            ("007", 7_000),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!("2Gi".parse::<Quantity>().unwrap().whole(), 2 << 30);
        assert_eq!("1.1".parse::<Quantity>().unwrap().whole(), 2);
    }

    #[test]
    fn what_is_no_quantity() {
        for text in ["", ".", "m", "Gi", "1 Gi", "1gi", "1.2.3", "1e", "ten", "1K", "٣", "1e-10", "1Gib"] {
            assert_eq!(text.parse::<Quantity>(), Err(BadQuantity::Form), "{text}");
        }
        assert_eq!("-1".parse::<Quantity>(), Err(BadQuantity::Negative));
        for text in ["10E", "8Ei", "9223372036854775808", "1e30", "1e2147483647", &"9".repeat(100)] {
            assert_eq!(text.parse::<Quantity>(), Err(BadQuantity::TooLarge), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_an_error(text in "\\PC{0,20}|[0-9.+eEmkKMGi-]{0,60}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn whole_numbers_are_themselves(number in 0u64..1 << 63) {
            let quantity: Quantity = number.to_string().parse().unwrap();
            prop_assert!(quantity.is_whole());
            prop_assert_eq!(quantity.whole(), u128::from(number));
        }
    }
}
