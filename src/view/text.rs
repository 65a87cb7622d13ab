//! Words and widths: times, numbers, foreign text made harmless, lines cut and wrapped by the columns they take.

use std::io::{self, Write};

use serde_json::ser::Formatter;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::core::model::Millis;

/// Columns of a screen.
pub const WIDTH: usize = 80;

/// A span in one unit, for ages: `0s` `4s` `12m` `3h` `2d`.
pub fn ago(span: Millis) -> String {
    let seconds = span.0 / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A span in two units, for what a run took: `0.4s` `12s` `1m 02s` `3h 05m` `2d 04h`.
pub fn duration(span: Millis) -> String {
    let seconds = span.0 / 1000;
    match seconds {
        0 => format!("0.{}s", span.0 / 100),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// The wait that is left: as [`ago`], but never `0s` while there is one.
pub fn wait(left: Millis) -> String {
    ago(Millis(left.0.div_ceil(1000) * 1000))
}

/// From one line of a story to the next: `9 ms` `27.3 s` `4m 11s`.
pub fn gap(span: Millis) -> String {
    match span.0 {
        0..1000 => format!("{} ms", span.0),
        1000..60_000 => format!("{}.{} s", span.0 / 1000, span.0 % 1000 / 100),
        _ => duration(span),
    }
}

/// `950` `182k` `1.9M`.
pub fn count(n: u64) -> String {
    match n {
        0..1000 => n.to_string(),
        1000..999_500 => format!("{}k", (n + 500) / 1000),
        _ => format!("{:.1}M", n as f64 / 1e6),
    }
}

/// `$0.61`.
pub fn dollars(cost: f64) -> String {
    format!("${cost:.2}")
}

/// `640 kB` `182 MB` `1.4 GB`, of kilobytes of 1024 bytes as /proc has them.
pub fn memory(kb: u64) -> String {
    let bytes = kb.saturating_mul(1024);
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// `1 task`, `3 tasks`.
pub fn plural(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

/// Foreign text on one line, without anything that would steer the terminal or turn the reading direction: white space
/// becomes a space, other control characters their picture.
pub fn clean(text: &str) -> String {
    text.chars().map(harmless).collect()
}

/// The character, or what stands for it on a screen.
fn harmless(c: char) -> char {
    match c {
        ' '..='~' => c,
        '\t' | '\n' | '\u{a0}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
        '\0'..' ' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => '\u{fffd}',
        c => c,
    }
}

/// As [`write_json`], in one piece.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    let mut text = Vec::new();
    write_json(value, &mut text).expect("string keys and plain values only");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// JSON on several lines, with a line end. What would steer a terminal, or turn the reading direction, stands as `\uXXXX`: the same
/// to a program that reads it.
pub(super) fn write_json(value: &impl serde::Serialize, to: &mut impl Write) -> io::Result<()> {
    let mut json = serde_json::Serializer::with_formatter(&mut *to, Lines::default());
    value.serialize(&mut json)?;
    to.write_all(b"\n")
}

/// As serde_json's own formatter of several lines, but for odd characters; and a line begins with one write, not with one for each step
/// of its indentation.
#[derive(Default)]
struct Lines {
    depth: usize,
    has_value: bool,
}

impl Lines {
    fn begin<W: ?Sized + Write>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        to.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.line(to, true)?;
        }
        to.write_all(bracket)
    }

    fn line<W: ?Sized + Write>(&self, to: &mut W, is_first: bool) -> io::Result<()> {
        const BEGINNING: &[u8; 34] = b",\n                                ";
        let (from, length) = (usize::from(is_first), 2 + 2 * self.depth);
        to.write_all(&BEGINNING[from..length.min(BEGINNING.len())])?;
        for _ in BEGINNING.len()..length {
            to.write_all(b" ")?;
        }
        Ok(())
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.begin(to, b"[")
    }
    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.end(to, b"]")
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.line(to, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.begin(to, b"{")
    }
    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.end(to, b"}")
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.line(to, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        part: &str,
    ) -> io::Result<()> {
        let mut rest = part;
        while let Some(at) = odd_at(rest) {
            let (plain, from) = rest.split_at(at);
            to.write_all(plain.as_bytes())?;
            let mut chars = from.chars();
            let odd = chars.next().unwrap_or_default();
            // A pair of surrogates, where one unit does not do.
            for unit in odd.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        to.write_all(rest.as_bytes())
    }
}

/// Where in a part of a JSON string the first character stands that is not harmless; those below a space are escaped before it comes
/// here. Megabytes are looked through, eight bytes at a time where they are plain.
fn odd_at(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_plain = |eight: &[u8; 8]| {
        // The first byte from 0x7f on has its highest bit set in one of the two; those before it carry nothing over.
        let word = u64::from_le_bytes(*eight);
        (word | word.wrapping_add(0x0101_0101_0101_0101)) & 0x8080_8080_8080_8080 == 0
    };
    let mut at = 0;
    loop {
        while bytes[at..].first_chunk().is_some_and(is_plain) {
            at += 8;
        }
        let rest = bytes[at..].iter();
        at += rest.take_while(|byte| **byte < 0x7f).count();
        let c = text[at..].chars().next()?;
        if harmless(c) != c {
            return Some(at);
        }
        at += c.len_utf8();
    }
}

/// Columns `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// At most `columns` columns of `text`, the last one a `…` where something was cut off.
pub fn cut(text: &str, columns: usize) -> String {
    // A terminal stacks any number of marks of no width on one cell; nobody reads more than a few.
    let limited: String = text.chars().take(columns.saturating_mul(4) + 1).collect();
    if limited.len() == text.len() && width(text) <= columns {
        return limited;
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in limited.chars() {
        used += c.width().unwrap_or(0);
        if used > columns.saturating_sub(1) {
            break;
        }
        kept.push(c);
    }
    // A sequence may be wider than its characters one by one.
    while width(&kept) > columns.saturating_sub(1) {
        kept.pop();
    }
    let kept = kept.trim_end().to_owned();
    if columns == 0 { kept } else { kept + "…" }
}

/// At most `columns` columns of a path: its end, which tells more than its beginning.
pub fn cut_front(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept: Vec<char> = Vec::new();
    let mut used = 1;
    for c in text.chars().rev() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        kept.push(c);
    }
    std::iter::once('…').chain(kept.into_iter().rev()).collect()
}

/// `text` cut to `columns` and filled up with spaces on the right.
pub fn left(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let fill = columns.saturating_sub(width(&text));
    text + &" ".repeat(fill)
}

/// `text` filled up with spaces on the left.
pub fn right(text: &str, columns: usize) -> String {
    " ".repeat(columns.saturating_sub(width(text))) + text
}

/// Words that stay on one line, as a command that is to be pasted has to.
pub fn unbroken(words: &str) -> String {
    words.replace(' ', "\u{a0}")
}

/// `text` broken at spaces into lines of at most `columns`; a longer word stands alone and whole.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    for line in &mut lines {
        *line = line.replace('\u{a0}', " ");
    }
    lines
}

/// `head` and then `text`, wrapped beside it: the first line begins with `head`, the others are indented as far.
pub fn beside(head: &str, text: &str) -> String {
    let lines = wrap(text, WIDTH.saturating_sub(width(head)));
    lines_beside(head, &lines)
}

fn lines_beside(head: &str, lines: &[String]) -> String {
    let Some((first, rest)) = lines.split_first() else {
        return format!("{}\n", head.trim_end());
    };
    let indent = " ".repeat(width(head));
    let mut out = format!("{head}{first}\n");
    for line in rest {
        out.push_str(&format!("{indent}{line}\n"));
    }
    out
}

/// Parts joined by `separator` into lines of at most `columns`, broken only between parts.
pub fn wrap_parts(parts: &[String], separator: &str, columns: usize) -> Vec<String> {
    // A comma stays on its line; a dot between two lines would say nothing.
    let stays = if separator.starts_with(' ') {
        ""
    } else {
        separator.trim_end()
    };
    let columns = columns.saturating_sub(width(stays));
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if width(line) + width(separator) + width(part) <= columns => {
                line.push_str(separator);
                line.push_str(part);
            }
            Some(line) => {
                line.push_str(stays);
                lines.push(part.clone());
            }
            None => lines.push(part.clone()),
        }
    }
    lines
}

/// As [`beside`], broken only between parts.
pub fn beside_parts(head: &str, parts: &[String], separator: &str) -> String {
    let lines = wrap_parts(parts, separator, WIDTH.saturating_sub(width(head)));
    lines_beside(head, &lines)
}

/// `a`, `a and b`, `a, b and 3 more`.
pub fn list(items: &[String], most: usize) -> String {
    let more = items.len().saturating_sub(most);
    let (shown, last) = match (more, items) {
        (0, []) => return "none".into(),
        (0, [one]) => return one.clone(),
        (0, [init @ .., last]) => (init, last.clone()),
        (more, _) => (&items[..most], format!("{more} more")),
    };
    format!("{} and {last}", shown.join(", "))
}

/// An argv as a shell would have to be given it.
pub fn shell_words(argv: &[String]) -> String {
    argv.iter()
        .map(|word| shell_word(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// One word: bare where that is safe, in single quotes where it is not, in `$'…'` where it has control characters.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | ',' | '=')
    };
    if clean(word) != word {
        let mut quoted = String::from("$'");
        for c in word.chars() {
            match c {
                '\'' => quoted.push_str("\\'"),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                c if clean(c.encode_utf8(&mut [0; 4])) == c.to_string() => quoted.push(c),
                c => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        quoted.push_str(&format!("\\x{byte:02x}"));
                    }
                }
            }
        }
        return quoted + "'";
    }
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_short_and_line_up() {
        let spans = [0, 400, 999, 4_000, 62_000, 720_000, 11_520_000, 187_200_000];
        let said: Vec<_> = spans
            .iter()
            .map(|ms| (ago(Millis(*ms)), duration(Millis(*ms))))
            .collect();
        let said: Vec<_> = said
            .iter()
            .map(|(ago, took)| format!("{ago}|{took}"))
            .collect();
        assert_eq!(
            said.join(" "),
            "0s|0.0s 0s|0.4s 0s|0.9s 4s|4s 1m|1m 02s 12m|12m 00s 3h|3h 12m 2d|2d 04h"
        );
        assert_eq!(wait(Millis(1)), "1s");
        assert_eq!(wait(Millis(60_000)), "1m");
        assert_eq!(
            (gap(Millis(9)), gap(Millis(27_349))),
            ("9 ms".into(), "27.3 s".into())
        );
    }

    #[test]
    fn numbers_are_rounded_to_what_a_person_reads() {
        assert_eq!(
            [950, 1_500, 182_300, 999_499, 999_500, 1_912_000].map(count),
            ["950", "2k", "182k", "999k", "1.0M", "1.9M"]
        );
        assert_eq!(
            [10, 178_000, 1_367_187].map(memory),
            ["10 kB", "182 MB", "1.4 GB"]
        );
    }

    #[test]
    fn a_title_cannot_steer_the_terminal() {
        assert_eq!(
            clean("a\u{1b}[31mb\nc\u{202e}d\u{7f}\u{9b}"),
            "a␛[31mb c\u{fffd}d␡\u{fffd}"
        );
    }

    #[test]
    fn a_title_is_cut_by_the_columns_it_takes() {
        assert_eq!(cut("日本語のタイトル", 7), "日本語…");
        assert_eq!(cut("exactly", 7), "exactly");
        assert_eq!(cut("one too many", 4), "one…");
        assert_eq!(cut_front("/srv/a/long/path", 8), "…ng/path");
        assert_eq!(left("ab", 4), "ab  ");
    }

    #[test]
    fn a_list_names_the_first_few() {
        let items: Vec<String> = (1..6).map(|n| format!("#{n}")).collect();
        assert_eq!(list(&items[..2], 3), "#1 and #2");
        assert_eq!(list(&items, 3), "#1, #2, #3 and 2 more");
    }

    proptest! {
        #[test]
        fn cut_text_fits(text in "\\PC{0,40}", columns in 1usize..30) {
            prop_assert!(width(&cut(&clean(&text), columns)) <= columns);
            prop_assert!(width(&left(&clean(&text), columns)) == columns);
        }

        #[test]
        fn json_says_the_same_without_control_characters(text in any::<String>()) {
            let value = serde_json::json!({ text.clone(): [text, 7] });
            let shown = json(&value);
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
            let unseen = ['\u{202e}', '\u{200b}', '\u{feff}'];
            prop_assert!(!shown.contains(unseen));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).ok(), Some(value));
        }

        /// Lists and objects within each other, empty ones among them.
        #[test]
        fn json_is_laid_out_as_usual(shape in "[a-c]{0,60}") {
            let mut value = serde_json::json!(shape);
            for step in shape.chars() {
                value = match step {
                    'a' => serde_json::json!([value, [], 1]),
                    'b' => serde_json::json!({ "one": {}, "two": value }),
                    _ => serde_json::json!([value]),
                };
            }
            let usual = serde_json::to_string_pretty(&value).expect("JSON");
            prop_assert_eq!(json(&value), usual + "\n");
        }

        #[test]
        fn clean_text_has_no_control_characters(text in any::<String>()) {
            prop_assert!(!clean(&text).chars().any(char::is_control));
        }

        /// Read back by the rules of POSIX single quotes, and of `$'…'` where those were needed.
        #[test]
        fn a_shell_reads_its_words_back(words in proptest::collection::vec("[ -~é\n\t\u{1b}]{0,12}", 1..4)) {
            let line = shell_words(&words);
            prop_assert!(!line.chars().any(char::is_control));
            let out = std::process::Command::new("bash")
                .args(["-c", &format!("printf '%s\\0' {line}")])
                .output()
                .expect("bash is there");
            let read: Vec<String> = String::from_utf8_lossy(&out.stdout)
                .split_terminator('\0')
                .map(str::to_owned)
                .collect();
            prop_assert_eq!(read, words);
        }
    }
}
