//! HTTP spoken by hand, and answers held against the description of the API.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

pub(crate) const ONE_VALUE: &str = "application/json";
pub(crate) const LINES: &str = "application/x-ndjson";

/// What came for a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// The end came where it had been announced.
    pub(crate) is_whole: bool,
}

impl Told {
    pub(crate) fn kind(&self) -> &str {
        self.header("content-type").unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The text of a request.
pub(crate) fn request_text(method: &str, target: &str, accept: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-length: {length}\r\n"),
    };
    format!(
        "{method} {target} HTTP/1.1\r\nhost: doppelfs\r\naccept: {accept}\r\n{length}\r\n{body}"
    )
}

/// Says `text` and hears all that comes; nothing is understood where nothing was said.
pub(crate) fn say(socket: &Path, text: &[u8]) -> Told {
    let mut stream = UnixStream::connect(socket).expect("connect to a socket");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("set a timeout");
    // It may answer before it has heard all.
    let _ = stream.write_all(text);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    understand(&String::from_utf8_lossy(&bytes))
}

pub(crate) fn ask(socket: &Path, method: &str, target: &str, accept: &str, body: &str) -> Told {
    say(
        socket,
        request_text(method, target, accept, body).as_bytes(),
    )
}

/// Takes a response apart.
pub(crate) fn understand(text: &str) -> Told {
    let Some((head, rest)) = text.split_once("\r\n\r\n") else {
        return Told::default();
    };
    let mut told = Told {
        status: head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0),
        head: head.to_owned(),
        ..Told::default()
    };
    if told.header("transfer-encoding") != Some("chunked") {
        let length = told.header("content-length").and_then(|l| l.parse().ok());
        told.is_whole = length.is_none_or(|length: usize| length == rest.len());
        rest.clone_into(&mut told.body);
        return told;
    }
    let mut rest = rest;
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        told.is_whole = length == 0 && after == "\r\n";
        told.body += after.get(..length).unwrap_or(after);
        rest = after.get(length + 2..).unwrap_or_default();
    }
    told
}

/// The description.
pub(crate) struct Description(pub(crate) Value);

/// Words of schemas that are looked at, and those that say nothing about the value.
const KEYWORDS: [&str; 11] = [
    "$ref",
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "anyOf",
    "allOf",
    "minimum",
    "additionalProperties",
];
const REMARKS: [&str; 2] = ["description", "default"];

impl Description {
    pub(crate) fn new() -> Description {
        let text = doppelfs::control::DESCRIPTION;
        Description(serde_json::from_str(text).expect("the description is JSON"))
    }

    /// Method, path and description of each operation.
    pub(crate) fn operations(&self) -> Vec<(String, String, &Value)> {
        let mut found = Vec::new();
        for (path, methods) in self.0["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                found.push((method.to_uppercase(), path.clone(), operation));
            }
        }
        found
    }

    pub(crate) fn operation(&self, method: &str, path: &str) -> &Value {
        &self.0["paths"][path][method.to_lowercase()]
    }

    pub(crate) fn schema(&self, name: &str) -> &Value {
        &self.0["components"]["schemas"][name]
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => {
                let found = self.0.pointer(place.trim_start_matches('#'));
                found.unwrap_or_else(|| panic!("{place} leads nowhere"))
            }
            None => value,
        }
    }

    /// What in an answer is other than described.
    pub(crate) fn differences(&self, method: &str, path: &str, told: &Told) -> Vec<String> {
        let operation = self.operation(method, path);
        let response = self.resolved(&operation["responses"][told.status.to_string()]);
        let schema = &response["content"][told.kind()]["schema"];
        if !schema.is_object() {
            let (status, kind) = (told.status, told.kind());
            return vec![format!("{method} {path}: {status} {kind} is not described")];
        }
        let mut wrong = Vec::new();
        if !told.is_whole {
            wrong.push(format!("{method} {path}: the answer has no end"));
        }
        let lines = told.body.lines();
        let values: Vec<&str> = match told.kind() {
            LINES => lines.collect(),
            _ => vec![&told.body],
        };
        for text in values {
            let at = format!("{method} {path} {}", told.status);
            match serde_json::from_str(text) {
                Ok(value) => wrong.extend(self.misfits(schema, &value, &at)),
                Err(e) => wrong.push(format!("{at}: {e} in {text}")),
            }
        }
        wrong
    }

    /// What in a value is other than its schema says, or not said by it.
    pub(crate) fn misfits(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let known = self.look(schema, value, at, &mut wrong);
        for key in value.as_object().into_iter().flat_map(|o| o.keys()) {
            if !known.contains(key) {
                wrong.push(format!("{at}.{key}: is not described"));
            }
        }
        wrong
    }

    /// The properties that the schema knows of the value.
    fn look(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
        wrong: &mut Vec<String>,
    ) -> BTreeSet<String> {
        let mut known = BTreeSet::new();
        for (word, says) in schema.as_object().expect("a schema is an object") {
            let fits = match word.as_str() {
                "$ref" => {
                    known.extend(self.look(self.resolved(schema), value, at, wrong));
                    true
                }
                "type" => types_of(says).any(|name| is_of_type(value, name)),
                "const" => value == says,
                "enum" => says.as_array().expect("words").contains(value),
                "minimum" => value.as_f64().is_none_or(|v| Some(v) >= says.as_f64()),
                "required" => {
                    let names = says.as_array().expect("names").iter();
                    let mut names = names.map(|name| name.as_str().expect("a name"));
                    !value.is_object() || names.all(|name| value.get(name).is_some())
                }
                "items" => {
                    for (index, one) in value.as_array().into_iter().flatten().enumerate() {
                        wrong.extend(self.misfits(says, one, &format!("{at}[{index}]")));
                    }
                    true
                }
                "properties" => {
                    for (key, schema) in says.as_object().expect("properties") {
                        known.insert(key.clone());
                        if let Some(one) = value.get(key) {
                            wrong.extend(self.misfits(schema, one, &format!("{at}.{key}")));
                        }
                    }
                    true
                }
                "allOf" => {
                    for one in says.as_array().expect("schemas") {
                        known.extend(self.look(one, value, at, wrong));
                    }
                    true
                }
                "anyOf" => {
                    let mut misfits = Vec::new();
                    let mut is_any = false;
                    for one in says.as_array().expect("schemas") {
                        let mut its = Vec::new();
                        let names = self.look(one, value, at, &mut its);
                        is_any |= its.is_empty();
                        known.extend(its.is_empty().then_some(names).into_iter().flatten());
                        misfits.append(&mut its);
                    }
                    if !is_any {
                        wrong.append(&mut misfits);
                    }
                    is_any
                }
                word => REMARKS.contains(&word),
            };
            if !fits {
                let shown = value.to_string();
                wrong.push(format!("{at}: {word} {says} does not fit {shown:.200}"));
            }
        }
        known
    }

    /// Schemas with words that are not looked at here.
    pub(crate) fn strange_words(&self) -> Vec<String> {
        let schemas = self.0["components"]["schemas"].as_object();
        let mut wrong = Vec::new();
        for (name, schema) in schemas.expect("schemas") {
            strange_words(schema, name, &mut wrong);
        }
        wrong
    }
}

fn strange_words(schema: &Value, at: &str, wrong: &mut Vec<String>) {
    for (word, says) in schema.as_object().expect("a schema") {
        match word.as_str() {
            "properties" => {
                for (key, one) in says.as_object().expect("properties") {
                    strange_words(one, &format!("{at}.{key}"), wrong);
                }
            }
            "items" => strange_words(says, at, wrong),
            "anyOf" | "allOf" => {
                let all = says.as_array().expect("schemas").iter();
                all.for_each(|one| strange_words(one, at, wrong));
            }
            "additionalProperties" => wrong.push(format!("{at}: it could not grow")),
            word if KEYWORDS.contains(&word) || REMARKS.contains(&word) => {}
            word => wrong.push(format!("{at}: {word}")),
        }
    }
}

fn types_of(says: &Value) -> impl Iterator<Item = &str> {
    let several = says.as_array().into_iter().flatten();
    several
        .chain(says.is_string().then_some(says))
        .filter_map(Value::as_str)
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}
