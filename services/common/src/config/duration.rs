//! Durations as people write them: `500ms`, `5s`, `2m`, `1h30m`. For fields: `#[serde(with = "duration")]`.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Nanoseconds of each unit, greatest first; writing uses all of them, so that nothing is rounded.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// What a duration should have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no duration; write a whole number and a unit (ns, us, ms, s, m, h, d), as in 500ms or 1m30s"
)]
pub struct DurationError(pub String);

/// Reads whole numbers with units, added up; a bare `0` is zero.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let fault = || DurationError(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fault());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit()).ok_or_else(fault)?;
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|char: char| char.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| fault())?;
        let (_, scale) = UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim())
            .ok_or_else(fault)?;
        nanos += u128::from(number) * scale;
        rest = after;
    }
    u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| fault())
}

/// Writes what [`parse`] reads back exactly, in the fewest units: `90 s` is `1m30s`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, scale) in UNITS {
        if left >= scale {
            // Writing to a String can't fail.
            let _ = write!(text, "{}{name}", left / scale);
            left %= scale;
        }
    }
    text
}

/// For `serde(with)`.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For `serde(with)`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    /// A bare number is taken only to refuse it with words that help (or for a plain 0).
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Number(f64),
    }
    let text = match Form::deserialize(deserializer)? {
        Form::Text(text) => text,
        Form::Number(number) => number.to_string(),
    };
    parse(&text).map_err(serde::de::Error::custom)
}

/// The same for a field that may be left out: `#[serde(with = "duration::option")]`.
pub mod option {
    use serde::Serialize as _;

    use super::{Deserialize, Deserializer, Duration, Serializer};

    #[derive(serde::Serialize, Deserialize)]
    struct Whole(#[serde(with = "super")] Duration);

    /// Writes it, or nothing.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(Whole).serialize(serializer)
    }

    /// Reads what [`serialize`] wrote.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let whole = Option::<Whole>::deserialize(deserializer)?;
        Ok(whole.map(|whole| whole.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write() {
        for (text, millis) in [
            ("500ms", 500),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 parsecs",
            "1.5s",
            "-1s",
            "99999999999999999999s",
            "99999999999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(format(Duration::from_secs(90)), "1m30s");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos: u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
