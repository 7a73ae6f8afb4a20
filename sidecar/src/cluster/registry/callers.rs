// SPDX-License-Identifier: Apache-2.0
//! Members by the addresses from which they call: what a caller without a certificate is known by.

use super::Running;
use crate::plan::Member;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// Members by address, made when the first such caller comes: a mesh may have thousands, and most pods know callers by their
/// certificates.
#[derive(Debug, Default)]
pub(super) struct Callers(OnceLock<HashMap<IpAddr, (u16, Arc<Member>)>>);

impl Running {
    /// Returns the member of which a document says the address. Of several inbounds there the one of the lowest port names it.
    pub(crate) fn caller_at(&self, ip: IpAddr) -> Option<&Arc<Member>> {
        let callers = self.callers.0.get_or_init(|| {
            let mut callers: HashMap<IpAddr, (u16, Arc<Member>)> = HashMap::new();
            for (address, member) in &self.plan.members {
                let new = || (address.port(), Arc::clone(member));
                let named = callers.entry(address.ip().to_canonical()).or_insert_with(new);
                if address.port() < named.0 {
                    *named = new();
                }
            }
            callers
        });
        callers.get(&ip.to_canonical()).map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::registry::Registry;
    use crate::options::Options;
    use crate::plan::{Member, Plan};
    use clap::Parser;
    use culvert_mesh::model::tags::{SERVICE, Tags};
    use std::sync::Arc;

    #[test]
    fn a_caller_is_named_by_its_first_inbound() {
        let member = |service: &str| {
            let tags = Tags([(SERVICE.to_owned(), service.to_owned())].into());
            Arc::new(Member { dataplane: "d".into(), tags: Arc::new(tags), ids: None })
        };
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        let plan = crate::plan::compile::compile(&config, &culvert_mesh::document::Found::default()).unwrap();
        let members = [
            ("10.0.0.1:90", "late"),
            ("10.0.0.1:80", "first"),
            ("10.0.0.1:8080", "other"),
            ("[fd00::1]:1", "six"),
        ];
        let members = members.map(|(at, service)| (at.parse().unwrap(), member(service)));
        let running = Registry::default().open(Plan { members: members.into(), ..plan });
        for (ip, service) in [
            ("10.0.0.1", Some("first")),
            ("::ffff:10.0.0.1", Some("first")),
            ("fd00::1", Some("six")),
            ("10.0.0.2", None),
        ] {
            let found = running.caller_at(ip.parse().unwrap()).map(|member| member.service());
            assert_eq!(found, service, "{ip}");
        }
    }
}
