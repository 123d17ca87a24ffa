//! `resource.Quantity`: numbers as Kubernetes writes them, `10M`, `1.5Gi`, `100e3`.

/// The suffixes, with what they multiply by: a power of ten (`k`, `M` ...) or of two (`Ki`, `Mi` ...).
const SUFFIXES: [(&str, Factor); 16] = [
    ("n", Factor::Ten(-9)),
    ("u", Factor::Ten(-6)),
    ("m", Factor::Ten(-3)),
    ("", Factor::Ten(0)),
    ("k", Factor::Ten(3)),
    ("M", Factor::Ten(6)),
    ("G", Factor::Ten(9)),
    ("T", Factor::Ten(12)),
    ("P", Factor::Ten(15)),
    ("E", Factor::Ten(18)),
    ("Ki", Factor::Two(10)),
    ("Mi", Factor::Two(20)),
    ("Gi", Factor::Two(30)),
    ("Ti", Factor::Two(40)),
    ("Pi", Factor::Two(50)),
    ("Ei", Factor::Two(60)),
];

#[derive(Debug, Clone, Copy)]
enum Factor {
    Ten(i32),
    Two(u32),
}

/// How many digits count: enough for 64 bits, few enough to be multiplied by 2^60. Those behind them matter for rounding only.
const DIGITS: usize = 19;

/// Reads a quantity that is not negative, rounded up to a whole number as Kubernetes does. `None` is no quantity; what is too large
/// is the largest number.
pub fn parse_quantity(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = factor(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: String = whole.chars().chain(fraction.chars()).skip_while(|digit| *digit == '0').collect();
    let mut exponent = -i32::try_from(fraction.len()).ok()?;
    let (kept, cut) = digits.split_at(digits.len().min(DIGITS));
    exponent = exponent.saturating_add(i32::try_from(cut.len()).ok()?);
    let mut value: u128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    if value == 0 {
        return Some(0);
    }
    if let Factor::Ten(power) = factor {
        exponent = exponent.saturating_add(power);
    }
    if exponent < 0 && cut.bytes().any(|digit| digit != b'0') {
        value += 1;
    }
    if let Factor::Two(bits) = factor {
        value <<= bits;
    }
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    let scaled = match power {
        Some(power) if exponent < 0 => value.div_ceil(power),
        Some(power) => value.saturating_mul(power),
        None if exponent < 0 => 1,
        None => u128::MAX,
    };
    Some(u64::try_from(scaled).unwrap_or(u64::MAX))
}

fn factor(suffix: &str) -> Option<Factor> {
    if let Some((_, factor)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some(*factor);
    }
    let power = suffix.strip_prefix(['e', 'E'])?;
    let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    // A power that does not fit is larger than any that matters.
    is_number.then(|| Factor::Ten(power.parse().unwrap_or(if power.starts_with('-') { -9999 } else { 9999 })))
}

#[cfg(test)]
mod tests {
    use super::parse_quantity;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("+10", 10),
            ("10M", 10_000_000),
            ("1k", 1_000),
            ("1Ki", 1_024),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            (".5k", 500),
            ("5.", 5),
            ("100m", 1),
            ("1n", 1),
            ("1001m", 2),
            ("1e3", 1_000),
            ("1E3", 1_000),
            ("12e-1", 2),
            ("1E", 1_000_000_000_000_000_000),
            ("0.000000000000000000001", 1),
            ("000000000000000000000000010", 10),
            ("123456789012345678901234567890", u64::MAX),
            ("1e9999999999", u64::MAX),
            ("1e-9999999999", 1),
            ("16Ei", u64::MAX),
            ("0e99999", 0),
            ("1.0000000000000000000000001", 2),
            ("1.0000000000000000000000000", 1),
            ("18446744073709551615", 18_446_744_073_709_551_610),
            ("9999999999999999999Ei", u64::MAX),
        ] {
            assert_eq!(parse_quantity(text), Some(value), "{text}");
        }
        for text in
            ["", "M", ".", "-1", "1 M", "1K", "1mi", "1.2.3", "1e", "1e+", "1e1.5", "1MB", "ten", "1,000", "0x10", "é"]
        {
            assert_eq!(parse_quantity(text), None, "{text}");
        }
    }
}
