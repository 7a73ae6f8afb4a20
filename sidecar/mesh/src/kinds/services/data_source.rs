// SPDX-License-Identifier: Apache-2.0
//! Certificates and keys that stand in a document.

use crate::read::part::Part;
use crate::read::{At, Ignored, Read, fields, words};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Base64 with and without `=` at its end: Kuma reads both in an ExternalService.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Label of a certificate's block in PEM.
const CERTIFICATE: &str = "CERTIFICATE";
/// End of the labels of private keys: of PKCS#8, and of PKCS#1 and SEC1 with a word before it.
const PRIVATE_KEY: &str = "PRIVATE KEY";

/// First byte of a certificate and of a key: a sequence of ASN.1 (X.690, 8.9).
const SEQUENCE: u8 = 0x30;

/// A certificate or a key that stands in a document, as its bytes. Debug shows their number only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DataSource(Arc<[u8]>);

fields! {
    struct RawSource {
        inline: optional Base64 = "inline",
        inline_string: optional String = "inlineString",
        insecure_inline: optional InlineValue = "insecureInline",
        kind: optional SourceKind = "type",
        secret: optional Ignored = "secret",
        secret_ref: optional Ignored = "secretRef",
        file: optional Ignored = "file",
        env_var: optional Ignored = "envVar",
    }
}

fields! {
    struct InlineValue {
        value: required String = "value",
    }
}

words! {
    enum SourceKind {
        Inline = "InsecureInline",
        Secret = "Secret",
        File = "File",
        EnvVar = "EnvVar",
    }
}

/// Bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base64(Vec<u8>);

impl Read for Base64 {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        // YAML's block texts have line ends in them, which Kuma passes over.
        let text: Option<Vec<u8>> =
            value.as_str().map(|text| text.bytes().filter(|byte| !b"\r\n".contains(byte)).collect());
        let bytes = text.and_then(|text| BASE64.decode(text).ok());
        bytes.map(Self).or_else(|| {
            // The value may be a key, so the error does not repeat it.
            at.problem("text that is no base64", "base64 of PEM, or inlineString with PEM");
            None
        })
    }

    fn schema() -> Value {
        serde_json::json!({"type": "string", "contentEncoding": "base64"})
    }
}

/// The forms that name a thing of the control plane.
const ELSEWHERE: [(&str, &str); 4] = [
    ("secret", "a secret of the control plane"),
    ("secretRef", "a secret of the control plane"),
    ("file", "a file of the control plane"),
    ("envVar", "a variable of the control plane's environment"),
];
const HERE: &str = "inline, inlineString, or type: InsecureInline with insecureInline, with the PEM itself";

impl Read for DataSource {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let before = at.count();
        let RawSource { inline, inline_string, insecure_inline, kind, secret, secret_ref, file, env_var } =
            RawSource::read(value, at)?;
        for ((field, found), there) in ELSEWHERE.into_iter().zip([secret, secret_ref, file, env_var]) {
            if there.is_some() {
                at.field(field, |at| at.problem(found, HERE));
            }
        }
        let newer = insecure_inline.is_some();
        let mut bytes = [
            inline.map(|Base64(bytes)| bytes),
            inline_string.map(String::into_bytes),
            insecure_inline.map(|InlineValue { value }| value.into_bytes()),
        ]
        .into_iter()
        .flatten();
        let first = bytes.next();
        if at.count() > before {
            return None;
        }
        match (kind, newer) {
            (None | Some(SourceKind::Inline), true) | (None, false) => {}
            (Some(_), _) => at.field("type", |at| at.problem("a type without its value", HERE)),
        }
        if bytes.next().is_some() {
            at.problem("two values", "one of inline, inlineString and insecureInline");
        } else if first.is_none() && kind.is_none() {
            at.problem("no value", HERE);
        }
        first.filter(|_| at.count() == before).map(|bytes| Self(bytes.into()))
    }

    fn schema() -> Value {
        RawSource::schema()
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataSource({} bytes)", self.0.len())
    }
}

impl DataSource {
    /// Returns the bytes: PEM, as the reader has checked.
    pub fn pem(&self) -> &[u8] {
        &self.0
    }

    /// Returns true if a block of PEM whose label fits holds something.
    fn has_block(&self, fits: impl Fn(&str) -> bool) -> bool {
        let Ok(text) = std::str::from_utf8(&self.0) else { return false };
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            let label = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
            let Some(label) = label.filter(|label| fits(label)) else { continue };
            let end = format!("-----END {label}-----");
            let mut body = String::new();
            // Older keys have fields before the base64, as `DEK-Info: …`.
            for line in lines.by_ref().take_while(|line| *line != end).filter(|line| !line.contains(':')) {
                body.push_str(line);
            }
            if BASE64.decode(body).is_ok_and(|der| der.first() == Some(&SEQUENCE)) {
                return true;
            }
        }
        false
    }

    /// Returns true if a certificate is among the PEM.
    fn has_certificate(&self) -> bool {
        self.has_block(|label| label == CERTIFICATE)
    }

    /// Returns true if a private key is among the PEM.
    fn has_key(&self) -> bool {
        self.has_block(|label| label.ends_with(PRIVATE_KEY))
    }
}

/// Checks the authorities, and that a certificate and its key are there together.
pub(super) fn check_sources(part: &Part<'_>, at: &mut At<'_>) {
    let certificate = (DataSource::has_certificate as fn(&DataSource) -> bool, "certificate");
    let key = (DataSource::has_key as fn(&DataSource) -> bool, "private key");
    for (field, (is_right, name)) in
        [("caCert", certificate), ("clientCert", certificate), ("clientKey", key)]
    {
        if let Ok(Some(source)) = part.get::<DataSource>(field)
            && !is_right(&source)
        {
            part.problem(at, field, format!("bytes without a {name} in PEM"), format!("a {name} in PEM"));
        }
    }
    for (one, other) in [("clientCert", "clientKey"), ("clientKey", "clientCert")] {
        if part.has(one) == Ok(true) && part.has(other) == Ok(false) {
            part.problem(at, other, "nothing", format!("it beside {one}"));
        }
    }
}
