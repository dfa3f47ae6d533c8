//! Rust source text without what is not code, for the rules of `tidy`.

use std::{iter::Peekable, str::CharIndices};

/// The text with the content of comments, strings and characters blanked, line for line.
///
/// A small part of Rust's lexer: enough to tell code from prose.
#[must_use]
pub fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let ahead = &text[at + c.len_utf8()..];
        match c {
            '/' if ahead.starts_with('/') => skip(&mut rest, &mut code, line_len(ahead)),
            '/' if ahead.starts_with('*') => skip(&mut rest, &mut code, comment_len(ahead)),
            '"' => {
                let len = string_len(ahead);
                code.push(c);
                skip(&mut rest, &mut code, len);
            }
            'r' if is_raw_string(&text[..at], ahead) => {
                let hashes = ahead.bytes().take_while(|b| *b == b'#').count();
                let end = format!("\"{}", "#".repeat(hashes));
                let body = &ahead[hashes + 1..];
                let len = body
                    .find(&end)
                    .map_or(ahead.len(), |i| hashes + 1 + i + end.len());
                skip(&mut rest, &mut code, len);
            }
            '\'' => {
                let len = char_len(ahead);
                code.push(c);
                skip(&mut rest, &mut code, len);
            }
            _ => code.push(c),
        }
    }
    code
}

/// The part of the code that is built into the product: everything before the unit tests, which
/// stand last in a file.
#[must_use]
pub fn production_of(code: &str) -> &str {
    let tests = code.find("#[cfg(test)]\nmod tests {");
    &code[..tests.unwrap_or(code.len())]
}

/// The modules that code names as `crate::…`, by the first part of their paths, with line numbers.
#[must_use]
pub fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        // `$crate::` is another crate's view of this one; `xcrate::` is another name.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let after = &code[at + prefix.len()..];
        let names = match after.strip_prefix('{') {
            Some(group) => first_parts(group),
            None => vec![identifier(after)],
        };
        found.extend(names.into_iter().map(|name| (line, name.to_owned())));
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// The first identifier of each item of a `use` group, up to its closing brace.
fn first_parts(group: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut depth = 0;
    let mut begins = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                parts.push(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    parts
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Passes over `bytes` bytes, keeping only the line breaks.
fn skip(rest: &mut Peekable<CharIndices<'_>>, code: &mut String, bytes: usize) {
    let Some((start, _)) = rest.peek().copied() else {
        return;
    };
    while let Some((_, c)) = rest.next_if(|(at, _)| *at < start + bytes) {
        if c == '\n' {
            code.push(c);
        }
    }
}

fn line_len(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

fn comment_len(text: &str) -> usize {
    let mut depth = 1;
    let mut at = 1;
    while depth > 0 {
        let Some(next) = text[at..].find(['*', '/']) else {
            return text.len();
        };
        at += next;
        match &text[at..(at + 2).min(text.len())] {
            "*/" => (depth, at) = (depth - 1, at + 2),
            "/*" => (depth, at) = (depth + 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character's rest after its opening quote; 0 for a lifetime.
fn char_len(text: &str) -> usize {
    let mut chars = text.char_indices();
    match chars.next() {
        Some((_, '\\')) => text[1..]
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 2),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

fn is_raw_string(before: &str, ahead: &str) -> bool {
    let starts = before.ends_with(|c: char| c.is_alphanumeric() && c != 'b' || c == '_');
    !starts && ahead.trim_start_matches('#').starts_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left_and_lines_stay() {
        for (text, code) in [
            ("a // b\nc", "a \nc"),
            ("a /* b /* c */ d\n */ e", "a \n e"),
            (r#"f("// no", 'x', '"', "\"")"#, r#"f(", ', ', ")"#),
            ("r#\"a\"b\"# c", " c"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            (r"'\'' 'b'", "' '"),
        ] {
            assert_eq!(code_of(text), code, "{text}");
        }
    }

    #[test]
    fn paths_of_this_crate_are_found_in_groups_too() {
        let code = "use crate::{\n  a::{b, c},\n  d,\n};\nfn f() { crate::e::g(); $crate::h!() }";
        let found = crate_paths(code);
        let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["a", "d", "e"]);
        assert_eq!(found[2].0, 5);
    }

    #[test]
    fn unit_tests_are_not_production() {
        let code = "fn f() {}\n#[cfg(test)]\nmod tests {\n}";
        assert_eq!(production_of(code), "fn f() {}\n");
        let sibling = "fn f() {}\n#[cfg(test)]\nmod tests;";
        assert_eq!(production_of(sibling), sibling);
    }
}
