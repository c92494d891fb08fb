//! Sizes, times and shares as people write them.

use std::time::Duration;

use super::OptionError;

fn wrong(key: &str, value: &str, expected: &str) -> OptionError {
    OptionError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

/// `4096`, `50M`, `1.5G`, `2TiB`: bytes, in powers of 1024.
///
/// # Errors
/// [`OptionError::Value`].
pub fn parse_bytes(key: &str, value: &str) -> Result<u64, OptionError> {
    let no = || {
        wrong(
            key,
            value,
            "a size (a number, with K, M, G or T behind it for KiB and so on)",
        )
    };
    let text = value.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(no()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| no())?;
    if part.len() > 6 || (part != "0" && shift == 0) {
        return Err(no());
    }
    let scale = 10u64.pow(u32::try_from(part.len()).unwrap_or(0));
    let part: u64 = part.parse().map_err(|_| no())?;
    let bytes = whole.checked_mul(1 << shift).ok_or_else(no)?;
    bytes.checked_add((part << shift) / scale).ok_or_else(no)
}

/// `1s`, `500ms`, `2m`, or a number of seconds.
///
/// # Errors
/// [`OptionError::Value`].
pub fn parse_duration(key: &str, value: &str) -> Result<Duration, OptionError> {
    let no = || {
        wrong(
            key,
            value,
            "a time (seconds, or a number with ms, s, m or h behind it)",
        )
    };
    let text = value.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| no())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(no()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| no())
}

/// `50%` or `50`: 1 to 100.
///
/// # Errors
/// [`OptionError::Value`].
pub fn parse_percent(key: &str, value: &str) -> Result<u64, OptionError> {
    let number = value.strip_suffix('%').unwrap_or(value);
    match number.parse() {
        Ok(percent @ 1..=100) => Ok(percent),
        Ok(_) | Err(_) => Err(wrong(key, value, "a share from 1% to 100%")),
    }
}

/// `yes` or `no`.
///
/// # Errors
/// [`OptionError::Value`].
pub fn parse_switch(key: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "yes" | "on" | "true" | "1" => Ok(true),
        "no" | "off" | "false" | "0" => Ok(false),
        _ => Err(wrong(key, value, "yes or no")),
    }
}
