// SPDX-License-Identifier: Apache-2.0
//! JSON Schemas of whole documents, in both spellings.

use crate::document::spelling::{API_VERSION, DEFAULT_MESH, UNIVERSAL_BOOKKEEPING};
use crate::kinds::Kind;
use crate::kinds::services::ServiceStatus;
use crate::model::labels::Labels;
use crate::read::Read;
use serde_json::{Value, json};

impl Kind {
    /// Returns the JSON Schema of a document of this kind, in both spellings.
    pub fn schema(self) -> Value {
        let spec = self.spec_schema();
        let name = json!({"type": "string", "minLength": 1});
        let mut universal = if self.has_spec() {
            json!({"type": "object", "additionalProperties": false, "properties": {"spec": {"$ref": "#/$defs/spec"}}})
        } else {
            spec.clone()
        };
        universal["properties"]["type"] = json!({"const": self.name()});
        universal["properties"]["name"] = name.clone();
        for key in UNIVERSAL_BOOKKEEPING {
            universal["properties"][key] = json!(true);
        }
        let status = if self.has_status() { ServiceStatus::schema() } else { json!(true) };
        universal["properties"]["status"] = status.clone();
        universal["properties"]["labels"] = Labels::schema();
        if self != Self::Mesh {
            universal["properties"]["mesh"] = json!({"type": "string", "default": DEFAULT_MESH});
        }
        let mut required = vec![json!("type"), json!("name")];
        required.extend(universal["required"].as_array().cloned().unwrap_or_default());
        universal["required"] = required.into();
        let kubernetes = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["apiVersion", "kind", "metadata"],
            "properties": {
                "apiVersion": {"const": API_VERSION},
                "kind": {"const": self.name()},
                "mesh": {"type": "string", "default": DEFAULT_MESH},
                "metadata": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": name, "labels": Labels::schema()},
                },
                "spec": {"$ref": "#/$defs/spec"},
                "status": status,
            },
        });
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name(),
            "oneOf": [universal, kubernetes],
            "$defs": {"spec": spec},
        })
    }
}
