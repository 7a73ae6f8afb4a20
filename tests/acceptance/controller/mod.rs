// SPDX-License-Identifier: Apache-2.0
//! The controller as a program, with an API server in process, and sidecars that the test plays.

mod away;
mod called_by_name;
mod cluster;
mod events;
mod identities;
mod names;
mod permissions;
mod picture;
mod replicas;
mod requests;
mod status;
mod streams;
mod traffic;

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::api_server::{ApiServer, TokenOf};
use culvert_tests::control::Connection;
use culvert_tests::http;
use culvert_tests::process::Process;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::until::until_some;
use serde_json::{Value, json};

/// The Service in front of the controller, and the name that sidecars check.
const SERVICE: &str = "culvert-controller.mesh";
const SERVER_NAME: &str = "culvert-controller.mesh.svc";
const SECRET: &str = "/api/v1/namespaces/mesh/secrets/culvert-authority";
/// For what takes milliseconds, or a look each 5 s, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A cluster with the namespace `shop`, which asks for sidecars, and `plain`, which does not.
struct Cluster {
    server: ApiServer,
}

impl Cluster {
    fn new() -> Result<Self> {
        Ok(Self::of(ApiServer::local()?))
    }

    fn of(server: ApiServer) -> Self {
        server.namespace("shop", &[("culvert.dev/inject", "enabled")], &[]);
        for name in ["plain", "mesh"] {
            server.namespace(name, &[], &[]);
        }
        Self { server }
    }

    /// Starts a replica, which may not be ready yet.
    fn starting(&self, replica: &str, options: &[&str]) -> Result<Controller> {
        self.started(Command::new(&Binaries::built()?.install), "127.0.0.1:0", replica, options)
    }

    /// Starts a replica by a command that only lacks its options.
    fn started(
        &self,
        mut command: Command,
        listen: &str,
        replica: &str,
        options: &[&str],
    ) -> Result<Controller> {
        command
            .args(["controller", "--service", SERVICE])
            .args(["--listen", listen, "--status-address", "127.0.0.1:0"])
            .arg("--service-account")
            .arg(self.server.service_account())
            .args(options)
            .env_clear()
            .env("HOSTNAME", replica)
            .env("KUBERNETES_SERVICE_HOST", self.server.address().ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", self.server.address().port().to_string());
        let process = Process::start(command)?;
        let (listen, status) =
            (process.address_of("--listen", SOON)?, process.address_of("--status-address", SOON)?);
        Ok(Controller { process, listen, status })
    }

    /// Starts a replica, and waits until it is ready.
    fn controller(&self, options: &[&str]) -> Result<Controller> {
        let controller = self.starting("culvert-controller-0", options)?;
        controller.until_ready()?;
        Ok(controller)
    }

    /// Puts a pod with a sidecar and the label `app` there, and a token that is bound to it.
    fn member(&self, namespace: &str, name: &str, ip: &str, app: &str) {
        self.server.put(&path(namespace, name), pod(namespace, name, ip, app, true));
        let of = TokenOf {
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            pod_uid: format!("uid-{name}"),
            account: app.to_owned(),
            node: "node-1".to_owned(),
            audiences: vec!["culvert.dev".to_owned()],
        };
        self.server.register_token(&format!("token-{name}"), of);
    }

    /// Puts a pod without a sidecar there.
    fn outsider(&self, namespace: &str, name: &str, ip: &str, app: &str) {
        self.server.put(&path(namespace, name), pod(namespace, name, ip, app, false));
    }

    /// Puts a Service of HTTP there, with port 80 for port 8080 of pods with the label `app`.
    fn service(&self, namespace: &str, app: &str, ip: &str, pods: &[(&str, bool)]) {
        self.service_of("http", (namespace, app), ip, pods);
    }

    /// Puts a Service there whose port has a protocol.
    fn service_of(&self, protocol: &str, (namespace, app): (&str, &str), ip: &str, pods: &[(&str, bool)]) {
        let port = json!({ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": protocol });
        let service = json!({
            "metadata": { "name": app, "namespace": namespace },
            "spec": { "clusterIP": ip, "clusterIPs": [ip], "selector": { "app": app }, "ports": [port] },
        });
        self.server.put(&format!("/api/v1/namespaces/{namespace}/services/{app}"), service);
        self.endpoints(namespace, app, pods);
    }

    /// Puts the endpoints of a Service there.
    fn endpoints(&self, namespace: &str, app: &str, pods: &[(&str, bool)]) {
        let endpoint = |(name, ready): &(&str, bool)| {
            json!({ "addresses": ["10.9.9.9"], "conditions": { "ready": ready },
                    "targetRef": { "kind": "Pod", "namespace": namespace, "name": name } })
        };
        let slice = json!({
            "metadata": { "name": format!("{app}-x"), "namespace": namespace,
                          "labels": { "kubernetes.io/service-name": app } },
            "addressType": "IPv4", "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        });
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{app}-x");
        self.server.put(&path, slice);
    }

    /// Connects to a replica by the authorities that the namespace `shop` was given.
    fn connect(&self, controller: &Controller) -> Result<Connection> {
        Connection::open(controller.listen, &self.bundle()?, SERVER_NAME)
    }

    /// The authorities, as a sidecar in `shop` finds them.
    fn bundle(&self) -> Result<String> {
        let map = until_some(SOON, || self.map("shop")).context("no ConfigMap")?;
        Ok(map["data"]["ca.crt"].as_str().context("no ca.crt")?.to_owned())
    }

    fn map(&self, namespace: &str) -> Option<Value> {
        self.server.get(&format!("/api/v1/namespaces/{namespace}/configmaps/culvert-mesh"))
    }

    /// Puts a mesh document there.
    fn document(&self, plural: &str, document: &Value) {
        let (namespace, name) = (&document["metadata"]["namespace"], &document["metadata"]["name"]);
        let name = name.as_str().unwrap_or_default();
        let place = namespace.as_str().map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        self.server.put(&format!("/apis/kuma.io/v1alpha1/{place}{plural}/{name}"), document.clone());
    }
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

fn pod(namespace: &str, name: &str, ip: &str, app: &str, sidecar: bool) -> Value {
    let port = json!({ "name": "http", "containerPort": 8080 });
    let app_container = json!({ "name": "app", "image": "example.com/app", "ports": [port] });
    let own = json!({ "name": "culvert-sidecar", "image": "culvert:1", "restartPolicy": "Always",
                      "args": ["--control=https://culvert-controller.mesh.svc:15012"],
                      "ports": [{ "containerPort": 15020 }] });
    json!({
        "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": { "app": app } },
        "spec": { "serviceAccountName": app, "nodeName": "node-1", "containers": [app_container],
                  "initContainers": if sidecar { json!([own]) } else { json!([]) } },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                    "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// A running replica.
struct Controller {
    process: Process,
    listen: SocketAddr,
    status: SocketAddr,
}

impl Controller {
    fn page(&self, path: &str) -> Result<http::Response> {
        let stream = TcpStream::connect(self.status)?;
        stream.set_read_timeout(Some(SOON))?;
        http::get(stream, path)
    }

    fn until_ready(&self) -> Result<()> {
        let ready = || self.page("/ready").ok().filter(|page| page.status == 200);
        if until_some(SOON, ready).is_some() {
            return Ok(());
        }
        anyhow::bail!("not ready: {:?}", self.page("/ready"))
    }

    /// Value of a metric, with its labels as they are written; 0 where it has none yet.
    fn metric(&self, name: &str) -> Result<f64> {
        self.metric_by(TcpStream::connect(self.status)?, name)
    }

    /// The same over a connection from another namespace.
    fn metric_by(&self, stream: TcpStream, name: &str) -> Result<f64> {
        let page = http::get(stream, "/metrics")?;
        ensure!(page.status == 200, "{page:?}");
        let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?.unwrap_or_default())
    }
}
