//! Quantities as the API server writes them back: `0.5` and `500m`, `1024Mi` and `1Gi` are one each.

/// Thousandths of millionths: the finest step of a quantity.
const NANO: i128 = 1_000_000_000;

/// The value of a quantity in thousandths of millionths, rounded up as the API server does; `None` if it is none.
pub(crate) fn nanos(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (up, down) = factor(suffix)?;
    let down = down.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = digits.checked_mul(NANO)?.checked_mul(up)?;
    let value = scaled / down + i128::from(scaled % down != 0);
    Some(if negative { -value } else { value })
}

/// What a suffix multiplies by, and divides by.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let up = match suffix {
        "" => 1,
        "n" => return Some((1, NANO)),
        "u" => return Some((1, 1_000_000)),
        "m" => return Some((1, 1_000)),
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            return Some(if exponent < 0 { (1, power) } else { (power, 1) });
        }
    };
    Some((up, 1))
}

#[cfg(test)]
mod tests {
    use super::nanos;

    #[test]
    fn equal_quantities_have_equal_values() {
        for (one, other) in [
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1000", "1k"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("1.5Gi", "1536Mi"),
            ("0.1", "100m"),
            ("100u", "0.0001"),
            (".5", "0.50"),
            ("2E", "2000P"),
            ("1e-3", "1m"),
        ] {
            assert_eq!(nanos(one), nanos(other), "{one} and {other}");
            assert!(nanos(one).is_some(), "{one}");
        }
        assert_ne!(nanos("1G"), nanos("1Gi"));
        for text in ["", "Gi", "1Gb", "1.2.3", "a", "1-2"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}
