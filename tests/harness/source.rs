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
    let begins = ["", "pub(super) ", "pub(crate) "]
        .map(|visible| code.find(&format!("#[cfg(test)]\n{visible}mod tests {{")));
    let tests = begins.into_iter().flatten().min();
    &code[..tests.unwrap_or(code.len())]
}

/// A path that code names: `a::b::c`, with `!` when it is a macro's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Where it begins, from 1.
    pub line: usize,
    /// Its segments. A `self` at the end of a `use` is left out.
    pub path: String,
    /// Whether it is brought into scope by `use`.
    pub imported: bool,
    /// Whether `use` gives it another name; `_` is none.
    pub renamed: bool,
}

impl Named {
    /// Whether these segments stand in it, one after the other.
    #[must_use]
    pub fn has(&self, segments: &str) -> bool {
        format!("::{}::", self.path).contains(&format!("::{segments}::"))
    }

    /// Its segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path.split("::")
    }
}

/// Every path that code names, down to single names; the items of a `use` group each by itself
/// and whole. Fields, methods and what `$crate` begins are no paths of this code.
#[must_use]
pub fn paths(code: &str) -> Vec<Named> {
    let mut reader = Paths {
        code,
        at: 0,
        imports: false,
        found: Vec::new(),
    };
    while reader.at < code.len() {
        if !reader.begins_identifier() {
            if reader.imports && reader.accepts("{") {
                reader.group("");
            } else {
                reader.step();
            }
            continue;
        }
        let (before, known) = (&code[..reader.at], reader.found.len());
        let is_member = before.ends_with('.') && !before.ends_with("..");
        reader.path("");
        // What comes after the word `use` is imported, up to the end of its group.
        reader.imports = reader.found.last().is_some_and(|named| named.path == "use");
        if is_member || before.ends_with('$') {
            reader.found.truncate(known);
        }
    }
    reader.found.retain(|named| named.path != "use");
    reader.found
}

struct Paths<'a> {
    code: &'a str,
    at: usize,
    imports: bool,
    found: Vec<Named>,
}

impl<'a> Paths<'a> {
    /// Reads a path whose first segments are `prefix`; a group as many paths.
    fn path(&mut self, prefix: &str) {
        let line = self.code[..self.at].matches('\n').count() + 1;
        let mut path = prefix.to_owned();
        loop {
            let segment = self.identifier();
            // `self` at the end is what it stands in.
            if segment != "self" || path.is_empty() {
                path = join(&path, segment);
            }
            let end = self.at;
            if !self.accepts("::") {
                break;
            }
            if self.accepts("{") {
                return self.group(&path);
            }
            if self.accepts("*") {
                path = join(&path, "*");
                break;
            }
            if !self.begins_identifier() {
                // Generic arguments: what is named in them is found by itself.
                self.at = end;
                break;
            }
        }
        if self.rest().starts_with('!') && !self.rest().starts_with("!=") {
            path.push('!');
        }
        let renamed = self.imports && self.accepts("as ") && self.identifier() != "_";
        self.found.push(Named {
            line,
            path,
            imported: self.imports,
            renamed,
        });
    }

    fn group(&mut self, prefix: &str) {
        while self.at < self.code.len() && !self.accepts("}") {
            if self.begins_identifier() {
                self.path(prefix);
            } else if self.accepts("*") {
                let line = self.code[..self.at].matches('\n').count() + 1;
                self.found.push(Named {
                    line,
                    path: join(prefix, "*"),
                    imported: self.imports,
                    renamed: false,
                });
            } else {
                self.step();
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.code[self.at..]
    }

    fn step(&mut self) {
        self.at += self.rest().chars().next().map_or(0, char::len_utf8);
    }

    fn begins_identifier(&self) -> bool {
        self.rest()
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
            && !self.code[..self.at].ends_with(in_identifier)
    }

    fn identifier(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !in_identifier(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Passes over these words, and the space around them, if they are next.
    fn accepts(&mut self, words: &str) -> bool {
        let Some(rest) = self.rest().trim_start().strip_prefix(words) else {
            return false;
        };
        self.at = self.code.len() - rest.trim_start().len();
        true
    }
}

fn in_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn join(path: &str, segment: &str) -> String {
    if path.is_empty() {
        segment.to_owned()
    } else {
        format!("{path}::{segment}")
    }
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
    fn paths_are_found_whole_wherever_they_stand() {
        for (code, expected) in [
            ("use a::b;", "a::b"),
            (
                "use a::{b, c::{d, self}, e::*, f as g, self};",
                "a::b a::c::d a::c a::e::* a::f a",
            ),
            ("use {a::b, ::c::{*}};", "a::b c::*"),
            ("use a::{\n    b::{\n        c,\n    },\n};", "a::b::c"),
            (
                "x(a :: b::<c::d>(), e.f, g!(), h != i)",
                "x a::b c::d e g! h i",
            ),
            ("$crate::a::b; $c; r..d", "r d"),
            (
                "pub(crate) fn f() { crate::a() }",
                "pub crate fn f crate::a",
            ),
            ("self::super::a; 1u8", "self::super::a"),
        ] {
            let found: Vec<_> = paths(code).into_iter().map(|named| named.path).collect();
            assert_eq!(found.join(" "), expected, "{code}");
        }
    }

    #[test]
    fn paths_know_their_line_and_what_use_makes_of_them() {
        let named = |line, path: &str, imported, renamed| Named {
            line,
            path: path.to_owned(),
            imported,
            renamed,
        };
        assert_eq!(
            paths("use a as b;\nuse c::{\n d as _,\n e as f,\n};\ng as h"),
            [
                named(1, "a", true, true),
                named(3, "c::d", true, false),
                named(4, "c::e", true, true),
                named(6, "g", false, false),
                named(6, "as", false, false),
                named(6, "h", false, false),
            ]
        );
    }

    #[test]
    fn unit_tests_are_not_production() {
        for code in ["mod tests {\n}", "pub(crate) mod tests {\n}"] {
            let code = format!("fn f() {{}}\n#[cfg(test)]\n{code}");
            assert_eq!(production_of(&code), "fn f() {}\n");
        }
        let sibling = "fn f() {}\n#[cfg(test)]\nmod tests;";
        assert_eq!(production_of(sibling), sibling);
    }
}
