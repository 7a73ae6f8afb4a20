// SPDX-License-Identifier: Apache-2.0
//! `MeshTLS`: how the mesh's TLS is spoken, where its `Mesh` document turns it on.

use crate::context::Context;
use crate::kinds::Resource;
use crate::merge::merge_fields;
use crate::read::part::Part;
use crate::read::{At, fields, words};
use crate::target::{Target, TargetRef, WholeMesh};

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

merge_fields!(Conf { mode, version, ciphers });

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
    /// Returns everything that the policy says, the deciding entry first: of several the last one decides.
    pub fn confs(&self) -> impl Iterator<Item = &Conf> {
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
        // One handshake's settings are a whole pod's: which port it is for, it does not say.
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
