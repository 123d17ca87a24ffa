//! From a JSON Schema, as it is derived, to the structural form that `apiextensions.k8s.io/v1` takes.
//!
//! A structural schema has a type at every place, no references, and its properties outside of any `oneOf`. What Rust's types say in other
//! ways is said anew here: a reference becomes what it refers to, an optional value the value, an enumeration a list of its names, and a
//! choice among fields an object of which exactly one field is set.

use serde_json::{Map, Value, json};

/// Lines for the end of a description, whoever says the beginning.
pub(super) const LINES: &str = "x-lines";

/// Makes a schema structural. `definitions` is what its references refer to, by name.
pub(super) fn structural(schema: &Value, definitions: &Map<String, Value>) -> Value {
    let Value::Object(schema) = schema else { return json!({}) };
    let mut schema = schema.clone();
    if let Some(Value::String(reference)) = schema.remove("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let referred = definitions.get(name).unwrap_or_else(|| panic!("no definition of {name}"));
        return structural(&Value::Object(over(schema, referred)), definitions);
    }
    if let Some(value) = optional(&schema) {
        schema.remove("anyOf");
        return structural(&Value::Object(over(schema, &value)), definitions);
    }
    if let Some(Value::Array(alternatives)) = schema.remove("oneOf") {
        if alternatives
            .iter()
            .all(|alternative| alternative.get("const").is_some() || alternative.get("enum").is_some())
        {
            enumeration(&mut schema, &alternatives);
        } else {
            choice(&mut schema, &alternatives);
        }
    }
    // `null` is an absent value to the API server.
    if let Some(Value::Array(types)) = schema.get("type") {
        let value = types.iter().find(|name| *name != "null").cloned().unwrap_or_default();
        schema.insert("type".to_owned(), value);
    }
    // To fill in what is as good as nothing would only make objects longer.
    if schema
        .get("default")
        .is_some_and(|value| value.is_null() || value == "" || value.is_object() || value.is_array())
    {
        schema.remove("default");
    }
    // Unknown fields are pruned, or refused where the client asks for it: there is no third way.
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
    }
    integers(&mut schema);
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = prose(description);
    }
    if let Some(Value::Array(lines)) = schema.remove(LINES) {
        let description = schema.entry("description").or_insert_with(|| json!(""));
        let lines = std::iter::once(&*description).chain(&lines).filter_map(Value::as_str);
        *description = json!(lines.collect::<Vec<_>>().join("\n"));
    }
    for key in ["$schema", "$defs", "title"] {
        schema.remove(key);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(part) = schema.get_mut(key) {
            *part = structural(part, definitions);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            *property = structural(property, definitions);
        }
    }
    Value::Object(schema)
}

/// A comment's text without its line breaks and links: lists and paragraphs stay.
fn prose(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        let joins = !text.is_empty() && !text.ends_with('\n') && !line.is_empty() && !line.starts_with("- ");
        text.push_str(if text.is_empty() || text.ends_with('\n') && !line.is_empty() {
            ""
        } else if joins {
            " "
        } else {
            "\n"
        });
        text.push_str(line);
    }
    text.replace("[`", "`").replace("`]", "`")
}

/// A schema, with what is said where it is referred to in place of what it says itself; rules of both hold.
fn over(referring: Map<String, Value>, referred: &Value) -> Map<String, Value> {
    let mut merged = referred.as_object().cloned().unwrap_or_default();
    for (key, value) in referring {
        match (merged.get_mut(&key), value) {
            (Some(Value::Array(rules)), Value::Array(more)) if key == "x-kubernetes-validations" => rules.extend(more),
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
    merged
}

/// The value of a schema that says "this, or null".
fn optional(schema: &Map<String, Value>) -> Option<Value> {
    let alternatives = schema.get("anyOf")?.as_array()?;
    let is_null = |alternative: &Value| alternative.get("type").is_some_and(|name| name == "null");
    match alternatives.as_slice() {
        [value, null] | [null, value] if is_null(null) => Some(value.clone()),
        _ => None,
    }
}

/// Names, each with a line about it in the description.
fn enumeration(schema: &mut Map<String, Value>, alternatives: &[Value]) {
    let mut names = Vec::new();
    let mut lines = Vec::new();
    for alternative in alternatives {
        let own = match (alternative.get("const"), alternative.get("enum")) {
            (Some(name), _) => vec![name.clone()],
            (None, Some(Value::Array(names))) => names.clone(),
            (None, _) => Vec::new(),
        };
        if let (Some(Value::String(text)), [Value::String(name)]) = (alternative.get("description"), own.as_slice()) {
            let name = if name.is_empty() { "\"\"" } else { name };
            lines.push(format!("- {name}: {text}"));
        }
        names.extend(own);
    }
    schema.insert(LINES.to_owned(), json!(lines));
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("enum".to_owned(), json!(names));
}

/// Fields of which exactly one is set.
fn choice(schema: &mut Map<String, Value>, alternatives: &[Value]) {
    let mut properties = Map::new();
    for alternative in alternatives {
        let fields = alternative.get("properties").and_then(Value::as_object).into_iter().flatten();
        for (name, field) in fields {
            let mut field = field.clone();
            if let (Some(description), Value::Object(field)) = (alternative.get("description"), &mut field) {
                field.insert("description".to_owned(), description.clone());
            }
            properties.insert(name.clone(), field);
        }
    }
    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
    let message = format!("must have exactly one of the fields {}", names.join(", "));
    let set: Vec<String> = names.iter().map(|name| format!("has(self.{name})")).collect();
    let rule = format!("[{}].exists_one(set, set)", set.join(", "));
    schema.insert("x-kubernetes-validations".to_owned(), json!([{"rule": rule, "message": message}]));
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.remove("required");
}

/// Rust's unsigned integers, as ranges: the formats of OpenAPI are signed.
fn integers(schema: &mut Map<String, Value>) {
    let Some(format) = schema.get("format").and_then(Value::as_str) else { return };
    let maximum = match format {
        "uint8" => u64::from(u8::MAX),
        "uint16" => u64::from(u16::MAX),
        "uint32" => u64::from(u32::MAX),
        "uint" | "uint64" => i64::MAX.unsigned_abs(),
        _ => return,
    };
    schema.remove("format");
    if maximum > u64::from(u16::MAX) {
        schema.insert("format".to_owned(), json!("int64"));
    }
    if maximum < i64::MAX.unsigned_abs() {
        schema.entry("maximum").or_insert_with(|| json!(maximum));
    }
}
