//! Which templates are rendered here: those whose result cannot be much larger than what they are made of.
//!
//! A dozen lines of Jinja can fill any memory: a loop, a macro, or a value that is joined with itself forty times. goose
//! renders a recipe in a process of its own; here it would be the daemon that grows. So a template may put values in, choose and
//! inherit, and one that does more is left as it is.

use std::io::{self, Write};

/// Blocks that neither repeat nor assign.
const BLOCKS: [&str; 8] = [
    "if", "elif", "else", "endif", "extends", "block", "endblock", "endraw",
];
/// Filters whose result is about as long as what they are given.
const FILTERS: [&str; 9] = [
    "default", "d", "upper", "lower", "title", "trim", "string", "int", "escape",
];
/// Names that bring text which stands elsewhere in the template.
const REPEATING: [&str; 3] = ["self", "super", "loop"];
/// Longest expression: each `~` in it copies all that stands before.
const EXPRESSION: usize = 200;
/// Largest result.
const LIMIT: usize = 4 << 20;

/// May it be rendered? No parser of Jinja: where in doubt, no.
pub(super) fn is_bounded(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        let (is_block, end) = match rest.as_bytes().first() {
            Some(b'{') => (false, "}}"),
            Some(b'%') => (true, "%}"),
            Some(b'#') => match rest.find("#}") {
                Some(end) => {
                    rest = &rest[end + 2..];
                    continue;
                }
                None => return false,
            },
            _ => continue,
        };
        let Some(words) = until(&rest[1..], end) else {
            return false;
        };
        if !is_harmless(words.trim_matches(['-', '+']), is_block) {
            return false;
        }
        rest = &rest[1 + words.len() + end.len()..];
    }
    true
}

/// What stands before `end`, which may also stand in a quoted text; `None` where it never comes.
fn until<'a>(text: &'a str, end: &str) -> Option<&'a str> {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, _) if text[at..].starts_with(end) => return Some(&text[..at]),
            (None, _) => {}
        }
    }
    None
}

fn is_harmless(words: &str, is_block: bool) -> bool {
    let words = words.trim();
    let name = |text: &str| -> String {
        let text = text.trim_start();
        let is_of_name = |c: &char| c.is_alphanumeric() || *c == '_';
        text.chars().take_while(is_of_name).collect()
    };
    if is_block && !BLOCKS.contains(&name(words).as_str()) {
        return false;
    }
    if words.len() > EXPRESSION || words.contains('*') {
        return false;
    }
    let mut pieces = words.split('|');
    pieces.next();
    pieces.all(|filter| FILTERS.contains(&name(filter).as_str()))
        && !words
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| REPEATING.contains(&word))
}

/// The result, up to a limit; `None` beyond it, and where the template is none.
pub(super) fn render(
    template: &minijinja::Template<'_, '_>,
    values: impl Into<minijinja::Value>,
) -> Option<String> {
    let mut out = Bounded(Vec::new());
    template.render_captured_to(values.into(), &mut out).ok()?;
    String::from_utf8(out.0).ok()
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_puts_values_in_and_chooses_is_rendered() {
        for text in [
            "title: {{ title }}",
            "{% if a %}b: {{ c ~ '/x}}' }}{% endif %} { not } {# a comment with {% for %} #}",
            "{% extends \"base.yaml\" %}{%- block x -%}{{ a | default('**', true) }}{% endblock %}",
        ] {
            let is_pair = !text.contains("**");
            assert_eq!(is_bounded(text), is_pair, "{text}");
        }
        assert!(is_bounded(
            "uri: http://127.0.0.1:{{ port|default(3000) }}/mcp"
        ));
    }

    #[test]
    fn what_repeats_multiplies_or_assigns_is_not() {
        for text in [
            "{% for a in b %}{% endfor %}",
            "{%- for a in b %}",
            "{% set x = x ~ x %}",
            "{% with x = y %}{% endwith %}",
            "{% macro x() %}{% endmacro %}",
            "{% include \"x\" %}",
            "{{ \"a\" * 100000000 }}",
            "{{ a|replace(\"a\", a) }}",
            "{{ a|indent(100000000) }}",
            "{{ self.a() }}",
            "{{ super() }}",
            "{% raw %}{{ a }}{% endraw %}",
            "{{ 'a }} {% for %}",
            "{{ '\"'}}{% for x in y %}{{ '\"' }}",
            "{# never closed",
        ] {
            assert!(!is_bounded(text), "{text}");
        }
        let long = format!("{{{{ a{} }}}}", " ~ a".repeat(60));
        assert!(!is_bounded(&long));
    }

    #[test]
    fn a_result_beyond_the_limit_is_none() {
        let environment = minijinja::Environment::new();
        let text = "{{ a }}".repeat(5000);
        let template = environment.template_from_str(&text).expect("a template");
        let value = |n| std::collections::BTreeMap::from([("a", "x".repeat(n))]);
        assert_eq!(render(&template, value(1_000_000)), None);
        assert_eq!(
            render(&template, value(10)).map(|text| text.len()),
            Some(50_000)
        );
    }
}
