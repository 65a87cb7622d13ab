//! The texts of answers, kept as they travel: each is a JSON string, and mostly holds JSON itself.
//!
//! So a list of ten thousand tasks would be written three times: as JSON, escaped, and copied into the answer. Here both
//! escapes happen in one pass, from the row to the buffer that is sent.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// A text, escaped for the inside of a JSON string.
#[derive(Debug, Clone)]
pub(super) struct Text(Vec<u8>);

impl Text {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn prose(text: &str) -> Self {
        let mut quoted = serde_json::to_vec(text).expect("a text is a JSON string");
        quoted.pop();
        quoted.remove(0);
        Self(quoted)
    }

    /// Two spaces, as `JSON.stringify(…, null, 2)`.
    pub(super) fn json(value: &impl Serialize) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        write(&mut bytes, value, 0);
        Self(bytes)
    }

    /// Prose, an empty line, JSON.
    pub(super) fn prose_and_json(prose: &str, value: &impl Serialize) -> Self {
        let mut text = Self::prose(prose);
        text.0.extend_from_slice(b"\\n\\n");
        write(&mut text.0, value, 0);
        text
    }

    /// With what stands before and after it in the answer; the buffer is the text's own.
    pub(super) fn within(self, before: &[u8], after: &[u8]) -> Vec<u8> {
        let mut bytes = self.0;
        bytes.reserve_exact(before.len() + after.len());
        bytes.splice(0..0, before.iter().copied());
        bytes.extend_from_slice(after);
        bytes
    }

    /// The text itself.
    pub(super) fn plain(&self) -> String {
        let quoted = [b"\"", self.0.as_slice(), b"\""].concat();
        serde_json::from_slice(&quoted).expect("escaped by this file")
    }
}

/// An object with a list at its end, written item by item, as whole rows lie in memory only while they are read.
pub(super) struct List {
    items: Vec<u8>,
    count: usize,
}

impl List {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            count: 0,
        }
    }

    pub(super) fn push(&mut self, item: &impl Fields) {
        let between: &[u8] = if self.count == 0 { b"" } else { b"," };
        self.items.extend_from_slice(between);
        self.items.extend_from_slice(b"\\n    {");
        item.write(&mut Object {
            bytes: &mut self.items,
            is_empty: true,
        });
        self.items.extend_from_slice(b"\\n    }");
        self.count += 1;
    }

    /// What `head` says of the count, and then the list by its name.
    pub(super) fn named(self, name: &str, head: impl FnOnce(usize) -> Value) -> Text {
        let mut before = Vec::with_capacity(256);
        write(&mut before, &head(self.count), 0);
        before.truncate(before.len() - b"\\n}".len());
        before.extend_from_slice(b",\\n  ");
        write(&mut before, name, 1);
        before.extend_from_slice(b": [");
        let after: &[u8] = match self.count {
            0 => b"]\\n}",
            _ => b"\\n  ]\\n}",
        };
        Text(Text(self.items).within(&before, after))
    }
}

/// What writes itself key by key, as the object that its `Serialize` would make of it: in about half the time.
pub(super) trait Fields {
    fn write(&self, to: &mut Object<'_>);
}

/// An object in a [`List`], being written. It has at least one key.
pub(super) struct Object<'a> {
    bytes: &'a mut Vec<u8>,
    is_empty: bool,
}

impl Object<'_> {
    pub(super) fn text(&mut self, key: &str, text: Option<&str>) {
        self.key(key);
        match text {
            Some(text) if text.bytes().all(is_plain) => {
                self.bytes.extend_from_slice(b"\\\"");
                self.bytes.extend_from_slice(text.as_bytes());
                self.bytes.extend_from_slice(b"\\\"");
            }
            text => write(self.bytes, &text, DEPTH),
        }
    }

    pub(super) fn value(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        self.key(key);
        write(self.bytes, value, DEPTH);
    }

    fn key(&mut self, key: &str) {
        let between: &[u8] = if self.is_empty { b"" } else { b"," };
        self.is_empty = false;
        self.bytes.extend_from_slice(between);
        self.bytes.extend_from_slice(b"\\n      \\\"");
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(b"\\\": ");
    }
}

/// Of what stands in an object in a list.
const DEPTH: usize = 3;

/// Stands for itself in a JSON string, and in one within one.
fn is_plain(byte: u8) -> bool {
    byte >= b' ' && byte != b'"' && byte != b'\\'
}

fn write<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T, depth: usize) {
    let nested = Nested {
        depth,
        is_empty: false,
    };
    value
        .serialize(&mut Serializer::with_formatter(bytes, nested))
        .expect("string keys and plain values only");
}

/// serde_json's `PrettyFormatter`, all of it escaped for the inside of a JSON string.
struct Nested {
    depth: usize,
    is_empty: bool,
}

/// A line break and as many spaces as the deepest answer needs: a task in a list.
const INDENT: &[u8; 34] = b"\\n                                ";

impl Nested {
    fn break_line<W: io::Write + ?Sized>(&self, to: &mut W) -> io::Result<()> {
        let width = 2 + 2 * self.depth;
        match INDENT.get(..width) {
            Some(indent) => to.write_all(indent),
            None => {
                to.write_all(INDENT)?;
                (INDENT.len()..width).try_for_each(|_| to.write_all(b" "))
            }
        }
    }

    fn begin<W: io::Write + ?Sized>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        to.write_all(bracket)
    }

    fn end<W: io::Write + ?Sized>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.break_line(to)?;
        }
        self.is_empty = false;
        to.write_all(bracket)
    }

    fn item<W: io::Write + ?Sized>(&mut self, to: &mut W, is_first: bool) -> io::Result<()> {
        if !is_first {
            to.write_all(b",")?;
        }
        self.break_line(to)
    }
}

impl Formatter for Nested {
    fn begin_array<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.begin(to, b"[")
    }
    fn end_array<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.end(to, b"]")
    }
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.item(to, is_first)
    }
    fn end_array_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }
    fn begin_object<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.begin(to, b"{")
    }
    fn end_object<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.end(to, b"}")
    }
    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.item(to, is_first)
    }
    fn begin_object_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
    fn end_object_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }
    fn begin_string<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b"\\\"")
    }
    fn end_string<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b"\\\"")
    }
    // A fragment holds nothing that has to be escaped (`Formatter`), once or twice: the default writes it as it is.
    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => to.write_all(br#"\\\""#),
            CharEscape::ReverseSolidus => to.write_all(br"\\\\"),
            CharEscape::Solidus => to.write_all(b"/"),
            CharEscape::Backspace => to.write_all(br"\\b"),
            CharEscape::FormFeed => to.write_all(br"\\f"),
            CharEscape::LineFeed => to.write_all(br"\\n"),
            CharEscape::CarriageReturn => to.write_all(br"\\r"),
            CharEscape::Tab => to.write_all(br"\\t"),
            CharEscape::AsciiControl(byte) => write!(to, "\\\\u{byte:04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\u{0}-\u{30}\"\\\\/]{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(20, 60, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..3)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// Keys in the order of the alphabet, as serde_json's objects have them.
    #[derive(Debug, Serialize)]
    struct Item {
        other: Value,
        text: Option<String>,
    }

    impl Fields for Item {
        fn write(&self, to: &mut Object<'_>) {
            to.value("other", &self.other);
            to.text("text", self.text.as_deref());
        }
    }

    fn item() -> impl Strategy<Value = Item> {
        let text = prop_oneof![
            any::<String>(),
            "[ -~]{0,9}",
            "[\u{0}-\u{30}\"\\\\/\u{7f}-\u{90}]{0,9}"
        ];
        (value(), prop::option::of(text)).prop_map(|(other, text)| Item { other, text })
    }

    proptest! {
        #[test]
        fn one_pass_writes_what_two_would(value in value()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let twice = serde_json::to_string(&pretty).unwrap();
            let once = Text::json(&value).within(b"\"", b"\"");
            prop_assert_eq!(String::from_utf8(once).unwrap(), twice);
            prop_assert_eq!(Text::json(&value).plain(), pretty);
        }

        #[test]
        fn a_list_is_an_object_with_a_list(items in prop::collection::vec(item(), 0..4), agent: String) {
            let mut list = List::new();
            items.iter().for_each(|item| list.push(item));
            let whole = json!({"agent": agent, "count": items.len(), "tasks": items});
            let text = list.named("tasks", |count| json!({"agent": agent, "count": count}));
            prop_assert_eq!(text.plain(), serde_json::to_string_pretty(&whole).unwrap());
        }

        #[test]
        fn prose_is_itself(text: String) {
            prop_assert_eq!(Text::prose(&text).plain(), text);
        }
    }
}
