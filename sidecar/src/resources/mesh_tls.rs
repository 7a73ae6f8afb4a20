// SPDX-License-Identifier: Apache-2.0
//! `MeshTLS`: how the mesh's TLS is spoken, where its `Mesh` document turns it on.

use super::mesh_access_log::WholeMesh;
use super::read::{At, fields, words};
use super::target::{Pods, TargetRef};

fields! {
    /// How some pods speak the mesh's TLS.
    pub struct MeshTls {
        /// The pods; absent: all of the mesh.
        target_ref: optional TargetRef = "targetRef",
        /// Connections from the mesh: what all pods speak.
        from: default Vec<From> = "from",
        /// The same in the newer spelling.
        rules: default Vec<Rule> = "rules",
    }
}

fields! {
    /// How TLS is spoken with some pods.
    pub struct From {
        /// With whom: only Mesh.
        target_ref: required WholeMesh = "targetRef",
        /// How.
        default: required Conf = "default",
    }
}

fields! {
    /// How TLS is spoken.
    pub struct Rule {
        /// How.
        default: required Conf = "default",
    }
}

fields! {
    /// How TLS is spoken.
    pub struct Conf {
        /// Whom the pods let in. Default: what the Mesh says.
        mode: optional Mode = "mode",
        /// Which versions are spoken. Default: TLS13.
        version: optional Range = "tlsVersion",
        /// The cipher suites of TLS 1.2; those of TLS 1.3 are always there.
        ciphers: default Vec<Cipher> = "tlsCiphers",
    }
}

words! {
    /// Whom pods let in.
    pub enum Mode {
        /// The mesh's members.
        Strict = "Strict" | "STRICT",
        /// Everybody.
        Permissive = "Permissive" | "PERMISSIVE",
    }
}

fields! {
    /// A range of versions.
    pub struct Range {
        /// The oldest.
        min: optional Version = "min",
        /// The newest.
        max: optional Version = "max",
    }
}

words! {
    /// A version of TLS.
    pub enum Version {
        /// As without a document.
        Auto = "TLSAuto",
        /// 1.2.
        V12 = "TLS12",
        /// 1.3.
        V13 = "TLS13",
    }
}

words! {
    /// A cipher suite of TLS 1.2.
    pub enum Cipher {
        /// ECDSA and AES-128-GCM.
        EcdsaAes128 = "ECDHE-ECDSA-AES128-GCM-SHA256",
        /// ECDSA and AES-256-GCM.
        EcdsaAes256 = "ECDHE-ECDSA-AES256-GCM-SHA384",
        /// ECDSA and ChaCha20.
        EcdsaChacha = "ECDHE-ECDSA-CHACHA20-POLY1305",
        /// RSA and AES-128-GCM.
        RsaAes128 = "ECDHE-RSA-AES128-GCM-SHA256",
        /// RSA and AES-256-GCM.
        RsaAes256 = "ECDHE-RSA-AES256-GCM-SHA384",
        /// RSA and ChaCha20.
        RsaChacha = "ECDHE-RSA-CHACHA20-POLY1305",
    }
}

impl MeshTls {
    /// All that it says of how TLS is spoken.
    pub fn confs(&self) -> impl Iterator<Item = &Conf> {
        self.from.iter().map(|from| &from.default).chain(self.rules.iter().map(|rule| &rule.default))
    }

    /// What the fields say together.
    pub fn check(&self, at: &mut At<'_>) {
        // One handshake's settings are a whole pod's: which port it is for, it does not say.
        let whole = self
            .target_ref
            .as_ref()
            .is_none_or(|target| target.section.is_none() && !matches!(target.pods, Pods::Tags(_)));
        at.field("from", |at| {
            for (index, from) in self.from.iter().enumerate() {
                at.item(index, |at| from.default.check(whole, at));
            }
        });
        at.field("rules", |at| {
            for (index, rule) in self.rules.iter().enumerate() {
                at.item(index, |at| rule.default.check(whole, at));
            }
        });
    }
}

impl Conf {
    fn check(&self, whole: bool, at: &mut At<'_>) {
        let mut of_whole = |field: &str, there: bool| {
            if there && !whole {
                const ALLOWED: &str =
                    "it in a MeshTLS of Mesh or of whole Dataplanes; one of inbounds says only mode";
                at.field("default", |at| at.field(field, |at| at.problem("it for some inbounds", ALLOWED)));
            }
        };
        of_whole("tlsVersion", self.version.is_some());
        of_whole("tlsCiphers", !self.ciphers.is_empty());
        if let Some(Range { min: Some(Version::V13), max: Some(Version::V12) }) = self.version {
            at.field("default", |at| {
                at.field("tlsVersion", |at| {
                    at.problem("min TLS13 and max TLS12", "a min that is not above max")
                });
            });
        }
    }
}
