// SPDX-License-Identifier: Apache-2.0
//! Variables, as `{{ address }}`, in the pod's own Dataplane. Their values come from the command line.
//!
//! `address: {{ address }}` is no YAML, so values are put into the text before it is parsed. A variable without a value
//! becomes a mark first: where the mark stands in the tree is the field that the error names.

use crate::context::Context;
use crate::document::{Lost, is_list, is_named};
use crate::kinds::Kind;
use crate::read::Problem;
use crate::read::problems::{push_field, push_item};
use crate::read::yaml::Piece;
use serde_json::Value;
use std::collections::BTreeMap;

/// Begins and ends the mark of a variable without a value: letters for private use, which no document has.
const MARK: [char; 2] = ['\u{e000}', '\u{e001}'];

/// Result of looking for variables in a document.
pub(super) enum Filled {
    /// The text stands as it is.
    Nothing,
    /// The text with its values.
    Text(String),
    /// A document that cannot be read because of its variables.
    Wrong {
        /// Kind and name, as far as they can be read.
        whose: String,
        /// Problems with their places.
        problems: Vec<Problem>,
        /// The document, for rules about several.
        lost: Lost,
    },
}

/// Returns true for the name of a variable. A name that begins with a dot is an expression of another template language.
pub fn is_variable(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') && name.chars().all(fits)
}

/// Puts values into the pod's own Dataplane.
pub(super) fn fill(context: &Context, piece: &Piece<'_>) -> Filled {
    if !piece.holds("{{") {
        return Filled::Nothing;
    }
    let Some((text, first)) = with_values(piece.text(), &context.variables) else { return Filled::Nothing };
    let as_it_stands = piece.parse(&mut |_, _| ());
    let right = as_it_stands.1.is_none();
    // In a comment it is no field.
    if right && as_it_stands.0.is_none_or(|value| !has_variable(&value)) {
        return Filled::Nothing;
    }
    let Some(value) = piece.with_text(&text).parse(&mut |_, _| ()).0 else {
        // Another fault than the braces: the error of this text names it.
        return Filled::Text(text);
    };
    let id = Id::of(&value);
    if id.kind != Some(Kind::Dataplane.name()) {
        // Quoted, it is a text that the kind may have a meaning for.
        return if right { Filled::Nothing } else { id.wrong(vec![elsewhere(&first, is_list(&value))]) };
    }
    if let (Some(wanted), Some(name)) = (&context.dataplane, id.name.filter(|name| !name.contains(MARK)))
        && !(is_named(name, id.namespace, wanted) && id.mesh == context.mesh)
    {
        let found = format!("a variable, {{{{ {first} }}}}, in a Dataplane that is not this pod's");
        let allowed = format!("variables in the Dataplane that --dataplane names, {wanted:?}");
        return id.wrong(vec![Problem { path: String::new(), found, allowed }]);
    }
    let mut missing = Vec::new();
    find_marks(&value, &mut String::new(), &mut missing);
    if missing.is_empty() { Filled::Text(text) } else { id.wrong(missing) }
}

/// Describes variables in a document of another kind.
fn elsewhere(first: &str, list: bool) -> Problem {
    Problem {
        path: String::new(),
        found: format!(
            "a variable, {{{{ {first} }}}}, in {}",
            if list { "a list" } else { "a document that is no Dataplane" }
        ),
        allowed: "variables in the Dataplane of this pod; elsewhere such text in quotes".into(),
    }
}

/// Returns the text with values, and the name of its first variable; `None` without one.
fn with_values(text: &str, values: &BTreeMap<String, String>) -> Option<(String, String)> {
    let mut filled = String::with_capacity(text.len());
    let mut first = None;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let inner = after.split_once("}}").map(|(inner, behind)| (inner.trim(), behind));
        let Some((name, behind)) = inner.filter(|(name, _)| is_variable(name)) else {
            filled.push_str("{{");
            rest = after;
            continue;
        };
        first.get_or_insert_with(|| name.to_owned());
        match values.get(name) {
            Some(value) => filled.push_str(value),
            None => {
                filled.push(MARK[0]);
                filled.push_str(name);
                filled.push(MARK[1]);
            }
        }
        rest = behind;
    }
    filled.push_str(rest);
    Some((filled, first?))
}

/// Returns true if a text of the tree has a variable.
fn has_variable(value: &Value) -> bool {
    match value {
        Value::String(text) => with_values(text, &BTreeMap::new()).is_some(),
        Value::Array(items) => items.iter().any(has_variable),
        Value::Object(map) => map.values().any(has_variable),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Finds the variables without a value, each with the path of its field.
fn find_marks(value: &Value, path: &mut String, found: &mut Vec<Problem>) {
    let before = path.len();
    match value {
        Value::String(text) => {
            for name in text.split(MARK[0]).skip(1).filter_map(|part| part.split(MARK[1]).next()) {
                found.push(Problem {
                    path: path.clone(),
                    found: format!("{{{{ {name} }}}}, a variable without a value"),
                    allowed: format!("a variable with a value: --dataplane-var {name}=VALUE"),
                });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                push_item(path, index);
                find_marks(item, path, found);
                path.truncate(before);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                push_field(path, key);
                find_marks(value, path, found);
                path.truncate(before);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns a text in which marks are variables again.
fn without_marks(text: &str) -> String {
    text.replace(MARK[0], "{{ ").replace(MARK[1], " }}")
}

/// The part of a document that says which it is, in either spelling.
struct Id<'v> {
    kind: Option<&'v str>,
    mesh: &'v str,
    name: Option<&'v str>,
    namespace: Option<&'v str>,
}

impl<'v> Id<'v> {
    fn of(value: &'v Value) -> Self {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
        let kubernetes = value.get("kind").is_some();
        let mesh = text("/mesh").or_else(|| text("/metadata/labels/kuma.io~1mesh").filter(|_| kubernetes));
        Self {
            kind: text(if kubernetes { "/kind" } else { "/type" }),
            mesh: mesh.unwrap_or(crate::document::DEFAULT_MESH),
            name: text(if kubernetes { "/metadata/name" } else { "/name" }),
            namespace: text("/metadata/namespace").filter(|_| kubernetes),
        }
    }

    fn wrong(&self, problems: Vec<Problem>) -> Filled {
        let known = |text: &&str| !text.contains(MARK);
        let whose = [self.kind, self.name].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let lost = Lost {
            kind: Kind::ALL.into_iter().find(|kind| Some(kind.name()) == self.kind),
            mesh: Some(self.mesh).filter(known).map(Into::into),
            name: self.name.filter(known).map(Into::into),
        };
        Filled::Wrong { whose: without_marks(&whose), problems, lost }
    }
}

#[cfg(test)]
mod tests {
    use crate::context::Context;
    use crate::kinds::Spec;
    use crate::load::Loaded;
    use std::path::Path;

    /// The address of the Dataplane, or the errors of the text.
    fn read(variables: &[(&str, &str)], dataplane: Option<&str>, text: &str) -> Result<String, Vec<String>> {
        let variables = variables.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let dataplane = dataplane.map(Into::into);
        let context = Context { mesh: "default".into(), dataplane, variables, ..Context::default() };
        let mut loaded = Loaded::default();
        loaded.add(&context, text, Path::new("dp.yaml"));
        if !loaded.errors.is_empty() {
            return Err(loaded.errors.iter().map(ToString::to_string).collect());
        }
        let Spec::Dataplane(read) = &loaded.found.documents[0].spec else { panic!("{text}") };
        let ports = read.networking.inbound.iter().map(|inbound| format!(":{}", inbound.port.0));
        Ok(format!(
            "{} {}{}",
            loaded.found.documents[0].name,
            read.networking.address,
            ports.collect::<String>()
        ))
    }

    const TEMPLATE: &str = "type: Dataplane
mesh: default
name: {{ name }} # the name
networking:
  address: {{address}}
  inbound:
  - port: {{  port  }}
    tags: {kuma.io/service: {{ name }}-api}
";
    const ALL: [(&str, &str); 3] = [("name", "web"), ("address", "10.0.0.2"), ("port", "8080")];

    #[test]
    fn variables_of_the_pods_own_dataplane_have_the_values_of_the_option() {
        for dataplane in [Some("web"), None] {
            assert_eq!(read(&ALL, dataplane, TEMPLATE).as_deref(), Ok("web 10.0.0.2:8080"), "{dataplane:?}");
        }
        let quoted = TEMPLATE.replace("{{address}}", "\"{{ address }}\"");
        assert_eq!(read(&ALL, Some("web"), &quoted).as_deref(), Ok("web 10.0.0.2:8080"));
        let kubernetes = "{apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: {{ name }}, namespace: a}, \
                          spec: {networking: {address: {{ address }}}}}";
        assert_eq!(read(&ALL, Some("web.a"), kubernetes).as_deref(), Ok("web 10.0.0.2"));
        // A comment is no field.
        let comment = "{type: Dataplane, name: web, networking: {address: 10.0.0.2}} # {{ who }}";
        for dataplane in ["web", "api"] {
            assert_eq!(read(&[], Some(dataplane), comment).as_deref(), Ok("web 10.0.0.2"), "{dataplane}");
        }
    }

    #[test]
    fn a_variable_without_a_value_is_named_with_its_field_and_the_option() {
        assert_eq!(
            read(&ALL[..1], Some("web"), TEMPLATE).unwrap_err(),
            [
                "dp.yaml: document 1 (Dataplane web): networking.address: found {{ address }}, a variable without a value; \
                 allowed: a variable with a value: --dataplane-var address=VALUE",
                "dp.yaml: document 1 (Dataplane web): networking.inbound[0].port: found {{ port }}, a variable without a \
                 value; allowed: a variable with a value: --dataplane-var port=VALUE",
            ]
        );
        let none = read(&[], Some("web"), TEMPLATE).unwrap_err();
        assert_eq!(none.len(), 4, "{none:?}");
        assert!(
            none[0].starts_with("dp.yaml: document 1 (Dataplane {{ name }}): name: found {{ name }}"),
            "{none:?}"
        );
    }

    #[test]
    fn variables_elsewhere_are_told() {
        let other = read(&ALL, Some("api"), TEMPLATE).unwrap_err();
        assert_eq!(
            other,
            [
                "dp.yaml: document 1 (Dataplane web): found a variable, {{ name }}, in a Dataplane that is not this pod's; \
              allowed: variables in the Dataplane that --dataplane names, \"api\""
            ]
        );
        let mesh = read(&[("name", "default")], Some("web"), "type: Mesh\nname: {{ name }}\n").unwrap_err();
        assert_eq!(
            mesh,
            [
                "dp.yaml: document 1 (Mesh default): found a variable, {{ name }}, in a document that is no Dataplane; \
              allowed: variables in the Dataplane of this pod; elsewhere such text in quotes"
            ]
        );
        let list = read(&ALL, Some("web"), "items:\n- {type: Dataplane, name: {{ name }}}\n").unwrap_err();
        assert!(list.len() == 1 && list[0].contains("in a list; allowed: "), "{list:?}");
        // Templates of another language, and broken YAML, are what they are.
        for (text, words) in [
            ("type: Dataplane\nname: {{ .Name }}\n", "found no YAML: "),
            ("type: Dataplane\nname: {{ name }}\nnetworking: [\n", "found no YAML: line 3: unclosed"),
        ] {
            let errors = read(&ALL, Some("web"), text).unwrap_err();
            assert!(errors[0].contains(words), "{errors:?}");
        }
    }
}
