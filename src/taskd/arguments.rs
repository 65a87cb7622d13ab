//! Which arguments a tool takes, and how wrong ones are told.
//!
//! One table per tool serves both the schema that clients read and the check of what they send, so the two cannot differ,
//! except where tinytask's do: `status` of the list tools is taken but not advertised. Wrong arguments are told as the issue
//! list of the validation library tinytask uses, since agents and clients read its codes and paths.

use serde_json::{Map, Value, json};

use super::store::Number;

/// What a parameter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Coerced as JavaScript's `Number()` does: `"3"`, `true`, `""` and null are numbers.
    Number,
    /// The same, but null stays null.
    NumberOrNull,
    Flag,
    Texts,
    Status,
    Statuses,
    StatusOrStatuses,
}

/// One parameter of a tool.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    pub(super) advertised: bool,
    pub(super) about: &'static str,
}

/// What a tool does with arguments it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Refused,
    Ignored,
}

const STATUSES: [&str; 3] = ["idle", "working", "complete"];

/// The JSON schema of a tool's arguments, as advertised.
pub(super) fn schema(params: &[Param]) -> Map<String, Value> {
    let mut properties = Map::new();
    for param in params.iter().filter(|param| param.advertised) {
        let mut property = match param.kind {
            Kind::Text => json!({"type": "string"}),
            Kind::Number => json!({"type": "number"}),
            Kind::NumberOrNull => json!({"type": ["number", "null"]}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Texts | Kind::Statuses => json!({"type": "array", "items": {"type": "string"}}),
            Kind::Status | Kind::StatusOrStatuses => json!({"type": "string", "enum": STATUSES}),
        };
        property["description"] = param.about.into();
        properties.insert(param.name.into(), property);
    }
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), Value::Object(properties));
    let required: Vec<&str> = params
        .iter()
        .filter(|param| param.required)
        .map(|param| param.name)
        .collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    schema
}

/// Arguments that passed the check: numbers are numbers, and what is not there was optional.
#[derive(Debug)]
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    /// A required text. (Checked: an empty one never stands in for a missing one.)
    pub(super) fn text(&self, name: &str) -> &str {
        self.optional_text(name).unwrap_or_default()
    }
    pub(super) fn optional_text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
    /// A required number.
    pub(super) fn number(&self, name: &str) -> Number {
        self.optional_number(name).unwrap_or(0.into())
    }
    pub(super) fn optional_number(&self, name: &str) -> Option<Number> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Some(Number::from_json(number.clone())),
            _ => None,
        }
    }
    /// The inner `None` is null.
    pub(super) fn nullable_number(&self, name: &str) -> Option<Option<Number>> {
        self.0.get(name).map(|_| self.optional_number(name))
    }
    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }
    /// One text, or several, or none.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        match self.0.get(name) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
    /// As it was sent.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
    /// The first of these that is a whole number, for the log.
    pub(super) fn first_id(&self, names: &[&str]) -> Option<i64> {
        names.iter().find_map(|name| self.0.get(*name)?.as_i64())
    }
}

/// Checks what was sent against the table; every issue is told, not only the first.
pub(super) fn check(
    params: &[Param],
    unknown: Unknown,
    given: &Map<String, Value>,
) -> Result<Arguments, String> {
    let mut issues = Vec::new();
    let mut checked = Map::new();
    for param in params {
        let value = given.get(param.name);
        let path = json!([param.name]);
        match (value, param.required) {
            (None, false) => {}
            (None, true) if param.kind == Kind::Number => {
                issues.push(wrong_type("number", "nan", path));
            }
            (None, true) => issues.push(required(expected(param.kind), path)),
            (Some(value), _) => match fit(param.kind, value, path) {
                Ok(value) => {
                    checked.insert(param.name.into(), value);
                }
                Err(mut found) => issues.append(&mut found),
            },
        }
    }
    if unknown == Unknown::Refused {
        let keys: Vec<&str> = given
            .keys()
            .map(String::as_str)
            .filter(|key| params.iter().all(|param| param.name != *key))
            .collect();
        if !keys.is_empty() {
            let quoted: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
            issues.push(json!({
                "code": "unrecognized_keys",
                "keys": keys,
                "path": [],
                "message": format!("Unrecognized key(s) in object: {}", quoted.join(", ")),
            }));
        }
    }
    if issues.is_empty() {
        Ok(Arguments(checked))
    } else {
        Err(serde_json::to_string_pretty(&issues).expect("a list of plain JSON values"))
    }
}

/// The value as the tool uses it, or the issues with it.
fn fit(kind: Kind, value: &Value, path: Value) -> Result<Value, Vec<Value>> {
    let as_is = |fits: bool, expected: &str| {
        if fits {
            Ok(value.clone())
        } else {
            Err(vec![wrong_type(expected, type_of(value), path.clone())])
        }
    };
    match kind {
        Kind::Text => as_is(value.is_string(), "string"),
        Kind::Flag => as_is(value.is_boolean(), "boolean"),
        Kind::NumberOrNull if value.is_null() => Ok(Value::Null),
        Kind::Number | Kind::NumberOrNull => match coerce(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(vec![wrong_type("number", "nan", path)]),
        },
        Kind::Texts => each(Kind::Text, value, path),
        Kind::Statuses => each(Kind::Status, value, path),
        Kind::Status => match value {
            Value::String(status) if STATUSES.contains(&status.as_str()) => Ok(value.clone()),
            Value::String(status) => Err(vec![json!({
                "received": status,
                "code": "invalid_enum_value",
                "options": STATUSES,
                "path": path,
                "message": format!("Invalid enum value. Expected {}, received '{status}'", one_of()),
            })]),
            _ => Err(vec![json!({
                "expected": one_of(),
                "received": type_of(value),
                "code": "invalid_type",
                "path": path,
                "message": format!("Expected {}, received {}", one_of(), type_of(value)),
            })]),
        },
        Kind::StatusOrStatuses => fit(Kind::Status, value, path.clone()).or_else(|one| {
            fit(Kind::Statuses, value, path.clone()).map_err(|several| {
                let issues = |issues: Vec<Value>| json!({"issues": issues, "name": "ZodError"});
                vec![json!({
                    "code": "invalid_union",
                    "unionErrors": [issues(one), issues(several)],
                    "path": path,
                    "message": "Invalid input",
                })]
            })
        }),
    }
}

fn each(kind: Kind, value: &Value, path: Value) -> Result<Value, Vec<Value>> {
    let Value::Array(items) = value else {
        return Err(vec![wrong_type("array", type_of(value), path)]);
    };
    let mut issues = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let mut path = path.clone();
        if let Value::Array(steps) = &mut path {
            steps.push(at.into());
        }
        issues.extend(fit(kind, item, path).err().into_iter().flatten());
    }
    if issues.is_empty() {
        Ok(value.clone())
    } else {
        Err(issues)
    }
}

/// JavaScript's `Number(value)`; `None` is NaN. A whole number comes out as an integer.
fn coerce(value: &Value) -> Option<serde_json::Number> {
    let real = match value {
        Value::Null => 0.0,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => return Some(whole.into()),
            None => number.as_f64()?,
        },
        Value::String(text) => from_text(text.trim())?,
        Value::Array(items) => match items.as_slice() {
            [] => 0.0,
            [Value::Null] => 0.0,
            [Value::Bool(_)] => return None,
            [one] => return coerce(one),
            _ => return None,
        },
        Value::Object(_) => return None,
    };
    // 2^53: beyond it not every whole number is a double, and none is anybody's id.
    if real.fract() == 0.0 && real.abs() <= 9_007_199_254_740_992.0 {
        return Some((real as i64).into());
    }
    serde_json::Number::from_f64(real.clamp(f64::MIN, f64::MAX))
}

fn from_text(text: &str) -> Option<f64> {
    if text.is_empty() {
        return Some(0.0);
    }
    for (prefix, radix) in [
        ("0x", 16),
        ("0X", 16),
        ("0o", 8),
        ("0O", 8),
        ("0b", 2),
        ("0B", 2),
    ] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return u64::from_str_radix(digits, radix).ok().map(|n| n as f64);
        }
    }
    match text.trim_start_matches(['+', '-']) {
        "Infinity" => Some(if text.starts_with('-') {
            f64::MIN
        } else {
            f64::MAX
        }),
        // Rust also reads `inf` and `nan`, which are no numbers in JavaScript.
        rest if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') => text.parse().ok(),
        _ => None,
    }
}

fn one_of() -> String {
    STATUSES.map(|status| format!("'{status}'")).join(" | ")
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Status | Kind::StatusOrStatuses => "string",
        Kind::Number | Kind::NumberOrNull => "number",
        Kind::Flag => "boolean",
        Kind::Texts | Kind::Statuses => "array",
    }
}

fn required(expected: &str, path: Value) -> Value {
    json!({
        "code": "invalid_type",
        "expected": expected,
        "received": "undefined",
        "path": path,
        "message": "Required",
    })
}

fn wrong_type(expected: &str, received: &str, path: Value) -> Value {
    json!({
        "code": "invalid_type",
        "expected": expected,
        "received": received,
        "path": path,
        "message": format!("Expected {expected}, received {received}"),
    })
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
