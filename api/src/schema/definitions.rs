//! The schemas of types by name, and how rules are put to them.

use serde_json::{Map, Value, json};

/// Schemas of types, as they are derived, by the names of the types.
pub(super) struct Definitions(pub(super) Map<String, Value>);

impl Definitions {
    /// The schema of a type.
    pub(super) fn of(&mut self, name: &str) -> Node<'_> {
        Node(self.0.get_mut(name).unwrap_or_else(|| panic!("no definition of {name}")))
    }

    /// A copy of the schema of a type under another name, for a place where more holds of it.
    pub(super) fn copy(&mut self, name: &str, copy: &str) -> Node<'_> {
        let schema = self.of(name).0.clone();
        self.0.insert(copy.to_owned(), schema);
        self.of(copy)
    }
}

/// One place in a schema.
pub(super) struct Node<'a>(pub(super) &'a mut Value);

impl Node<'_> {
    /// A field of an object.
    pub(super) fn field(&mut self, name: &str) -> Node<'_> {
        let field = self.0.pointer_mut(&format!("/properties/{name}"));
        Node(field.unwrap_or_else(|| panic!("no field {name}")))
    }

    /// What a list is of.
    pub(super) fn items(&mut self) -> Node<'_> {
        Node(self.0.get_mut("items").unwrap_or_else(|| panic!("no list")))
    }

    /// Sets a keyword.
    pub(super) fn set(self, keyword: &str, value: impl Into<Value>) -> Self {
        self.0[keyword] = value.into();
        self
    }

    /// Takes a keyword away.
    pub(super) fn unset(self, keyword: &str) -> Self {
        if let Value::Object(schema) = &mut *self.0 {
            schema.remove(keyword);
        }
        self
    }

    /// A rule in CEL, and what is said where it does not hold.
    pub(super) fn rule(self, rule: impl Into<String>, message: impl Into<String>) -> Self {
        self.add(json!({"rule": rule.into(), "message": message.into()}))
    }

    /// A rule about one field in the light of others: `path` is where the message points.
    pub(super) fn rule_at(self, path: &str, rule: impl Into<String>, message: impl Into<String>) -> Self {
        self.add(json!({"rule": rule.into(), "message": message.into(), "fieldPath": path}))
    }

    /// A rule about the name of an object, which no path may point at.
    pub(super) fn rule_of_name(self, rule: impl Into<String>, message: &str) -> Self {
        self.rule(rule, format!("metadata.name: {message}"))
    }

    fn add(self, rule: Value) -> Self {
        match &mut self.0["x-kubernetes-validations"] {
            Value::Array(rules) => rules.push(rule),
            none => *none = json!([rule]),
        }
        self
    }
}
