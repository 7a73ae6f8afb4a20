//! The lab of culvert: pods without a cluster.
//!
//! ```text
//! Lab ─ namespaces, cables, addresses ─┬─ add(annotations)   the built plugin over its real interface
//!                                      ├─ pod.sidecar()      the built sidecar under its uid
//!                                      ├─ Landing            listeners in the sidecar's place
//!                                      └─ Host, Actor        connections as any uid from any side
//! ```
//! Everything is made by system calls: no `ip`, no `nft`, nothing to install. It needs root.
//!
//! Without the feature `acceptance` the crate is what `cargo demo` needs, and builds in half the time.
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 6 | `demo` | what `cargo demo` shows |
//! | 6 | `runtime` | containerd and podman, each in a world of its own |
//! | 5 | `mounted` | a node's files in a temporary folder, and the installer about them |
//! | 5 | `pod` | the plugin, the sidecar, and in its place bare listeners or the programs of a benchmark |
//! | 5 | `api_server` | Kubernetes' API in process |
//! | 5 | `control` | a sidecar's side of the controller's stream |
//! | 5 | `chart` | what helm renders, and Kubernetes' schemas |
//! | 4 | `lab` | a pod, a peer and a node; connections as any uid, and forged frames |
//! | 3 | `process` | a program under test: where it is, how it starts, prints and ends |
//! | 3 | `tls` | certificates, clients and servers that speak TLS |
//! | 2 | `kernel` | namespaces, links, addresses, routes and rules |
//! | 2 | `server` | servers of tests, and payloads that show any change |
//! | 1 | `family` | addresses of both families by role |
//! | 1 | `http` | an HTTP/1.1 client |
//! | 1 | `until` | waits, each with a deadline |

#[cfg(feature = "acceptance")]
pub mod api_server;
#[cfg(feature = "acceptance")]
pub mod chart;
#[cfg(feature = "acceptance")]
pub mod control;
pub mod demo;
pub mod family;
pub mod http;
pub mod kernel;
pub mod lab;
#[cfg(feature = "acceptance")]
pub mod mounted;
pub mod pod;
pub mod process;
#[cfg(feature = "acceptance")]
pub mod runtime;
pub mod server;
#[cfg(feature = "acceptance")]
pub mod tls;
pub mod until;

pub use family::{At, Family};
pub use lab::Lab;
pub use lab::host::{Actor, Host};
pub use lab::wire::{Knock, Segment, Wire};
pub use pod::landing::{Landed, Landing};
pub use pod::plugin::{Invocation, Outcome};
pub use pod::sidecar::Sidecar;
pub use server::payload::{Checksum, Payload};
#[cfg(feature = "acceptance")]
pub use tls::authority::{Authority, Wish};
