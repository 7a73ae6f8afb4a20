// SPDX-License-Identifier: Apache-2.0
//! The admission webhook as a program: reviews over real TLS, as an API server sends them and by the CAs that it was told, with
//! an API server in process for namespaces, the Secret, the configuration and events.

mod bad_input;
mod certificates;
mod complaints;
mod doctor;
mod load;
mod shapes;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_tests::api_server::ApiServer;
use culvert_tests::http::{self, Response};
use culvert_tests::process::Process;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::until::{DEADLINE, until_some};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// The Service in front of the injector, and the name by which API servers dial it.
const SERVICE: &str = "culvert-injector.mesh";
const SERVER_NAME: &str = "culvert-injector.mesh.svc";
const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/culvert-injector";
const SECRET: &str = "/api/v1/namespaces/mesh/secrets/culvert-injector";
const IMAGE: &str = "registry.example.com/culvert:0.1.0";
/// For what takes milliseconds, or a look of the injector each 5 s, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const SIDECAR: &str = "culvert-sidecar";

/// A cluster with the namespaces `shop`, which asks for sidecars, `plain`, which does not, and those of the cluster itself.
struct Cluster {
    server: ApiServer,
}

/// The MutatingWebhookConfiguration as a chart makes it, without any bundle.
fn configuration() -> Value {
    let webhook = |name: &str, service: &str| {
        json!({
            "name": name, "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": { "name": service, "namespace": "mesh", "path": "/inject", "port": 443 } },
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "culvert-injector", "labels": { "app.kubernetes.io/managed-by": "Helm" } },
        "webhooks": [
            webhook("namespaces.inject.culvert.dev", "culvert-injector"),
            webhook("pods.inject.culvert.dev", "culvert-injector"),
            webhook("another.example.com", "another"),
        ],
    })
}

impl Cluster {
    fn new() -> Result<Self> {
        let server = ApiServer::local()?;
        server.namespace("shop", &[("culvert.dev/inject", "enabled")], &[]);
        for name in ["plain", "kube-system", "mesh"] {
            server.namespace(name, &[], &[]);
        }
        server.object(CONFIGURATION, configuration());
        Ok(Self { server })
    }

    /// Starts a replica, which may not be ready yet.
    fn starting(&self, image: &str, options: &[&str]) -> Result<Injector> {
        let mut command = Command::new(&Binaries::built()?.install);
        command
            .args(["inject", "--service", SERVICE, "--image", image])
            .args(["--listen", "127.0.0.1:0", "--status-address", "127.0.0.1:0"])
            .arg("--service-account")
            .arg(self.server.service_account())
            .args(options)
            .env_clear()
            .env("HOSTNAME", "culvert-injector-0")
            .env("KUBERNETES_SERVICE_HOST", self.server.address().ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", self.server.address().port().to_string());
        let process = Process::start(command)?;
        let (webhook, status) =
            (process.address_of("--listen", SOON)?, process.address_of("--status-address", SOON)?);
        Ok(Injector { process, webhook, status })
    }

    /// Starts a replica, and waits until it is ready.
    fn injector(&self, options: &[&str]) -> Result<Injector> {
        let injector = self.starting(IMAGE, options)?;
        injector.until_ready()?;
        Ok(injector)
    }

    fn injector_with_image(&self, image: &str) -> Result<Injector> {
        let injector = self.starting(image, &[])?;
        injector.until_ready()?;
        Ok(injector)
    }

    /// The CAs that API servers trust, as the configuration has them now.
    fn bundle(&self) -> Result<String> {
        let configuration = self.server.object_at(CONFIGURATION).context("no configuration")?;
        let bundle =
            configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().context("no bundle")?;
        Ok(String::from_utf8(STANDARD.decode(bundle)?)?)
    }

    /// Sends a review as an API server does: by the bundle of this moment, under the Service's name.
    fn review(&self, injector: &Injector, review: &Value) -> Result<Value> {
        let answer = self.post(injector, review.to_string().as_bytes())?;
        ensure!(answer.status == 200, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.body)?;
        ensure!(
            answer["apiVersion"] == "admission.k8s.io/v1" && answer["kind"] == "AdmissionReview",
            "{answer}"
        );
        let response = answer["response"].clone();
        ensure!(response["uid"] == review["request"]["uid"], "{response}");
        Ok(response)
    }

    fn post(&self, injector: &Injector, body: &[u8]) -> Result<Response> {
        http::exchange(self.tls(injector)?, &post(body))
    }

    fn tls(&self, injector: &Injector) -> Result<impl Read + Write + use<>> {
        let stream = TcpStream::connect(injector.webhook)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(SERVER_NAME)?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::new(client(&self.bundle()?)?), name)?, stream))
    }

    /// The pod after the injector's answer; an error if that refuses it.
    fn admitted(&self, injector: &Injector, pod: &Value) -> Result<Value> {
        let response = self.review(injector, &review(pod))?;
        ensure!(response["allowed"] == true, "{response}");
        patched(pod, &response)
    }

    /// The events that were posted, as `Kind/name REASON: message`, once there are so many.
    fn events(&self, count: usize) -> Result<Vec<String>> {
        let all = || self.server.events();
        until_some(SOON, || (all().len() >= count).then_some(())).context("too few events")?;
        let line = |event: &Value| {
            let about = &event["involvedObject"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, name) = (text(&about["kind"]), text(&about["name"]));
            format!("{kind}/{name} {}: {}", text(&event["reason"]), text(&event["message"]))
        };
        Ok(all().iter().map(line).collect())
    }
}

fn client(bundle: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.map_err(|error| anyhow::anyhow!("{error:?}"))?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A request as an API server makes it.
fn post(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /inject?timeout=5s HTTP/1.1\r\nHost: culvert-injector.mesh.svc:443\r\nUser-Agent: kube-apiserver-admission\r\n\
         Content-Length: {}\r\nAccept: application/json, */*\r\nContent-Type: application/json\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A running replica.
struct Injector {
    process: Process,
    webhook: SocketAddr,
    status: SocketAddr,
}

impl Injector {
    fn page(&self, path: &str) -> Result<Response> {
        http::get(TcpStream::connect(self.status)?, path)
    }

    fn until_ready(&self) -> Result<()> {
        let ready = || self.page("/ready").ok().filter(|page| page.status == 200).map(drop);
        until_some(SOON, ready).with_context(|| format!("not ready: {:?}", self.page("/ready")))
    }

    /// The value of a series; 0 if it is not there.
    fn metric(&self, series: &str) -> Result<f64> {
        let page = self.page("/metrics")?.body;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?.unwrap_or_default())
    }

    /// Ends it as a kubelet does.
    fn terminate(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(SOON)?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// The pod of a ReplicaSet, as an API server has it at its admission: without a name, with the defaults of 1.36.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-6d4f9c-", "namespace": "shop", "labels": { "app": "web", "pod-template-hash": "6d4f9c" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4f9c", "uid": "uid-of-web",
                                  "controller": true, "blockOwnerDeletion": true }],
        },
        "spec": {
            "containers": [{
                "name": "web", "image": "registry.example.com/web:1", "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
                "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http", "scheme": "HTTP" }, "timeoutSeconds": 1 },
                "resources": {}, "imagePullPolicy": "IfNotPresent",
                "volumeMounts": [token("kube-api-access-abcde")],
            }],
            "volumes": [{ "name": "kube-api-access-abcde", "projected": { "defaultMode": 420, "sources": [] } }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "securityContext": {}, "schedulerName": "default-scheduler",
            "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority", "priority": 0,
        },
        "status": {},
    })
}

/// The mount of an API token, as ServiceAccount's admission adds it to each container without one.
fn token(volume: &str) -> Value {
    json!({ "name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" })
}

fn review(pod: &Value) -> Value {
    let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
    let resource = json!({ "group": "", "version": "v1", "resource": "pods" });
    let mut request = json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource,
        "requestKind": kind, "requestResource": resource,
        "namespace": pod["metadata"]["namespace"], "operation": "CREATE",
        "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["system:authenticated"] },
        "object": pod, "oldObject": null, "dryRun": false,
        "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
    });
    // A pod that the API server is yet to name has none in its request.
    if let Some(name) = pod["metadata"]["name"].as_str() {
        request["name"] = name.into();
    }
    json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
}

/// Applies the patch of an answer as an API server does.
fn patched(pod: &Value, response: &Value) -> Result<Value> {
    let Some(patch) = response["patch"].as_str() else { return Ok(pod.clone()) };
    ensure!(response["patchType"] == "JSONPatch", "{response}");
    let operations: Vec<Value> = serde_json::from_slice(&STANDARD.decode(patch)?)?;
    let mut pod = pod.clone();
    for operation in &operations {
        let path = operation["path"].as_str().context("a path")?;
        let (parent, last) = path.rsplit_once('/').context("a parent")?;
        let last = last.replace("~1", "/").replace("~0", "~");
        let value = &operation["value"];
        let place = pod.pointer_mut(parent).with_context(|| format!("{operation}: no {parent}"))?;
        match (place, operation["op"].as_str()) {
            (Value::Object(map), Some("add")) => _ = map.insert(last, value.clone()),
            (Value::Object(map), Some("replace")) => {
                *map.get_mut(&last).context("nothing there")? = value.clone()
            }
            (Value::Object(map), Some("remove")) => _ = map.remove(&last).context("nothing there")?,
            (Value::Array(list), Some("add")) if last == "-" => list.push(value.clone()),
            (Value::Array(list), Some("add")) => list.insert(last.parse()?, value.clone()),
            (Value::Array(list), Some("replace")) => {
                *list.get_mut(last.parse::<usize>()?).context("no item")? = value.clone()
            }
            (Value::Array(list), Some("remove")) => _ = list.remove(last.parse()?),
            other => anyhow::bail!("{operation}: {other:?}"),
        }
    }
    Ok(pod)
}

/// The names of a pod's containers in one of its lists.
fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    containers.iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
}
