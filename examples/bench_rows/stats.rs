//! Many times, told as two; and what a row prints.

use std::fmt::Write as _;

/// Measured times in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add(&mut self, ms: f64) {
        self.0.push(ms);
    }
    /// From one stamp of the clock to another, both in nanoseconds; negative where the second came first.
    pub fn add_span(&mut self, from: u64, to: u64) {
        self.add((to as f64 - from as f64) / 1e6);
    }
    pub fn join(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).copied().collect())
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Nearest rank: so many of a hundred took no longer.
    pub fn at(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).copied().unwrap_or(f64::NAN)
    }
}

/// A JSON value with keys in order, which is also a table's line.
#[derive(Debug, Clone, Default)]
pub struct Row(Vec<(String, Value)>);

#[derive(Debug, Clone)]
enum Value {
    Number(f64),
    Text(String),
    Row(Row),
    Rows(Vec<Row>),
}

impl Row {
    /// `{"p50_ms": …, "p99_ms": …, "n": …}`
    pub fn of(times: &Times) -> Self {
        Self::default()
            .with("p50_ms", times.at(50))
            .with("p99_ms", times.at(99))
            .with("n", times.len() as f64)
    }
    pub fn with(mut self, key: &str, number: f64) -> Self {
        self.0.push((key.to_owned(), Value::Number(number)));
        self
    }
    pub fn with_text(mut self, key: &str, text: &str) -> Self {
        self.0.push((key.to_owned(), Value::Text(text.to_owned())));
        self
    }
    pub fn with_row(mut self, key: &str, row: Self) -> Self {
        self.0.push((key.to_owned(), Value::Row(row)));
        self
    }
    pub fn with_rows(mut self, key: &str, rows: Vec<Self>) -> Self {
        self.0.push((key.to_owned(), Value::Rows(rows)));
        self
    }

    pub fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    pub fn json(&self) -> String {
        let fields: Vec<String> = self
            .0
            .iter()
            .map(|(key, value)| format!("{}: {}", quoted(key), value.json()))
            .collect();
        format!("{{{}}}", fields.join(", "))
    }

    /// A Markdown table with a line for each number, what lies deeper named by its way there.
    pub fn table(&self) -> String {
        let mut text = "| what | |\n| --- | ---: |".to_owned();
        self.lines("", &mut text);
        text
    }

    fn lines(&self, above: &str, text: &mut String) {
        for (key, value) in &self.0 {
            let name = match above {
                "" => key.clone(),
                _ => format!("{above} {key}"),
            };
            match value {
                Value::Row(row) => row.lines(&name, text),
                Value::Rows(rows) => {
                    for (at, row) in rows.iter().enumerate() {
                        row.lines(&format!("{name} {at}"), text);
                    }
                }
                Value::Number(_) | Value::Text(_) => {
                    let value = value.json();
                    write!(text, "\n| {name} | {} |", value.trim_matches('"')).ok();
                }
            }
        }
    }
}

impl Value {
    fn json(&self) -> String {
        match self {
            Self::Number(number) if !number.is_finite() => "null".into(),
            Self::Number(number) if number.fract() == 0.0 => format!("{number}"),
            Self::Number(number) => format!("{number:.3}"),
            Self::Text(text) => quoted(text),
            Self::Row(row) => row.json(),
            Self::Rows(rows) => {
                let rows: Vec<String> = rows.iter().map(Row::json).collect();
                format!("[{}]", rows.join(", "))
            }
        }
    }
}

/// Our keys and texts have nothing in them that JSON would want escaped but these two.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
