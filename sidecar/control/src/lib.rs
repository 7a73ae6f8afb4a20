// SPDX-License-Identifier: Apache-2.0
//! Messages between a sidecar and the controller, and their framing.
//!
//! ```text
//! sidecar ──DeltaDiscoveryRequest──▶ controller: subscribe, unsubscribe, ACK, NACK
//! sidecar ◀─DeltaDiscoveryResponse── controller: documents about this pod, documents of a destination
//! sidecar ──SignRequest──▶ controller
//! ```
//! The stream is Envoy's delta discovery protocol over gRPC
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>). Its resources are mesh documents as text, so that
//! one reader serves files and the stream, and a new field of a document needs no new message.

pub mod frame;
// The file is generated: neither rustfmt nor the visibility of its items is changed by hand.
#[rustfmt::skip]
#[allow(missing_docs, reason = "the proto file holds the comments, and prost copies those of fields and messages")]
pub mod messages;

/// Path of the stream's method, as Envoy names it.
pub const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Path of the method that signs a certificate.
pub const SIGN: &str = "/culvert.control.v1.Identities/Sign";

/// Type of resources that hold one document about the pod. The one subscription is [`WILDCARD`].
pub const DOCUMENT: &str = "type.googleapis.com/culvert.control.v1.Document";
/// Type of resources that hold the documents of a destination. It is named by `ADDRESS:PORT`, as `10.0.0.1:80` or
/// `[fd00::1]:80`, or by a host name, as `web.shop.mesh`: in lower case, of letters, digits, `-`, `_` and dots, without a dot at
/// its end, at most 253 bytes.
pub const DESTINATION: &str = "type.googleapis.com/culvert.control.v1.Destination";
/// Name that subscribes to all resources of a type that concern the pod.
pub const WILDCARD: &str = "*";

/// Audience of the projected token that a sidecar shows.
pub const AUDIENCE: &str = "culvert.dev";

/// Largest message that either side reads, in bytes: some 10,000 documents of 400 bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Largest request of a stream that a controller reads, in bytes: 4,096 destinations with their versions are 300 KiB,
/// 512 of the longest host names as much, and the names of 10,000 documents as much again. A pod that sends rubbish fills no more
/// of the controller's memory.
pub const MAX_REQUEST: usize = 1 << 20;
/// Most destinations that one sidecar may follow at a time by their addresses.
pub const MAX_DESTINATIONS: usize = 4096;
/// Most names that one sidecar may follow at a time, beside the destinations by address.
pub const MAX_NAMES: usize = 512;
/// Header of the stream's answer by which a controller says that it looks names up: without it no name is asked for, as a
/// controller that knows no names would end the stream. Its value is the number of names at a time.
pub const NAMES: &str = "culvert-names";
/// Most peers in one report.
pub const MAX_TRAFFIC: usize = 256;

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_messages_are_what_the_proto_file_makes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let out = tempfile::tempdir().unwrap();
        prost_build::Config::new()
            .btree_map(["."])
            .out_dir(out.path())
            .compile_protos(&[folder.join("messages.proto")], &[&folder])
            .expect("protoc, of Debian's package protobuf-compiler, generates the messages");
        let generated = std::fs::read_to_string(out.path().join("culvert.control.v1.rs")).unwrap();
        let checked_in = std::fs::read_to_string(folder.join("messages.rs")).unwrap();
        if generated != checked_in {
            let kept = std::env::temp_dir().join("culvert-control.rs");
            std::fs::write(&kept, &generated).unwrap();
            panic!("messages.rs is another than its proto file makes: see {}", kept.display());
        }
    }
}
