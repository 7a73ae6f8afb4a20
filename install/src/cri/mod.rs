// SPDX-License-Identifier: Apache-2.0
//! Client of the container runtime's CRI: running sandboxes, their annotations and their network namespaces.
//!
//! gRPC by hand: two unary calls, each a message with a prefix of five bytes over hyper's HTTP/2. The messages are
//! generated from `cri/runtime.proto`; a test generates them again and compares.

// The file is generated: neither rustfmt nor the visibility of its items is changed by hand.
#[rustfmt::skip]
#[allow(unreachable_pub, reason = "prost makes every message `pub`")]
mod runtime;
pub(crate) mod sandboxes;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::pod::{Annotations, concerns_us};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use self::runtime as messages;

/// Deadline of a call: a runtime that starts a hundred pods at once answers late.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Largest answer, in bytes: the kubelet's own limit.
const MAX_MESSAGE: usize = 16 << 20;
/// Most sandboxes that are read: ten times what Kubernetes is tested with on one node.
const MAX_SANDBOXES: usize = 5000;
/// `UNIMPLEMENTED` of gRPC.
const UNIMPLEMENTED: u32 = 12;
/// `NOT_FOUND` of gRPC.
const NOT_FOUND: u32 = 5;
/// Versions of the API, newest first. containerd before 1.6 and CRI-O before 1.20 have only the last.
const VERSIONS: [&str; 2] = ["runtime.v1", "runtime.v1alpha2"];

/// Reasons why the runtime gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriError {
    /// The socket has no listener.
    #[error("cannot reach the container runtime at {}: {source}", socket.display())]
    Connect {
        /// Path of the socket as this process opens it.
        socket: PathBuf,
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the container runtime broke: {0}")]
    Broken(hyper::Error),
    /// The deadline passed.
    #[error("the container runtime does not answer within {ANSWERS_WITHIN:?}")]
    TimedOut,
    /// The runtime answered with an error.
    #[error("the container runtime refuses {method}: code {code}: {message}")]
    Refused {
        method: &'static str,
        /// gRPC status code.
        code: u32,
        /// Message of the runtime.
        message: String,
    },
    /// The answer cannot be read.
    #[error("the container runtime's answer to {method} cannot be read: {problem}")]
    Garbled { method: &'static str, problem: String },
}

impl CriError {
    /// Returns true if the sandbox does not exist any more.
    pub(crate) const fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { code: NOT_FOUND, .. })
    }
}

/// A sandbox that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// The runtime's id, which is the plugin's container id.
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The culvert and Kuma annotations of the pod when the sandbox was made.
    pub annotations: Annotations,
    /// Creation time in nanoseconds since 1970; 0 = unknown.
    pub created_at: i64,
    /// The handler of its RuntimeClass; empty for the runtime's default.
    pub handler: String,
}

/// Network namespace of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// True if the pod uses the node's own namespace.
    pub of_node: bool,
    /// Path by which the runtime keeps the namespace open, as seen on the node.
    pub path: Option<PathBuf>,
    /// First process of the sandbox, in the runtime's pid namespace.
    pub pid: Option<u32>,
}

/// A connection to a runtime.
#[derive(Debug)]
pub(crate) struct Cri {
    sender: http2::SendRequest<Full<Bytes>>,
    connection: AbortHandle,
    version: usize,
}

impl Drop for Cri {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Cri {
    /// Connects to the runtime that listens at `socket`.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, CriError> {
        let failed = |source| CriError::Connect { socket: socket.to_owned(), source };
        let connected = async {
            let stream = UnixStream::connect(socket).await.map_err(failed)?;
            let builder = http2::Builder::new(TokioExecutor::new());
            builder.handshake(TokioIo::new(stream)).await.map_err(CriError::Broken)
        };
        let (sender, connection) =
            timeout(ANSWERS_WITHIN, connected).await.map_err(|_| CriError::TimedOut)??;
        let task = tokio::spawn(async move {
            // Errors of the connection reach the caller that waits for an answer.
            let _ = connection.await;
        });
        Ok(Self { sender, connection: task.abort_handle(), version: 0 })
    }

    /// Lists every running sandbox.
    pub(crate) async fn sandboxes(&mut self) -> Result<Vec<Sandbox>, CriError> {
        let state = messages::PodSandboxStateValue { state: messages::PodSandboxState::SandboxReady.into() };
        let request = messages::ListPodSandboxRequest {
            filter: Some(messages::PodSandboxFilter { state: Some(state) }),
        };
        let messages::ListPodSandboxResponse { items } = self.call("ListPodSandbox", &request).await?;
        let ready = i32::from(messages::PodSandboxState::SandboxReady);
        let sandboxes = items.into_iter().filter(|item| item.state == ready).take(MAX_SANDBOXES);
        Ok(sandboxes.map(Sandbox::from).collect())
    }

    /// Returns the network namespace of a sandbox.
    pub(crate) async fn network(&mut self, id: &str) -> Result<Network, CriError> {
        let request = messages::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let messages::PodSandboxStatusResponse { status, info } =
            self.call("PodSandboxStatus", &request).await?;
        let mode = status
            .and_then(|status| status.linux?.namespaces?.options)
            .map(|options| options.network)
            .unwrap_or_default();
        let mut network = info.get("info").map(|info| Network::of_info(info)).unwrap_or_default();
        network.of_node = mode == i32::from(messages::NamespaceMode::Node);
        Ok(network)
    }

    /// Returns the network configuration that the runtime has loaded, as JSON. Only containerd reports it.
    pub(crate) async fn loaded(&mut self) -> Result<Option<String>, CriError> {
        let request = messages::StatusRequest { verbose: true };
        let messages::StatusResponse { mut info } = self.call("Status", &request).await?;
        Ok(info.remove("cniconfig"))
    }

    /// Returns name and version of the runtime.
    pub(crate) async fn version(&mut self) -> Result<(String, String), CriError> {
        let messages::VersionResponse { runtime_name, runtime_version } =
            self.call("Version", &messages::VersionRequest {}).await?;
        Ok((runtime_name, runtime_version))
    }

    async fn call<A: Message + Default>(
        &mut self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, CriError> {
        loop {
            let called = timeout(ANSWERS_WITHIN, self.call_version(method, request)).await;
            match called.map_err(|_| CriError::TimedOut)? {
                Err(CriError::Refused { code: UNIMPLEMENTED, .. }) if self.version + 1 < VERSIONS.len() => {
                    self.version += 1;
                }
                other => return other,
            }
        }
    }

    async fn call_version<A: Message + Default>(
        &mut self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, CriError> {
        let garbled = |problem: String| CriError::Garbled { method, problem };
        let path = format!("http://localhost/{}.RuntimeService/{method}", VERSIONS[self.version]);
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(framed(request)))
            .map_err(|error| garbled(error.to_string()))?;
        self.sender.ready().await.map_err(CriError::Broken)?;
        let response = self.sender.send_request(request).await.map_err(CriError::Broken)?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(garbled(format!("HTTP status {}", head.status)));
        }
        let collected = match Limited::new(body, MAX_MESSAGE + 5).collect().await {
            Ok(collected) => collected,
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(garbled(format!("it is longer than {} MiB", MAX_MESSAGE >> 20)));
            }
            Err(error) => return Err(garbled(error.to_string())),
        };
        // In an answer without a body the status is in the head.
        let trailers = collected.trailers().unwrap_or(&head.headers);
        let code = header(trailers, "grpc-status").and_then(|code| code.parse().ok());
        match code.ok_or_else(|| garbled("it says no grpc-status".to_owned()))? {
            0 => {}
            code => {
                let message =
                    header(trailers, "grpc-message").unwrap_or_default().chars().take(500).collect();
                return Err(CriError::Refused { method, code, message });
            }
        }
        let bytes = collected.to_bytes();
        let message = unframed(&bytes).ok_or_else(|| garbled("it is no one message".to_owned()))?;
        A::decode(message).map_err(|error| garbled(error.to_string()))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A gRPC message: not compressed, its length, its bytes.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.into()
}

/// The single message of a body that is not compressed.
fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    (compressed == 0 && u32::from_be_bytes(length) as usize == message.len()).then_some(message)
}

impl From<messages::PodSandbox> for Sandbox {
    fn from(item: messages::PodSandbox) -> Self {
        let messages::PodSandbox { id, metadata, state: _, created_at, annotations, runtime_handler } = item;
        let messages::PodSandboxMetadata { name, uid, namespace } = metadata.unwrap_or_default();
        let annotations = annotations.into_iter().filter(|(name, _)| concerns_us(name)).collect();
        Self { id, namespace, name, uid, annotations, created_at, handler: runtime_handler }
    }
}

impl Network {
    /// Reads "info" of containerd and CRI-O: the sandbox's process, and the specification it was started with.
    fn of_info(info: &str) -> Self {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Info {
            pid: Option<u32>,
            runtime_spec: Option<Spec>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Spec {
            linux: Option<Linux>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Linux {
            namespaces: Vec<LinuxNamespace>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct LinuxNamespace {
            #[serde(rename = "type")]
            kind: String,
            path: PathBuf,
        }
        let Info { pid, runtime_spec } = serde_json::from_str(info).unwrap_or_default();
        let namespaces = runtime_spec.and_then(|spec| spec.linux).unwrap_or_default().namespaces;
        let path =
            namespaces.into_iter().find(|namespace| namespace.kind == "network").map(|found| found.path);
        Self {
            of_node: false,
            path: path.filter(|path| path.is_absolute()),
            // 0 = the process has ended.
            pid: pid.filter(|pid| *pid > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_those_of_the_proto_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cri");
        let out = tempfile::tempdir().unwrap();
        prost_build::Config::new()
            .btree_map(["."])
            .out_dir(out.path())
            .compile_protos(&[folder.join("runtime.proto")], &[&folder])
            .expect("protoc, of Debian's package protobuf-compiler, generates the messages");
        let generated = std::fs::read_to_string(out.path().join("runtime.v1.rs")).unwrap();
        let checked_in = std::fs::read_to_string(folder.join("runtime.rs")).unwrap();
        if generated != checked_in {
            let kept = std::env::temp_dir().join("culvert-runtime.rs");
            std::fs::write(&kept, &generated).unwrap();
            panic!("cri/runtime.rs is another than its proto file makes: see {}", kept.display());
        }
    }

    #[test]
    fn a_message_is_framed_and_unframed() {
        let request = messages::PodSandboxStatusRequest { pod_sandbox_id: "abc".to_owned(), verbose: true };
        let framed = framed(&request);
        assert_eq!(messages::PodSandboxStatusRequest::decode(unframed(&framed).unwrap()), Ok(request));
        for wrong in [&b""[..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 1], &[0, 0, 0, 0, 0, 1]] {
            assert_eq!(unframed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_runtimes_say_of_a_sandbox_is_read() {
        let spec = |namespaces: &str| {
            format!(r#"{{"pid":7,"runtimeSpec":{{"linux":{{"namespaces":[{namespaces}]}}}},"more":[1]}}"#)
        };
        let network = r#"{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}"#;
        for (info, path, pid) in [
            (spec(network), Some("/var/run/netns/cni-1"), Some(7)),
            (spec(r#"{"type":"network"}"#), None, Some(7)),
            (spec(r#"{"type":"network","path":"relative"}"#), None, Some(7)),
            (r#"{"pid":0}"#.to_owned(), None, None),
            ("no JSON".to_owned(), None, None),
        ] {
            let found = Network::of_info(&info);
            assert_eq!((found.path.as_deref(), found.pid), (path.map(Path::new), pid), "{info}");
        }
    }
}
