// SPDX-License-Identifier: Apache-2.0
//! A pod, or one of its inbounds, that a policy may be about.

use crate::document::{Document, ZONE};
use crate::kinds::dataplane::{Dataplane, Inbound};
use crate::model::tags::Tags;
use crate::target::ProxyType;

/// A pod, or one of its inbounds, that a policy may be about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod's document and its contents; `None` where the pod has no Dataplane or its name is not known.
    pub pod: Option<(&'a Document, &'a Dataplane)>,
    /// Tags of the inbound, or those of all inbounds; a policy that fits one of them fits the subject.
    pub tags: &'a [&'a Tags],
    /// The inbound, where the subject is one.
    pub inbound: Option<&'a Inbound>,
}

impl<'a> Subject<'a> {
    /// Returns the pod's zone: the label that Kuma gives each Dataplane, or the tag of an inbound.
    pub fn zone(&self) -> Option<&'a str> {
        let (document, _) = self.pod?;
        document.label_or_tag(ZONE)
    }

    pub(crate) fn is(&self, kind: ProxyType) -> bool {
        let gateway = self.pod.is_some_and(|(_, of)| of.networking.gateway.is_some());
        gateway == (kind == ProxyType::Gateway)
    }
}
