// SPDX-License-Identifier: Apache-2.0
//! Templates of identities: text with `{{ .Mesh }}` or `{{ label "KEY" }}`, as Kuma has them from Go. Pure.

use crate::model::labels::Labels;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::read::{At, Read};
use serde_json::{Value, json};

/// A name that a template may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Mesh,
    Zone,
    TrustDomain,
    Namespace,
    ServiceAccount,
    Workload,
}

/// Names of the trust domain's template.
const OF_TRUST_DOMAIN: [(&str, Name); 2] = [(".Mesh", Name::Mesh), (".Zone", Name::Zone)];
/// Names of the path's template.
const OF_PATH: [(&str, Name); 4] = [
    (".TrustDomain", Name::TrustDomain),
    (".Namespace", Name::Namespace),
    (".ServiceAccount", Name::ServiceAccount),
    (".Workload", Name::Workload),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(Name),
    Label(String),
}

/// A template: text, names, and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    /// Returns the piece that the template may not have as the error.
    fn parse(text: &str, names: &[(&str, Name)]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inner, behind)) = after.split_once("}}") else {
                return Err("{{ without }}".into());
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let piece = expression(inner.trim(), names);
            pieces.push(piece.ok_or_else(|| format!("{{{{{inner}}}}}"))?);
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self(pieces))
    }

    /// Fills the template; `None` without one of the values.
    pub(super) fn fill<'a>(
        &self,
        name: impl Fn(Name) -> Option<&'a str>,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<String> {
        let value = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Name(wanted) => name(*wanted).map(Into::into),
            Piece::Label(key) => label(key).map(Into::into),
        };
        self.0.iter().map(value).collect()
    }

    /// Fills the template with a word for each value, so that the rest of it can be checked.
    fn example(&self) -> String {
        self.fill(|_| Some("x"), |_| Some("x")).unwrap_or_default()
    }
}

/// Reads the inside of the braces: `.Mesh`, or `label "kuma.io/zone"`.
fn expression(inner: &str, names: &[(&str, Name)]) -> Option<Piece> {
    if let Some((_, name)) = names.iter().find(|(known, _)| *known == inner) {
        return Some(Piece::Name(*name));
    }
    let key = inner.strip_prefix("label")?;
    let quoted = key.trim_start();
    let key = ['"', '`'].iter().find_map(|quote| quoted.strip_prefix(*quote)?.strip_suffix(*quote))?;
    // A quote within would be an escape or a second text, which no key of a label has.
    (!key.is_empty() && !key.contains(['"', '`', '\\'])).then(|| Piece::Label(key.into()))
}

/// Returns the names that a template may have, for an error.
fn allowed(names: &[(&str, Name)]) -> String {
    let names = names.iter().map(|(name, _)| format!("{{{{ {name} }}}}"));
    names.chain([r#"{{ label "KEY" }}"#.to_owned()]).collect::<Vec<_>>().join(", ")
}

/// Reads a template whose example has to fit.
fn read(
    value: &Value,
    names: &[(&str, Name)],
    fits: impl Fn(&str) -> bool,
    form: &str,
    at: &mut At<'_>,
) -> Option<Template> {
    let text = String::read(value, at)?;
    match Template::parse(&text, names) {
        Ok(template) if fits(&template.example()) => Some(template),
        Ok(_) => at.wrong(value, form),
        Err(found) => {
            at.problem(found, allowed(names));
            None
        }
    }
}

/// The template of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainTemplate(pub(super) Template);

impl Read for TrustDomainTemplate {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        const FORM: &str = "a trust domain: lower-case letters, digits, dots, dashes and underscores";
        read(value, &OF_TRUST_DOMAIN, |text| text.parse::<TrustDomain>().is_ok(), FORM, at).map(Self)
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl Default for TrustDomainTemplate {
    fn default() -> Self {
        let text = |text: &str| Piece::Text(text.into());
        let pieces = vec![Piece::Name(Name::Mesh), text("."), Piece::Name(Name::Zone), text(".mesh.local")];
        Self(Template(pieces))
    }
}

/// The template of an identity's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate(pub(super) Template);

impl Read for PathTemplate {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        const FORM: &str = "a path: / and segments of letters, digits, dots, dashes and underscores";
        let fits =
            |text: &str| text.starts_with('/') && format!("spiffe://x{text}").parse::<SpiffeId>().is_ok();
        read(value, &OF_PATH, fits, FORM, at).map(Self)
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl PathTemplate {
    /// Kuma's path: of the service account in Kubernetes, of the workload elsewhere.
    pub(super) fn default_of(pod: &Labels, namespace: &str) -> Self {
        let text = |text: &str| Piece::Text(text.into());
        Self(Template(match pod.get(namespace) {
            Some(_) => {
                vec![
                    text("/ns/"),
                    Piece::Name(Name::Namespace),
                    text("/sa/"),
                    Piece::Name(Name::ServiceAccount),
                ]
            }
            None => vec![text("/workload/"), Piece::Name(Name::Workload)],
        }))
    }
}
