// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::cluster::endpoint::{Behind, Endpoint, InUse, Standing, Turn};
use crate::cluster::remembered::Remembered;
use crate::plan::balance::{Algorithm, Balance, HashFunction, Localities, Locality};
use crate::plan::{MOST_ATTEMPTS, Member, OutlierPlan};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const RING: Algorithm = Algorithm::RingHash { least: 1024, most: 8_000_000, function: HashFunction::XxHash };
const MAGLEV: Algorithm = Algorithm::Maglev { size: 65_537 };
const LEAST: Algorithm = Algorithm::LeastRequest { choices: 2, bias: None };
const ALGORITHMS: [Algorithm; 5] = [Algorithm::RoundRobin, Algorithm::Random, LEAST, RING, MAGLEV];
const PAUSE: u64 = 5_000;

/// The endpoints of a cluster, numbered from 0, and the state that a registry would keep.
struct World {
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
    changes: Remembered,
    outlier: Option<OutlierPlan>,
    /// True: there are active checks.
    checked: bool,
    most: usize,
    turn: usize,
    now: u64,
}

fn endpoint(number: usize) -> Arc<Endpoint> {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap());
    let member = Arc::new(Member { dataplane: "d".into(), tags: Arc::default(), ids: None });
    Arc::new(Endpoint { address: (ip, 80).into(), behind: Behind::Member(member), ejection: Arc::default() })
}

/// The address of a client.
fn client(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc0a8_0000 + number).into()
}

/// Localities as priority, weight, and number of endpoints.
fn localities(all: &[(u32, Option<u32>, usize)], threshold: Option<u32>) -> Option<Localities> {
    let locality = |&(priority, weight, endpoints): &(u32, Option<u32>, usize)| Locality {
        zone: Some(format!("zone-{priority}").into()),
        sub_zone: None,
        priority,
        weight,
        endpoints,
    };
    Some(Localities { all: all.iter().map(locality).collect(), threshold })
}

impl World {
    fn new(algorithm: Algorithm, endpoints: usize, localities: Option<Localities>) -> Self {
        let balance = Balance { algorithm, by_source: true, localities };
        Self {
            endpoints: (0..endpoints).map(endpoint).collect(),
            balancer: Balancer::new(&balance, endpoints, 42).expect("more than turns"),
            changes: Remembered::default(),
            outlier: Some(OutlierPlan::default()),
            checked: false,
            most: MOST_ATTEMPTS,
            turn: 0,
            now: 1,
        }
    }

    /// One zone with two endpoints, and behind it two zones with one each.
    fn of_zones(algorithm: Algorithm) -> Self {
        Self::new(algorithm, 4, localities(&[(0, None, 2), (1, None, 1), (3, None, 1)], Some(50_000)))
    }

    /// Endpoints that are alike. Those that take turns need a second priority to have a balancer.
    fn alike(algorithm: Algorithm, endpoints: usize) -> Self {
        let localities = (algorithm == Algorithm::RoundRobin)
            .then(|| localities(&[(0, None, endpoints - 1), (1, None, 1)], None))
            .flatten();
        Self::new(algorithm, endpoints, localities)
    }

    fn from(&mut self, client: IpAddr) -> Picks<'_> {
        self.turn += 1;
        let Self { endpoints, balancer, changes, outlier, checked, most, turn, now } = self;
        let well = endpoints.iter().filter(|endpoint| !endpoint.ejection.is_unhealthy()).count();
        let request = Request {
            endpoints,
            client,
            turn: *turn,
            most: *most,
            now: *now,
            first_pause: PAUSE,
            outlier: *outlier,
            checks: Checks {
                healthy: checked.then_some(well),
                panic: outlier.map_or(0, |outlier| outlier.panic_threshold),
                ..Checks::default()
            },
            changes,
        };
        Picks::new(balancer, request)
    }

    /// The order of a connection of a client that no other has.
    fn next(&mut self) -> Picks<'_> {
        let number = u32::try_from(self.turn).unwrap();
        self.from(client(number))
    }

    fn first(&mut self, client: IpAddr) -> usize {
        number(self.from(client).next().unwrap())
    }

    /// Counts the first endpoints of so many connections, each of another client.
    fn firsts(&mut self, connections: u32) -> BTreeMap<usize, u32> {
        let mut counts = BTreeMap::new();
        for n in 0..connections {
            *counts.entry(self.first(client(n))).or_default() += 1;
        }
        counts
    }

    fn fails(&self, number: usize, standing: Standing) {
        self.endpoints[number].ejection.failed(self.now, PAUSE, standing);
        self.changes.forget();
    }

    fn returns(&self, number: usize) {
        self.endpoints[number].ejection.end();
        self.changes.forget();
    }
}

fn number(turn: Turn<'_>) -> usize {
    match turn.endpoint.address.ip() {
        IpAddr::V4(ip) => (ip.to_bits() - 0x0a00_0000) as usize,
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

#[test]
fn endpoints_that_only_take_turns_need_no_balancer() {
    let is_there = |balance: &Balance, endpoints| Balancer::new(balance, endpoints, 1).is_some();
    let turns = Balance::default();
    assert!(!is_there(&turns, 3));
    let one_zone = Balance { localities: localities(&[(0, None, 3)], None), ..Balance::default() };
    assert!(!is_there(&one_zone, 3), "one group is none");
    let zones = Balance { localities: localities(&[(1, None, 1), (1, None, 2)], None), ..Balance::default() };
    assert!(!is_there(&zones, 3), "zones of one priority are one group");
    let random = Balance { algorithm: Algorithm::Random, ..Balance::default() };
    assert!(is_there(&random, 1) && !is_there(&random, 0), "without endpoints there is no choice");
}

/// Of 10,000 connections to ten endpoints each has a thousand; a ring of Envoy's size is uneven by a third.
#[test]
fn each_algorithm_spreads_connections_over_all_endpoints() {
    for (algorithm, range) in
        [(Algorithm::Random, 880..1120), (RING, 600..1500), (MAGLEV, 880..1120), (LEAST, 880..1120)]
    {
        let counts = World::new(algorithm, 10, None).firsts(10_000);
        assert_eq!(counts.len(), 10, "{algorithm:?}: {counts:?}");
        assert!(counts.values().all(|count| range.contains(count)), "{algorithm:?}: {counts:?}");
    }
    let mut turns = World::of_zones(Algorithm::RoundRobin);
    assert_eq!(turns.firsts(10), BTreeMap::from([(0, 5), (1, 5)]));
    // Without a property to hash each connection is a random one, as in Envoy.
    for algorithm in [RING, MAGLEV] {
        let mut world = World::new(algorithm, 4, None);
        world.balancer.by_source = false;
        let firsts: BTreeMap<_, usize> = (0..100).fold(BTreeMap::new(), |mut counts, _| {
            *counts.entry(world.first(client(1))).or_default() += 1;
            counts
        });
        assert_eq!(firsts.len(), 4, "{algorithm:?}: {firsts:?}");
    }
}

#[test]
fn the_same_client_has_the_same_endpoint_and_after_a_reload_too() {
    for algorithm in [RING, MAGLEV] {
        let (mut before, mut after) = (World::new(algorithm, 10, None), World::new(algorithm, 10, None));
        after.balancer.seed = 7;
        for n in 0..100 {
            let first = before.first(client(n));
            assert_eq!((before.first(client(n)), after.first(client(n))), (first, first), "{algorithm:?}");
        }
    }
}

/// Clients whose first endpoint is another one in the second world.
fn moved(before: &mut World, after: &mut World) -> Vec<(usize, usize)> {
    const CLIENTS: u32 = 5_000;
    let firsts = |world: &mut World| (0..CLIENTS).map(|n| world.first(client(n))).collect::<Vec<_>>();
    firsts(before).into_iter().zip(firsts(after)).filter(|(before, after)| before != after).collect()
}

#[test]
fn an_endpoint_that_is_ejected_gives_its_clients_to_the_others_and_gets_them_back() {
    for algorithm in [RING, MAGLEV] {
        let (mut before, mut after) = (World::new(algorithm, 10, None), World::new(algorithm, 10, None));
        after.fails(3, Standing::InService);
        let moves = moved(&mut before, &mut after);
        assert!(moves.iter().all(|(before, after)| *before == 3 && *after != 3), "{algorithm:?}");
        let heirs: BTreeMap<usize, usize> = moves.iter().fold(BTreeMap::new(), |mut heirs, (_, after)| {
            *heirs.entry(*after).or_default() += 1;
            heirs
        });
        assert_eq!(heirs.len(), 9, "{algorithm:?}: all others are heirs, {heirs:?}");
        after.returns(3);
        assert_eq!(moved(&mut before, &mut after), [], "{algorithm:?}");
    }
}

/// Of n endpoints one leaves: its clients move, 1/n of all. As in Envoy the others get some points or entries more each,
/// which moves 1/n at most of the rest.
#[test]
fn an_endpoint_that_leaves_moves_few_clients_of_the_others() {
    for algorithm in [RING, MAGLEV] {
        for endpoints in [5, 10, 50] {
            let mut before = World::new(algorithm, endpoints, None);
            let mut after = World::new(algorithm, endpoints - 1, None);
            let moves = moved(&mut before, &mut after);
            let others = moves.iter().filter(|(before, _)| *before != endpoints - 1).count();
            let most = 5_000 * 12 / (10 * endpoints);
            assert!(
                others <= most,
                "{algorithm:?}, {endpoints}: {others} of {}, at most {most}",
                moves.len()
            );
        }
    }
}

#[test]
fn the_one_with_the_fewest_open_connections_is_next() {
    let mut world = World::new(LEAST, 2, None);
    let busy = world.first(client(1));
    let _open = InUse::of(&world.endpoints[busy]);
    for _ in 0..20 {
        assert_eq!(world.first(client(1)), 1 - busy, "two of two are compared");
    }
    let mut many = World::new(LEAST, 10, None);
    let open: Vec<_> = (0..1_000)
        .map(|n| {
            let first = many.first(client(n));
            InUse::of(&many.endpoints[first])
        })
        .collect();
    let uses: Vec<_> = many.endpoints.iter().map(|endpoint| endpoint.ejection.uses()).collect();
    assert!(uses.iter().all(|uses| (95..=105).contains(uses)), "{uses:?}");
    drop(open);
    assert!(many.endpoints.iter().all(|endpoint| endpoint.ejection.uses() == 0));
}

#[test]
fn a_connection_tries_each_endpoint_once_and_ejected_ones_at_the_end() {
    for algorithm in ALGORITHMS {
        let mut world = World::alike(algorithm, 7);
        world.most = 100;
        for out in [2, 5] {
            world.fails(out, Standing::InService);
        }
        for _ in 0..50 {
            let order: Vec<_> = world.next().map(|turn| (number(turn), turn.standing)).collect();
            let mut all: Vec<_> = order.iter().map(|(number, _)| *number).collect();
            let mut last = all[5..].to_vec();
            last.sort_unstable();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6], "{algorithm:?}: {order:?}");
            assert_eq!(last, [2, 5], "{algorithm:?}: {order:?}");
            let standings = order.iter().map(|(_, standing)| *standing);
            assert!(standings.eq([[Standing::InService; 5].as_slice(), &[Standing::LastResort; 2]].concat()));
        }
        world.most = 3;
        assert_eq!(world.next().count(), 3, "{algorithm:?}: as many as MeshRetry says");
        world.outlier = None;
        world.changes.forget();
        assert!(world.firsts(500).len() > 2, "{algorithm:?}");
        assert!(
            world.next().all(|turn| turn.standing == Standing::InService),
            "{algorithm:?}: no ejection counts"
        );
    }
}

/// The order for a hash that is retried is the one that later connections have, once the first is ejected.
#[test]
fn a_client_whose_endpoint_fails_goes_where_its_next_connections_will_go() {
    for algorithm in [RING, MAGLEV] {
        let mut world = World::new(algorithm, 10, None);
        for n in 0..20 {
            let order: Vec<_> = world.from(client(n)).map(number).collect();
            assert_eq!(order.len(), MOST_ATTEMPTS);
            for failed in &order[..3] {
                world.fails(*failed, Standing::InService);
            }
            assert_eq!(world.first(client(n)), order[3], "{algorithm:?}");
            order[..3].iter().for_each(|failed| world.returns(*failed));
        }
    }
}

#[test]
fn the_first_choice_allocates_nothing() {
    for algorithm in ALGORITHMS {
        let mut world = World::of_zones(algorithm);
        let mut order = world.next();
        order.next();
        assert!(order.allocates_nothing(), "{algorithm:?}");
    }
}

#[test]
fn zones_take_over_in_their_order() {
    for algorithm in ALGORITHMS {
        let mut world = World::of_zones(algorithm);
        for _ in 0..20 {
            let order: Vec<_> = world.next().map(number).collect();
            assert!(order == [0, 1, 2, 3] || order == [1, 0, 2, 3], "{algorithm:?}: {order:?}");
        }
        world.fails(0, Standing::InService);
        assert_eq!(world.firsts(50).into_keys().collect::<Vec<_>>(), [1], "{algorithm:?}: half is enough");
        world.fails(1, Standing::InService);
        assert_eq!(world.firsts(50).into_keys().collect::<Vec<_>>(), [2], "{algorithm:?}");
        world.fails(2, Standing::InService);
        assert_eq!(world.firsts(50).into_keys().collect::<Vec<_>>(), [3], "{algorithm:?}");
        world.fails(3, Standing::InService);
        let standings: Vec<_> = world.next().map(|turn| turn.standing).collect();
        assert_eq!(standings, [Standing::LastResort; 4], "{algorithm:?}: nothing else is left");
        assert!(world.firsts(50).into_keys().all(|first| first < 2), "{algorithm:?}: this zone before all");
    }
}

#[test]
fn an_ejected_zone_comes_back_by_one_trial_at_a_time() {
    for algorithm in ALGORITHMS {
        let mut world = World::of_zones(algorithm);
        world.fails(0, Standing::InService);
        world.fails(1, Standing::InService);
        world.now += PAUSE;
        let mut tried = Vec::new();
        for _ in 0..4 {
            let turn = world.next().next().unwrap();
            tried.push((number(turn), turn.standing == Standing::Trial));
        }
        assert_eq!(tried, [(0, true), (1, true), (2, false), (2, false)], "{algorithm:?}");
        world.fails(0, Standing::Trial);
        world.returns(1);
        assert_eq!(world.firsts(20).into_keys().collect::<Vec<_>>(), [1], "{algorithm:?}");
        // The next trial of the other comes after twice the pause.
        world.now += 2 * PAUSE - 1;
        assert_eq!(world.first(client(1)), 1, "{algorithm:?}");
        world.now += 1;
        let mut order = world.next();
        let first = order.next().unwrap();
        assert_eq!((number(first), first.standing), (0, Standing::Trial), "{algorithm:?}");
        assert_eq!(order.next().map(number), Some(1), "{algorithm:?}: where the trial fails");
    }
}

/// A trial in another zone would take a connection out of this one for nothing.
#[test]
fn a_zone_that_is_not_needed_has_no_trials() {
    let mut world = World::of_zones(Algorithm::RoundRobin);
    world.fails(3, Standing::InService);
    world.now += 10 * PAUSE;
    assert_eq!(world.firsts(20).into_keys().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn weights_and_the_threshold_decide_how_many_connections_a_group_gets() {
    let near = localities(&[(0, Some(90), 1), (0, Some(10), 1), (1, None, 1)], Some(50_000));
    for algorithm in ALGORITHMS {
        let mut world = World::new(algorithm, 3, near.clone());
        let counts = world.firsts(5_000);
        assert!(
            !counts.contains_key(&2) && (4_350..4_650).contains(&counts[&0]),
            "{algorithm:?}: {counts:?}"
        );
        world.fails(0, Standing::InService);
        assert_eq!(world.firsts(100), BTreeMap::from([(1, 100)]), "{algorithm:?}: half is enough");
        // Two of ten are 40 % of the half that would be enough.
        let mut world = World::new(algorithm, 11, localities(&[(0, None, 10), (1, None, 1)], Some(50_000)));
        (2..10).for_each(|number| world.fails(number, Standing::InService));
        let other = world.firsts(5_000)[&10];
        assert!((2_800..3_200).contains(&other), "{algorithm:?}: {other}");
    }
}

#[test]
fn where_too_few_are_in_service_ejections_do_not_count() {
    for algorithm in [Algorithm::Random, LEAST, RING, MAGLEV] {
        let mut world = World::new(algorithm, 4, None);
        world.outlier = Some(OutlierPlan {
            panic_threshold: 50_000,
            ejection_time: Duration::from_secs(5),
            ..OutlierPlan::default()
        });
        (0..3).for_each(|number| world.fails(number, Standing::InService));
        assert_eq!(world.firsts(500).len(), 4, "{algorithm:?}");
        world.returns(0);
        assert_eq!(world.firsts(500).into_keys().collect::<Vec<_>>(), [0, 3], "{algorithm:?}");
    }
}

#[test]
fn where_nearly_all_are_ejected_a_long_ring_is_not_gone_through() {
    let algorithm =
        Algorithm::RingHash { least: 100_000, most: 100_000, function: HashFunction::MurmurHash2 };
    let mut world = World::new(algorithm, 200, None);
    (1..200).for_each(|number| world.fails(number, Standing::InService));
    for n in 0..20 {
        assert_eq!(world.first(client(n)), 0);
    }
}

#[test]
fn where_one_priority_panics_the_last_endpoint_to_be_tried_is_known_as_the_last() {
    for algorithm in ALGORITHMS {
        // Of the first priority none passes its checks, of the second one of two.
        let mut world = World::new(algorithm, 4, localities(&[(0, None, 2), (1, None, 2)], None));
        world.checked = true;
        world.outlier = Some(OutlierPlan { panic_threshold: 50_000, ..OutlierPlan::default() });
        for place in 0..3 {
            world.endpoints[place].ejection.set_unhealthy(true);
        }
        world.changes.forget();
        for _ in 0..20 {
            let mut picks = world.next();
            let more: Vec<_> = std::iter::from_fn(|| picks.next().map(|_| picks.has_more())).collect();
            assert_eq!(more, [true, true, false], "{algorithm:?}");
        }
        // Once the second priority takes all connections, the first is in panic no more.
        world.endpoints[2].ejection.set_unhealthy(false);
        world.changes.forget();
        let mut tried: Vec<_> = world.next().map(number).collect();
        tried.sort_unstable();
        assert_eq!(tried, [2, 3], "{algorithm:?}");
    }
}
