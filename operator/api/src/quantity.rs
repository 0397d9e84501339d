//! Quantities as Kubernetes writes them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A non-negative quantity: digits, perhaps with a point, then nothing, `k`, `M`, `G`, `T` (powers of 1,000) or `Ki`, `Mi`, `Gi`,
/// `Ti` (powers of 1,024); a whole number without quotes is taken, too. For CPU, `m` (thousandths).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// What the API server lets through.
const PATTERN: &str = r"^[0-9]+([.][0-9]{1,9})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$";

impl Quantity {
    /// Its value, rounded up to whole units; `None` if it is no such quantity or doesn't fit.
    #[must_use]
    pub fn value(&self) -> Option<u64> {
        let number = self.0.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let (factor, divisor): (u128, u128) = match &self.0[number.len()..] {
            "m" => (1, 1_000),
            "" => (1, 1),
            "k" => (1_000, 1),
            "M" => (1_000_000, 1),
            "G" => (1_000_000_000, 1),
            "T" => (1_000_000_000_000, 1),
            "Ki" => (1 << 10, 1),
            "Mi" => (1 << 20, 1),
            "Gi" => (1 << 30, 1),
            "Ti" => (1 << 40, 1),
            _ => return None,
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (number, ""),
        };
        // The first digit of a quantity stands before the point; no sign is one.
        if !whole.bytes().all(|byte| byte.is_ascii_digit()) || !whole.bytes().next()?.is_ascii_digit() {
            return None;
        }
        let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
        let below = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let value = digits.checked_mul(factor)?.div_ceil(divisor.checked_mul(below)?);
        u64::try_from(value).ok()
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 512Mi")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            // The pattern is for text alone.
            "minimum": 0,
            "pattern": PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_whole_units() {
        let table = [
            ("0", Some(0)),
            ("125M", Some(125_000_000)),
            ("1G", Some(1_000_000_000)),
            ("512Mi", Some(512 << 20)),
            ("2Ti", Some(2 << 40)),
            ("1500m", Some(2)),
            ("0.5", Some(1)),
            ("1.5Gi", Some(1_610_612_736)),
            ("0.125G", Some(125_000_000)),
            ("1.", None),
            (".5", None),
            ("1.-5", None),
            ("+1", None),
            ("1Gb", None),
            ("", None),
            ("M", None),
            ("-1", None),
            ("99999999999T", None),
        ];
        for (text, value) in table {
            assert_eq!(Quantity(text.to_owned()).value(), value, "{text}");
        }
    }

    #[test]
    fn numbers_are_taken_as_well_as_text() {
        assert_eq!(
            serde_json::from_str::<Quantity>("1000").unwrap(),
            Quantity("1000".to_owned())
        );
        assert_eq!(
            serde_json::from_str::<Quantity>("\"1k\"").unwrap().value(),
            Some(1_000)
        );
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }
}
