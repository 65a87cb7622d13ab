//! One value: as it was given, where, and what it says.

use std::collections::BTreeMap;

use toml::Spanned;

use super::file::{Scalar, position};
use super::{Error, Origin};
use crate::core::model::Millis;

/// A value as it was given, before it means anything.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Given {
    pub(super) fn new(text: String, origin: Origin) -> Self {
        Self { text, origin }
    }
    pub(super) fn from_file(value: &Spanned<Scalar>, text: &str) -> Self {
        Self::new(
            value.get_ref().to_string(),
            Origin::File {
                line: position(text, value.span().start).0,
            },
        )
    }
    pub(super) fn problem(&self, key: &str, problem: String) -> Error {
        // In the file these stand in tables.
        let in_table = |key: &str| {
            let (table, key) = key.split_once('_')?;
            matches!(table, "tinytask" | "inbound").then(|| format!("{table}.{key}"))
        };
        let is_file = matches!(self.origin, Origin::File { .. });
        let key = is_file
            .then(|| in_table(key))
            .flatten()
            .unwrap_or_else(|| key.to_owned());
        Error::Value {
            key,
            problem,
            origin: self.origin.clone(),
        }
    }
    pub(super) fn count(&self, key: &str) -> Result<u32, Error> {
        match self.text.trim().parse::<i64>() {
            Ok(number) if number < 1 => {
                Err(self.problem(key, format!("must be at least 1, got {number}")))
            }
            Ok(number) => u32::try_from(number)
                .map_err(|_| self.problem(key, format!("is too large, got {number}"))),
            Err(_) => Err(self.problem(key, format!("must be a number, got `{}`", self.text))),
        }
    }
    pub(super) fn span(&self, key: &str, least: Millis) -> Result<Millis, Error> {
        let span = parse_span(&self.text).map_err(|problem| self.problem(key, problem))?;
        if span < least {
            return Err(self.problem(
                key,
                format!("must be at least {}ms, got {}", least.0, self.text),
            ));
        }
        Ok(span)
    }
}

pub(super) struct Values<'a>(pub(super) BTreeMap<&'a str, Given>);

impl Values<'_> {
    pub(super) fn count(&self, key: &str, default: u32) -> Result<u32, Error> {
        self.0
            .get(key)
            .map_or(Ok(default), |given| given.count(key))
    }
    pub(super) fn span(&self, key: &str, default: Millis, least: Millis) -> Result<Millis, Error> {
        self.0
            .get(key)
            .map_or(Ok(default), |given| given.span(key, least))
    }
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.0.get(key) {
            None => Ok(None),
            Some(given) if given.text.trim().is_empty() => {
                Err(given.problem(key, "must not be empty".into()))
            }
            Some(given) => Ok(Some(given.text.clone())),
        }
    }
}

/// Reads `500ms`, `10s`, `45m`, `1h30m`, `2d`.
pub fn parse_span(text: &str) -> Result<Millis, String> {
    let wrong = || format!("must be a time such as 10s, 45m or 1h30m, got `{text}`");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match rest[..unit_end].trim() {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        // Falling units only: `30m1h` is more likely a slip than a time.
        if unit >= last {
            return Err(wrong());
        }
        last = unit;
        total = number
            .checked_mul(unit)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= i64::MAX as u64)
            .ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    Ok(Millis(total))
}

/// Reads `256MB`, `1GB` (powers of 1000), `512KiB` (powers of 1024) and plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("must be a size such as 256MB or 512KiB, got `{text}`");
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| wrong())?;
    let unit = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}
