//! The forms in which a file names resources.
//!
//! Lines are read one by one, so that a file of any length can be imported; only an array must be
//! read whole, for which there is a limit.

use std::io::{self, BufRead, Read as _};

use holdfast_model::{ModuleName, ResourceId, Spec};
use serde_json::{Map, Value};

/// A resource, or what is wrong with what stands in its place.
pub(in crate::cli) struct Record {
    /// Line in the file, or place in the array, from 1.
    pub(in crate::cli) at: u64,
    pub(in crate::cli) content: Result<Named, String>,
}

/// A resource that a file names.
#[derive(Debug)]
pub(in crate::cli) struct Named {
    /// The module that it belonged to, where the file says so: lists do.
    pub(in crate::cli) module: Option<ModuleName>,
    pub(in crate::cli) id: ResourceId,
    pub(in crate::cli) spec: Spec,
}

/// What a file has beside resources.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Source {
    /// It is one page of a list that goes on: where the next one begins.
    pub(in crate::cli) next_cursor: Option<String>,
}

/// Calls `each` for every record, until it returns false.
///
/// # Errors
/// When the input cannot be read, or is JSON of another form.
pub(in crate::cli) fn read(
    mut input: impl BufRead,
    mut each: impl FnMut(Record) -> bool,
) -> io::Result<Source> {
    let mut first = String::new();
    let mut at = 0;
    while first.trim().is_empty() {
        first.clear();
        at += 1;
        if read_line(&mut input, &mut first)? == 0 {
            return Ok(Source::default());
        }
    }
    let is_whole = match first.trim_start().as_bytes()[0] {
        b'[' => true,
        // One object a line, or the beginning of an object that has an array.
        b'{' => serde_json::from_str::<Map<String, Value>>(&first)
            .map_or(true, |object| is_list(&object)),
        _ => false,
    };
    if is_whole {
        return read_array(&first, input, each);
    }
    loop {
        let line = first.trim();
        if !line.is_empty()
            && !each(Record {
                at,
                content: parse_line(line),
            })
        {
            return Ok(Source::default());
        }
        first.clear();
        at += 1;
        if read_line(&mut input, &mut first)? == 0 {
            return Ok(Source::default());
        }
    }
}

fn read_line(input: &mut impl BufRead, line: &mut String) -> io::Result<usize> {
    let read = io::Read::take(input, LINE_BYTES_MAX + 1).read_line(line)?;
    if read as u64 > LINE_BYTES_MAX {
        return Err(invalid(format!(
            "a line has at most {LINE_BYTES_MAX} bytes"
        )));
    }
    Ok(read)
}

fn read_array(
    first: &str,
    input: impl BufRead,
    mut each: impl FnMut(Record) -> bool,
) -> io::Result<Source> {
    let mut source = Source::default();
    let mut text = first.to_owned();
    io::Read::take(input, ARRAY_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > ARRAY_BYTES_MAX {
        return Err(invalid(format!(
            "an array has at most {} MiB; one object a line may be of any length",
            ARRAY_BYTES_MAX >> 20
        )));
    }
    let value: Value =
        serde_json::from_str(&text).map_err(|error| invalid(format!("it is no JSON: {error}")))?;
    let items = match value {
        Value::Array(items) => items,
        Value::Object(mut object) if is_list(&object) => {
            if let Some(Value::String(cursor)) = object.remove("next_cursor") {
                source.next_cursor = Some(cursor);
            }
            let mut lists = LISTS.iter().filter_map(|name| object.remove(*name));
            match lists.find(Value::is_array) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        // A single resource, written over several lines.
        Value::Object(object) => vec![Value::Object(object)],
        _ => return Err(invalid("it is no array and no object".to_owned())),
    };
    for (at, item) in (1..).zip(items) {
        if !each(Record {
            at,
            content: parse(item),
        }) {
            break;
        }
    }
    Ok(source)
}

fn is_list(object: &Map<String, Value>) -> bool {
    let has = |name: &&str| object.get(*name).is_some_and(Value::is_array);
    !object.contains_key("id") && LISTS.iter().any(has)
}

fn parse_line(line: &str) -> Result<Named, String> {
    if line.starts_with('{') {
        let value =
            serde_json::from_str(line).map_err(|error| format!("it is no JSON: {error}"))?;
        return parse(value);
    }
    plain(line)
}

fn parse(item: Value) -> Result<Named, String> {
    let mut object = match item {
        Value::Object(object) => object,
        Value::String(text) => return plain(&text),
        Value::Number(number) => return plain(&number.to_string()),
        _ => return Err("it is no id and no object".to_owned()),
    };
    let id = match object.remove("id") {
        Some(Value::String(text)) => id(&text)?,
        Some(Value::Number(number)) => id(&number.to_string())?,
        Some(_) => return Err("its `id` is no text".to_owned()),
        None => return Err("it has no `id`".to_owned()),
    };
    let mut module = None;
    let spec = match object.remove("spec") {
        None => Value::Object(object),
        Some(spec) => {
            let mut others = object.keys();
            if let Some(other) = others.find(|key| !LISTED.contains(&key.as_str())) {
                return Err(format!("`{other}` does not belong beside `spec`"));
            }
            if let Some(Value::String(name)) = object.get("module") {
                let name = name.parse::<ModuleName>();
                module = Some(name.map_err(|error| error.to_string())?);
            }
            spec
        }
    };
    let spec = Spec::from_value(&spec).map_err(|error| error.to_string())?;
    Ok(Named { module, id, spec })
}

fn plain(text: &str) -> Result<Named, String> {
    Ok(Named {
        module: None,
        id: id(text)?,
        spec: Spec::default(),
    })
}

fn id(text: &str) -> Result<ResourceId, String> {
    text.parse()
        .map_err(|error: holdfast_model::InvalidResourceId| error.to_string())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// What a list may be called in the object around it: the API's own, and what others call theirs.
const LISTS: [&str; 2] = ["resources", "data"];

/// What `holdfast resources list` and `get` say of a resource beside its id and its spec. It is how
/// the resource was, and nothing that it is to be.
const LISTED: [&str; 13] = [
    "module",
    "slot",
    "allocated_at_ms",
    "owner",
    "token",
    "status",
    "attempt",
    "restarts",
    "held_since_ms",
    "last_error",
    "version",
    "in_flight",
    "waiting",
];

/// Longest line: a spec of the greatest length with every character escaped, and its id.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Longest array, in bytes.
const ARRAY_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        read(text.as_bytes(), |record| {
            all.push(match record.content {
                Ok(Named { id, spec, .. }) => format!("{} {id} {spec:?}", record.at),
                Err(error) => format!("{} error: {error}", record.at),
            });
            true
        })
        .unwrap();
        all
    }

    #[test]
    fn every_form_is_read() {
        let expected = ["1 a {}", r#"2 b {"x":1}"#];
        for text in [
            "{\"id\":\"a\"}\n{\"id\":\"b\",\"spec\":{\"x\":1}}",
            "{\"id\":\"a\",\"spec\":{}}\r\n{\"id\":\"b\",\"x\":1}\r\n",
            "[\"a\", {\"id\":\"b\",\n\"spec\":{\"x\":1}}]",
            "{\"data\":[{\"id\":\"a\"},{\"id\":\"b\",\"x\":1}],\"total\":2}",
            "{\n \"data\": [\n \"a\", {\"id\":\"b\",\"x\":1}\n]}\n",
        ] {
            assert_eq!(all(text), expected, "{text}");
        }
        assert_eq!(all("a\n\n b/c \n"), ["1 a {}", "3 b/c {}"]);
        assert_eq!(all("1\n2"), ["1 1 {}", "2 2 {}"]);
        assert_eq!(all("{\n\"id\": 7,\n\"x\": 1}"), [r#"1 7 {"x":1}"#]);
        assert!(all("").is_empty());
        assert!(all("\n \n").is_empty());
    }

    #[test]
    fn what_a_list_says_of_a_resource_is_read() {
        let mut info = super::super::tests::info("a");
        info.spec = Spec::from_json(br#"{"x":12345678901234567890}"#).unwrap();
        let list = holdfast_model::api::ResourceList {
            resources: vec![info.clone(), super::super::tests::info("b")],
            next_cursor: None,
        };
        let one = serde_json::to_string(&info).unwrap();
        assert_eq!(all(&one), [r#"1 a {"x":12345678901234567890}"#]);
        let page = serde_json::to_string(&list).unwrap();
        assert_eq!(all(&page), [r#"1 a {"x":12345678901234567890}"#, "2 b {}"]);
        read(one.as_bytes(), |record| {
            let module = record.content.unwrap().module;
            assert_eq!(module.unwrap(), info.module);
            true
        })
        .unwrap();
    }

    #[test]
    fn a_list_that_goes_on_says_so() {
        let page = r#"{"resources":[{"id":"a","spec":{}}],"next_cursor":"ATEw"}"#;
        let source = read(page.as_bytes(), |_| true).unwrap();
        assert_eq!(source.next_cursor.as_deref(), Some("ATEw"));
        let whole = r#"{"resources":[{"id":"a","spec":{}}],"next_cursor":null}"#;
        let source = read(whole.as_bytes(), |_| true).unwrap();
        assert_eq!(source, Source::default());
    }

    #[test]
    fn a_bad_line_is_told_and_the_others_are_read() {
        let seen = all(
            "{\"id\":\"a\"}\n{\"id\":\n{}\n{\"id\":\"b\",\"spec\":1}\n{\"id\":\"c\",\"spec\":{},\"x\":1}\nd",
        );
        assert_eq!(seen[0], "1 a {}");
        assert!(seen[1].starts_with("2 error: it is no JSON"), "{seen:?}");
        assert_eq!(seen[2], "3 error: it has no `id`");
        assert_eq!(seen[3], "4 error: a spec must be a JSON object");
        assert_eq!(seen[4], "5 error: `x` does not belong beside `spec`");
        assert_eq!(seen[5], "6 d {}");
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let long = "x".repeat(LINE_BYTES_MAX as usize + 1);
        let error = read(long.as_bytes(), |_| true).unwrap_err();
        assert!(error.to_string().contains("a line has at most"), "{error}");
        let error = read("[1,".as_bytes(), |_| true).unwrap_err();
        assert!(error.to_string().contains("no JSON"), "{error}");
    }
}
