// SPDX-License-Identifier: Apache-2.0
//! Rules of culvert in this thread's network namespace, and their owners.

use culvert_cni::redirect::RedirectError;
use culvert_cni::redirect::engine::{self, Engine, EngineError};
use culvert_cni::redirect::iptables::{self, Variant};
use culvert_cni::redirect::owner::Owner;
use culvert_cni::redirect::policy::{EngineChoice, IpFamilies, Policy};
use nix::errno::Errno;

use super::own;
use super::record::Record;

/// Rules of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Engine that wrote them.
    pub engine: Engine,
    /// Their owner, if they name one.
    pub owner: Option<Owner>,
}

impl Found {
    /// The other owner of these rules. None if they carry this command's mark, or no mark while a record shows that
    /// this command ran here.
    pub(crate) fn another(&self, record: Option<&Record>) -> Option<String> {
        match &self.owner {
            Some(owner) if *owner == own() => None,
            Some(Owner { container, ifname }) => {
                Some(format!("culvert-cni, for interface {ifname} of container {container}"))
            }
            None if record.is_some() => None,
            None => Some("somebody who left no note".to_owned()),
        }
    }
}

/// Reads the rules of every engine. A failing iptables program counts only if `record` says that it was used: a node
/// may have programs that do not work.
pub(crate) fn found(record: Option<&Record>) -> Result<Vec<Found>, RedirectError> {
    let mut all = Vec::new();
    for engine in [Engine::Nftables, with(Variant::Nft), with(Variant::Legacy)] {
        let is_recorded = record.is_some_and(|record| record.engine == engine.name());
        match look(engine) {
            Ok(Some(owner)) => all.push(Found { engine, owner }),
            Ok(None) => {}
            Err(error) if is_recorded || !may_lack(&error) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(all)
}

const fn with(variant: Variant) -> Engine {
    Engine::Iptables(variant, IpFamilies::Dual)
}

fn look(engine: Engine) -> Result<Option<Option<Owner>>, EngineError> {
    if let Engine::Iptables(variant, _) = engine {
        iptables::available(variant, IpFamilies::Dual)?;
    }
    engine.owner()
}

/// Returns true if the engine itself may be missing here.
fn may_lack(error: &EngineError) -> bool {
    match error {
        // Answers of kernels without nf_tables.
        EngineError::Nftables { error } => matches!(
            error.errno(),
            Some(
                Errno::EINVAL
                    | Errno::ENOENT
                    | Errno::EOPNOTSUPP
                    | Errno::EAFNOSUPPORT
                    | Errno::EPROTONOSUPPORT
            )
        ),
        EngineError::Iptables(_) => true,
        EngineError::UserNamespace | EngineError::None(_) => false,
    }
}

/// Engine whose rules `apply` would leave: of those that `policy` allows the one that wrote the present rules, else
/// the first.
pub(crate) fn expected(
    policy: &Policy,
    record: Option<&Record>,
    found: &[Found],
) -> Result<Engine, RedirectError> {
    let candidates = engine::candidates(policy)?;
    let is_there = |engine: &&Engine| {
        let name = engine.name();
        record.is_some_and(|record| record.engine == name)
            || found.iter().any(|found| found.engine.name() == name)
    };
    let present = match policy.engine {
        // The best one; the presence of another is no reason for less.
        EngineChoice::Auto | EngineChoice::Iptables => candidates.iter().find(is_there),
        _ => None,
    };
    Ok(present.or(candidates.first()).copied().unwrap_or(Engine::Nftables))
}

#[cfg(test)]
mod tests {
    use culvert_cni::redirect::Footprint;
    use culvert_cni::redirect::loopback::HopAddress;

    use super::*;

    fn record(engine: &str) -> Record {
        let footprint = Footprint { hop_address: HopAddress::Added, sysctls: Vec::new() };
        Record { engine: engine.to_owned(), footprint }
    }

    #[test]
    fn whose_rules_these_are() {
        let of = |owner| Found { engine: Engine::Nftables, owner };
        let pod = Some(Owner::new("abc", "eth0"));
        let ours = record("nftables");
        assert_eq!(of(Some(own())).another(None), None);
        assert!(of(pod.clone()).another(None).unwrap().contains("container abc"));
        assert!(of(pod).another(Some(&ours)).is_some());
        assert!(of(None).another(None).is_some());
        assert_eq!(of(None).another(Some(&ours)), None);
    }

    #[test]
    fn the_engine_that_wrote_the_rules_is_expected_where_any_may() {
        let by_nft = Engine::Iptables(Variant::Nft, IpFamilies::Dual);
        let there = [Found { engine: by_nft, owner: None }];
        let auto = Policy::default();
        let named = Policy { engine: EngineChoice::Nftables, ..Policy::default() };
        for (name, policy, record, found, engine) in [
            ("nothing there", &auto, None, &[][..], Engine::Nftables),
            ("recorded", &auto, Some(record("iptables-nft")), &[], by_nft),
            ("found", &auto, None, &there, by_nft),
            ("named", &named, Some(record("iptables-nft")), &there, Engine::Nftables),
        ] {
            assert_eq!(expected(policy, record.as_ref(), found).unwrap(), engine, "{name}");
        }
    }
}
