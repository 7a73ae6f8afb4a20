// SPDX-License-Identifier: Apache-2.0
//! Addresses from which members came. Only a handshake that succeeded adds one, so strangers push none out.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses in each of two generations, some 40 bytes each. A member beyond them is a stranger until its next handshake.
const GENERATION: usize = 2048;

/// The latest [`GENERATION`] addresses at least, and at most twice as many.
#[derive(Debug, Default)]
pub(crate) struct Acquaintances(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<IpAddr>,
    old: HashSet<IpAddr>,
}

impl Acquaintances {
    /// Notes that a member came from an address.
    pub(crate) fn meet(&self, address: IpAddr) {
        let mut generations = self.generations();
        if generations.young.contains(&address) {
            return;
        }
        if generations.young.len() == GENERATION {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(address);
    }

    /// Returns true if a member came from the address lately.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let generations = self.generations();
        generations.young.contains(&address) || generations.old.contains(&address)
    }

    /// A panic between two changes leaves both sets whole.
    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_latest_are_known_and_their_number_is_bounded() {
        let address = |n: usize| IpAddr::from(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
        let known = Acquaintances::default();
        for n in 0..10 * GENERATION {
            known.meet(address(n));
            known.meet(address(n));
            assert!(known.contains(address(n)) && known.contains(address(n.saturating_sub(GENERATION))));
        }
        assert!(!known.contains(address(0)));
        let generations = known.generations();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
