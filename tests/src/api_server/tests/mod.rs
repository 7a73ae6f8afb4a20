// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' rules, by raw HTTP.

mod apply;
mod certificates;
mod mishaps;
mod reads;
mod reviews;
mod select;
mod watches;
mod writes;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::ApiServer;
use crate::http;
use crate::until::DEADLINE;

const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MESHES: &str = "/apis/kuma.io/v1alpha1/meshes";

/// A server with the namespace `shop`.
fn server() -> Result<ApiServer> {
    let server = ApiServer::local()?;
    server.namespace("shop", &[], &[]);
    Ok(server)
}

fn connect(server: &ApiServer) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    let ca = std::fs::read(server.service_account().join("ca.crt"))?;
    roots.add(CertificateDer::from_pem_slice(&ca).map_err(|error| anyhow::anyhow!("{error:?}"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.address())?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let name = ServerName::from(server.address().ip());
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream))
}

/// A request's bytes, with the token that is in the server's folder.
fn request(server: &ApiServer, method: &str, path: &str, headers: &str, body: &str) -> Result<String> {
    let token = std::fs::read_to_string(server.service_account().join("token"))?;
    Ok(format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nuser-agent: tester/1.0 (linux)\r\n\
         {headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

fn call(server: &ApiServer, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, Value)> {
    let request = request(server, method, path, headers, body)?;
    let answer = http::exchange(connect(server)?, request.as_bytes())?;
    let value = serde_json::from_str(&answer.body).with_context(|| format!("{method} {path}: {answer:?}"))?;
    Ok((answer.status, value))
}

fn get(server: &ApiServer, path: &str) -> Result<(u16, Value)> {
    call(server, "GET", path, "", "")
}

/// A GET that must succeed.
fn read(server: &ApiServer, path: &str) -> Result<Value> {
    let (code, value) = get(server, path)?;
    ensure!(code == 200, "{path}: {code}: {value}");
    Ok(value)
}

fn send(server: &ApiServer, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    call(server, method, path, "content-type: application/json\r\n", &body.to_string())
}

fn patch(server: &ApiServer, form: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    call(server, "PATCH", path, &format!("content-type: {form}\r\n"), &body.to_string())
}

/// Code and reason of an answer.
fn refusal((code, status): &(u16, Value)) -> (u16, &str) {
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{status}");
    (*code, status["reason"].as_str().unwrap_or_default())
}

/// The names of a list's items.
fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn map(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

/// The definition of a kind of the mesh; conditions are a list with keys, ports a set.
fn definition(group: &str, plural: &str, kind: &str, scope: &str) -> Value {
    let schema = json!({ "type": "object", "properties": {
        "spec": { "type": "object", "properties": {
            "ports": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "integer" } },
            "backends": { "type": "array", "items": { "type": "object" } },
        } },
        "status": { "type": "object", "properties": { "conditions": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": { "type": "object" },
        } } },
    } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": scope, "names": { "plural": plural, "kind": kind },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}

/// A server with Meshes, which are the cluster's.
fn meshes() -> Result<ApiServer> {
    let server = server()?;
    server.put(&format!("{DEFINITIONS}/meshes.kuma.io"), definition("kuma.io", "meshes", "Mesh", "Cluster"));
    Ok(server)
}

/// An open watch.
struct Watch(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Watch {
    fn open(server: &ApiServer, path: &str) -> Result<Self> {
        Self::accepting(server, path, "application/json")
    }

    fn accepting(server: &ApiServer, path: &str, accept: &str) -> Result<Self> {
        let mut stream = connect(server)?;
        let headers = format!("accept: {accept}\r\n");
        stream.write_all(request(server, "GET", path, &headers, "")?.as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200 "), "{path}: {line}");
        Ok(Self(stream))
    }

    /// The next event; `None` at the watch's end.
    fn next(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            let mut line = String::new();
            // A server that ends its connections without TLS's farewell is at its end too.
            let read = self.0.read_line(&mut line);
            if matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof) || read? == 0
            {
                return Ok(None);
            }
            // All else are headers and lengths of chunks.
            if line.starts_with('{') {
                let mut event: Value = serde_json::from_str(&line)?;
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                return Ok(Some((kind, event["object"].take())));
            }
            if line == "0\r\n" {
                return Ok(None);
            }
        }
    }

    /// The next events, as `ADDED web`.
    fn some(&mut self, count: usize) -> Result<Vec<String>> {
        let mut events = Vec::new();
        while events.len() < count {
            let (kind, object) = self.next()?.with_context(|| format!("it ended after {events:?}"))?;
            events.push(format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or("-")));
        }
        Ok(events)
    }

    /// The bytes of everything until the end.
    fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
