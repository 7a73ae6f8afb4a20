// SPDX-License-Identifier: Apache-2.0
//! `MeshTLS`: versions, suites and mode of the mesh's TLS, where its `Mesh` document turns it on.

use crate::context::Context;
use crate::kinds::{Resource, one_inbound_list};
use crate::merge::merge_fields;
use crate::read::part::Part;
use crate::read::{At, fields, words};
use crate::target::{Target, TargetKind, TargetRef, WholeMesh};

fields! {
    /// Mode, versions and suites of the mesh's TLS for some pods.
    pub struct MeshTls {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional TargetRef = "targetRef",
        /// Settings for connections from the mesh.
        from: default Vec<TlsFrom> = "from",
        /// The same settings in the newer spelling.
        rules: default Vec<TlsRule> = "rules",
    }
}

fields! {
    /// Settings for connections from some pods.
    pub struct TlsFrom {
        /// The other pods: only Mesh.
        target_ref: required WholeMesh = "targetRef",
        /// Mode, versions and suites.
        default: required TlsConf = "default",
    }
}

fields! {
    /// Mode, versions and suites.
    pub struct TlsRule {
        /// Mode, versions and suites.
        default: required TlsConf = "default",
    }
}

fields! {
    /// Mode, versions and suites.
    pub struct TlsConf {
        /// Peers that the pods let in. Default: the mode of the Mesh.
        mode: optional TlsModeWord = "mode",
        /// Versions of TLS. Default: TLS12 to TLS13.
        version: optional VersionRange = "tlsVersion",
        /// Cipher suites of TLS 1.2; those of TLS 1.3 are always offered.
        ciphers: default Vec<Cipher> = "tlsCiphers",
    }
}

merge_fields!(TlsConf { mode, version, ciphers });

words! {
    /// Peers that pods let in.
    pub enum TlsModeWord {
        /// Members of the mesh.
        Strict = "Strict" | "STRICT",
        /// Every peer, a member or not.
        Permissive = "Permissive" | "PERMISSIVE",
    }
}

fields! {
    /// A range of versions.
    pub struct VersionRange {
        /// The oldest version that is spoken.
        min: optional Version = "min",
        /// The newest version that is spoken.
        max: optional Version = "max",
    }
}

words! {
    /// A version of TLS.
    pub enum Version {
        /// The version of a pod without a document.
        Auto = "TLSAuto",
        /// TLS 1.2, for older clients.
        V12 = "TLS12",
        /// TLS 1.3, the newest version.
        V13 = "TLS13",
    }
}

words! {
    /// A cipher suite of TLS 1.2.
    pub enum Cipher {
        /// AES-128-GCM with an ECDSA certificate.
        EcdsaAes128 = "ECDHE-ECDSA-AES128-GCM-SHA256",
        /// AES-256-GCM with an ECDSA certificate.
        EcdsaAes256 = "ECDHE-ECDSA-AES256-GCM-SHA384",
        /// ChaCha20-Poly1305 with an ECDSA certificate.
        EcdsaChacha = "ECDHE-ECDSA-CHACHA20-POLY1305",
        /// AES-128-GCM with an RSA certificate.
        RsaAes128 = "ECDHE-RSA-AES128-GCM-SHA256",
        /// AES-256-GCM with an RSA certificate.
        RsaAes256 = "ECDHE-RSA-AES256-GCM-SHA384",
        /// ChaCha20-Poly1305 with an RSA certificate.
        RsaChacha = "ECDHE-RSA-CHACHA20-POLY1305",
    }
}

impl MeshTls {
    /// Returns everything that the policy says, the deciding entry first: of several the last one decides.
    pub fn confs(&self) -> impl Iterator<Item = &TlsConf> {
        let all =
            self.from.iter().map(|from| &from.default).chain(self.rules.iter().map(|rule| &rule.default));
        all.rev()
    }
}

impl Resource for MeshTls {
    const NAME: &'static str = "MeshTLS";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        Target::Ref(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        TargetRef::check(&target, at);
        one_inbound_list(part, at);
        if let Ok(Some(kind @ (TargetKind::MeshService | TargetKind::MeshServiceSubset))) = target.get("kind")
        {
            target.problem(at, "kind", format!("{:?}", kind.name()), "Mesh, MeshSubset, Dataplane");
        }
        // A ClientHello does not name a port, so versions and suites are those of a whole pod.
        let of_inbounds = target.has("sectionName") == Ok(true) || TargetRef::goes_by_tags(&target);
        for item in ["from", "rules"].into_iter().flat_map(|list| part.items(list).unwrap_or_default()) {
            let conf = item.field("default");
            for field in ["tlsVersion", "tlsCiphers"] {
                if of_inbounds && conf.has(field) == Ok(true) {
                    const ALLOWED: &str =
                        "it in a MeshTLS of Mesh or of whole Dataplanes; one of inbounds says only mode";
                    conf.problem(at, field, "it for some inbounds", ALLOWED);
                }
            }
            let range = conf.field("tlsVersion");
            if range.get("min") == Ok(Some(Version::V13)) && range.get("max") == Ok(Some(Version::V12)) {
                conf.problem(at, "tlsVersion", "min TLS13 and max TLS12", "a min that is not above max");
            }
        }
    }
}
