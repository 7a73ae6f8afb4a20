// SPDX-License-Identifier: Apache-2.0
//! `conf.loadBalancer` of a TrafficRoute, the ancestor of this kind's algorithm.

use super::{Between, HashFunction, LeastRequest, LoadBalancer, LoadBalancerKind, RingHash};
use crate::read::part::Part;
use crate::read::{At, Mapping, fields, words};

fields! {
    /// An algorithm, named by the one field that is there.
    pub struct OlderLoadBalancer {
        /// One endpoint after the other.
        round_robin: optional Mapping = "roundRobin",
        /// The endpoint with the fewest open connections, of some random ones.
        least_request: optional OlderLeastRequest = "leastRequest",
        /// The endpoint that is next on a ring of hashes.
        ring_hash: optional OlderRingHash = "ringHash",
        /// A random endpoint.
        random: optional Mapping = "random",
        /// The endpoint that a table of hashes says.
        maglev: optional Mapping = "maglev",
    }
}

fields! {
    /// Settings of leastRequest.
    pub struct OlderLeastRequest {
        /// Random endpoints of which one is taken. Default, and 0: Envoy's 2.
        choice_count: optional u32 = "choiceCount",
    }
}

fields! {
    /// Settings of ringHash.
    pub struct OlderRingHash {
        /// Hash of the endpoints' addresses. Kuma has no default.
        hash_function: required OlderHashFunction = "hashFunction",
        /// Fewest points of the ring.
        min_ring_size: optional Between<1, 8_000_000> = "minRingSize",
        /// Most points of the ring.
        max_ring_size: optional Between<1, 8_000_000> = "maxRingSize",
    }
}

words! {
    /// Hashes of endpoints' addresses.
    pub enum OlderHashFunction {
        /// XXH64.
        XxHash = "XX_HASH",
        /// MurmurHash2 in 64 bits.
        MurmurHash2 = "MURMUR_HASH_2",
    }
}

impl OlderLoadBalancer {
    /// Returns the algorithm in the newer words; `None` where no field names one.
    pub fn algorithm(&self) -> Option<LoadBalancer> {
        use LoadBalancerKind::{LeastRequest as Least, Maglev, Random, RingHash as Ring, RoundRobin};
        let kinds = [
            (Least, self.least_request.is_some()),
            (Ring, self.ring_hash.is_some()),
            (Random, self.random.is_some()),
            (Maglev, self.maglev.is_some()),
            (RoundRobin, self.round_robin.is_some()),
        ];
        let (kind, _) = kinds.into_iter().find(|(_, there)| *there)?;
        let least_request = self.least_request.as_ref().map(|settings| LeastRequest {
            choice_count: settings.choice_count.filter(|count| *count >= 2).map(Between),
            active_request_bias: None,
        });
        let ring_hash = self.ring_hash.as_ref().map(|settings| RingHash {
            hash_function: Some(match settings.hash_function {
                OlderHashFunction::XxHash => HashFunction::XxHash,
                OlderHashFunction::MurmurHash2 => HashFunction::MurmurHash2,
            }),
            min_ring_size: settings.min_ring_size,
            max_ring_size: settings.max_ring_size,
            hash_policies: None,
        });
        Some(LoadBalancer { kind, round_robin: None, least_request, ring_hash, random: None, maglev: None })
    }

    /// Notes that more than one field names an algorithm, and settings that Kuma refuses.
    pub fn check(part: &Part<'_>, at: &mut At<'_>) {
        const ALL: [&str; 5] = ["roundRobin", "leastRequest", "ringHash", "random", "maglev"];
        let there: Vec<_> = ALL.into_iter().filter(|field| part.has(field) == Ok(true)).collect();
        if there.len() > 1 {
            part.problem_here(at, there.join(" and "), "one algorithm");
        }
        let least = part.field("leastRequest");
        if least.get::<u32>("choiceCount") == Ok(Some(1)) {
            least.problem(at, "choiceCount", "1", "at least 2: of one there is no choice");
        }
        let ring = part.field("ringHash");
        let size = |field| ring.get::<Between<1, 8_000_000>>(field).ok().flatten();
        if let (Some(Between(least)), Some(Between(most))) = (size("minRingSize"), size("maxRingSize"))
            && least > most
        {
            ring.problem(at, "minRingSize", least.to_string(), format!("at most maxRingSize, {most}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Problems, Read};
    use serde_json::{Value, json};

    fn problems_of(value: &Value) -> (Option<LoadBalancer>, usize) {
        let mut problems = Problems::default();
        let mut at = At::root(&mut problems);
        let read = OlderLoadBalancer::read(value, &mut at);
        OlderLoadBalancer::check(&Part::new(value, "", &[]), &mut at);
        (read.and_then(|read| read.algorithm()), problems.into_all().len())
    }

    #[test]
    fn the_older_words_say_the_same_algorithms() {
        for (value, kind) in [
            (json!({}), None),
            (json!({"roundRobin": {}}), Some(LoadBalancerKind::RoundRobin)),
            (json!({"random": {}}), Some(LoadBalancerKind::Random)),
            (json!({"maglev": {}}), Some(LoadBalancerKind::Maglev)),
        ] {
            let (read, wrong) = problems_of(&value);
            assert_eq!((read.map(|read| read.kind), wrong), (kind, 0), "{value}");
        }
        let (read, wrong) = problems_of(&json!({"leastRequest": {"choiceCount": 5}}));
        assert_eq!((read.unwrap().least_request.unwrap().choice_count, wrong), (Some(Between(5)), 0));
        let ring =
            json!({"ringHash": {"hashFunction": "MURMUR_HASH_2", "minRingSize": 64, "maxRingSize": 1024}});
        let (read, wrong) = problems_of(&ring);
        let ring = read.unwrap().ring_hash.unwrap();
        assert_eq!((ring.hash_function, wrong), (Some(HashFunction::MurmurHash2), 0));
        assert_eq!((ring.min_ring_size, ring.max_ring_size), (Some(Between(64)), Some(Between(1024))));
        assert_eq!(problems_of(&json!({"random": {}, "maglev": {}})).1, 1, "two");
        assert_eq!(problems_of(&json!({"ringHash": {"hashFunction": "MD5"}})).1, 1);
        assert_eq!(problems_of(&json!({"ringHash": {}})).1, 1, "as Kuma has it");
        assert_eq!(problems_of(&json!({"leastRequest": {"choiceCount": 1}})).1, 1);
        assert_eq!(problems_of(&json!({"leastRequest": {"choiceCount": 0}})).1, 0, "the default");
        let upside_down =
            json!({"ringHash": {"hashFunction": "XX_HASH", "minRingSize": 9, "maxRingSize": 8}});
        assert_eq!(problems_of(&upside_down).1, 1);
    }
}
