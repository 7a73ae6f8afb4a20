// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::cluster::endpoint::Turn;
use crate::plan::balance::Algorithm;
use crate::plan::health::HealthPlan;
use crate::plan::listener::http::{CallerRate, Callers, HttpPlan, RequestRate};
use crate::plan::{FailedAnswers, MOST_ATTEMPTS, Member, OutlierPlan};
use culvert_mesh::model::tags::Tags;

/// The plan that options without documents compile to.
pub(crate) fn plan_without_documents() -> Plan {
    use clap::Parser;
    let options = crate::options::Options::try_parse_from(["culvert-sidecar"]).expect("no option is needed");
    let config = options.check().expect("the defaults are good");
    crate::plan::compile::compile(&config, &Default::default()).expect("no document, no error")
}

/// The clusters of a plan by name, each with so many endpoints, besides those of every plan.
fn plan(names: &[&str], endpoints: usize) -> Plan {
    let member = Arc::new(Member { dataplane: "d".into(), tags: Arc::new(Tags::default()), ids: None });
    let endpoint = |n: usize| plan::EndpointPlan {
        address: ([10, 0, 0, u8::try_from(n).unwrap()], 80).into(),
        member: Arc::clone(&member),
    };
    let cluster = |name: &&str| {
        Arc::new(plan::ClusterPlan {
            name: (*name).into(),
            origin: Origin::Outbound,
            upstream: Discovery::Endpoints((0..endpoints).map(endpoint).collect()),
            thresholds: Default::default(),
            connect_timeout: None,
            most_attempts: MOST_ATTEMPTS,
            outlier: Some(OutlierPlan::default()),
            balance: Default::default(),
            health: None,
        })
    };
    let mut plan = plan_without_documents();
    plan.clusters.extend(names.iter().map(cluster));
    plan
}

fn cluster(running: &Running, name: &str) -> Arc<Cluster> {
    let found = running.clusters.iter().find(|cluster| &*cluster.plan.name == name);
    Arc::clone(found.unwrap_or_else(|| panic!("no cluster {name}")))
}

/// The cluster `web` with so many endpoints.
fn web(endpoints: usize) -> Arc<Cluster> {
    cluster(&Registry::default().open(plan(&["web"], endpoints)), "web")
}

/// The last byte of an endpoint's address, which is its place in [`plan`].
fn number(turn: Turn<'_>) -> u8 {
    match turn.endpoint.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => panic!("{}", turn.endpoint.address),
    }
}

#[test]
fn a_name_that_stays_keeps_its_state_and_one_that_goes_takes_it_along() {
    let registry = Registry::default();
    let first = registry.open(plan(&["web", "db"], 1));
    let before = cluster(&first, "web").state.clone();
    before.metrics.total.inc();
    let permit = before.limits.connections.try_acquire();
    let mut changed = plan(&["web", "cache"], 1);
    let web = changed.clusters.iter_mut().find(|cluster| &*cluster.name == "web").unwrap();
    Arc::make_mut(web).thresholds.max_connections = 5;
    let second = registry.open(changed);
    let after = cluster(&second, "web").state.clone();
    assert!(Arc::ptr_eq(&before, &after));
    assert_eq!(after.metrics.total.get(), 1);
    assert_eq!((after.limits.connections.used(), after.limits.connections.max()), (1, 5));
    let old = cluster(&first, "db").state.id;
    drop((first, permit, before, after));
    let third = registry.open(plan(&["db"], 1));
    assert_ne!(cluster(&third, "db").state.id, old, "a new state");
    drop(second);
    let fourth = registry.open(plan(&[], 1));
    let left = registry.0.clusters.lock().unwrap().len();
    assert_eq!(left, fourth.clusters.len() + 1, "db is in use, web and cache are gone");
    drop(third);
}

#[test]
fn endpoints_take_turns() {
    let web = web(3);
    let firsts: Vec<_> = (0..6).map(|_| number(web.turns().next().unwrap())).collect();
    assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
    assert_eq!(web.turns().map(number).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn an_endpoint_that_could_not_be_reached_comes_last_for_a_while() {
    let web = web(3);
    web.failed(&web.endpoints[1], Standing::InService);
    for _ in 0..3 {
        assert_eq!(web.turns().last().map(number), Some(1));
    }
    web.endpoints[1].ejection.end();
    assert_eq!((0..3).filter(|_| web.turns().next().map(number) == Some(1)).count(), 1);
}

#[test]
fn an_endpoint_that_failed_still_comes_last_after_an_unrelated_document_changed() {
    let registry = Registry::default();
    let before = registry.open(plan(&["web"], 3));
    let web = cluster(&before, "web");
    web.failed(&web.endpoints[1], Standing::InService);
    let after = registry.open(plan(&["web", "db"], 3));
    for _ in 0..3 {
        assert_eq!(cluster(&after, "web").turns().last().map(number), Some(1));
    }
    assert_eq!(cluster(&after, "db").turns().next().map(number), Some(0), "another cluster's");
}

#[test]
fn ejections_go_with_their_last_user() {
    let registry = Registry::default();
    let many = registry.open(plan(&["web"], 100));
    let state = Arc::clone(&cluster(&many, "web").state);
    let kept = || state.ejections.lock().unwrap().len();
    assert_eq!(kept(), 100);
    let few = registry.open(plan(&["web"], 2));
    assert_eq!(kept(), 100, "the plan of before may still be in use");
    drop((many, few));
    let _few = registry.open(plan(&["web"], 2));
    assert_eq!(kept(), 2);
}

#[test]
fn one_that_fails_in_a_turn_is_not_tried_again_in_it() {
    let web = web(2);
    let mut tried = Vec::new();
    for turn in web.turns() {
        web.failed(turn.endpoint, turn.standing);
        tried.push(number(turn));
    }
    assert_eq!(tried, [0, 1]);
}

#[test]
fn a_trial_comes_in_its_turn_as_a_first_choice_and_never_in_place_of_one_in_service() {
    let mut plan = plan(&["web"], 2);
    let planned = plan.clusters.iter_mut().find(|cluster| &*cluster.name == "web").unwrap();
    Arc::make_mut(planned).outlier =
        Some(OutlierPlan { ejection_time: Duration::ZERO, ..OutlierPlan::default() });
    let web = cluster(&Registry::default().open(plan), "web");
    web.failed(&web.endpoints[1], Standing::InService);
    let order = || web.turns().map(|turn| turn.standing).collect::<Vec<_>>();
    assert_eq!(order(), [Standing::InService, Standing::LastResort]);
    assert_eq!(order(), [Standing::Trial, Standing::InService]);
}

/// The cluster `web` with so many endpoints and this ejection, opened by a registry.
fn web_with(registry: &Registry, endpoints: usize, outlier: Option<OutlierPlan>) -> Arc<Cluster> {
    let mut plan = plan(&["web"], endpoints);
    let planned = plan.clusters.iter_mut().find(|cluster| &*cluster.name == "web").unwrap();
    Arc::make_mut(planned).outlier = outlier;
    cluster(&registry.open(plan), "web")
}

fn is_in_turn(web: &Cluster) -> Vec<u8> {
    let all = 0..web.endpoints.len();
    let mut firsts: Vec<_> = all.filter_map(|_| web.turns().next().map(number)).collect();
    firsts.sort_unstable();
    firsts.dedup();
    firsts
}

#[test]
fn an_endpoint_is_ejected_by_failures_in_a_row() {
    let outlier = OutlierPlan { consecutive: 3, ..OutlierPlan::default() };
    let web = web_with(&Registry::default(), 2, Some(outlier));
    let fails = || web.failed(&web.endpoints[0], Standing::InService);
    assert!(!fails() && !fails());
    web.succeeded(&web.endpoints[0], Standing::InService);
    assert!(!fails() && !fails());
    assert_eq!(is_in_turn(&web), [0, 1]);
    assert!(fails());
    assert_eq!(is_in_turn(&web), [1]);
}

#[test]
fn an_endpoint_is_ejected_by_failed_answers_in_a_row_and_by_those_of_its_ejection_no_more() {
    let answers = FailedAnswers { all: Some(2), gateway: None };
    let outlier = OutlierPlan { answers, most_ejected: 10, ..OutlierPlan::default() };
    let web = web_with(&Registry::default(), 3, Some(outlier));
    let answers = |place: usize, status| web.answered(&web.endpoints[place], status);
    assert!(web.judges_answers());
    assert!(!answers(0, 500) && !answers(0, 200) && !answers(0, 500));
    assert_eq!(is_in_turn(&web), [0, 1, 2]);
    assert!(answers(0, 503));
    assert_eq!(is_in_turn(&web), [1, 2]);
    assert!((0..9).all(|_| !answers(0, 500)), "it is ejected already");
    assert!(!answers(1, 500) && !answers(1, 500), "more than a tenth are");
    for standing in [Standing::InService, Standing::LastResort] {
        web.succeeded(&web.endpoints[0], standing);
        assert_eq!(is_in_turn(&web), [1, 2], "a server that fails takes connections as before");
    }
    web.succeeded(&web.endpoints[0], Standing::Trial);
    assert_eq!(is_in_turn(&web), [0, 1, 2]);
    assert!(!answers(0, 500) && answers(0, 500), "from the beginning");
    let without = web_with(&Registry::default(), 3, Some(OutlierPlan::default()));
    assert!(!without.judges_answers());
}

#[test]
fn no_more_than_a_share_is_ejected_and_the_first_in_any_case() {
    for (percent, ejected) in [(0, 1), (10, 1), (20, 1), (40, 2), (59, 2), (60, 3), (100, 5)] {
        let outlier = OutlierPlan { most_ejected: percent, ..OutlierPlan::default() };
        let web = web_with(&Registry::default(), 5, Some(outlier));
        let failed = web.endpoints.iter().filter(|endpoint| web.failed(endpoint, Standing::InService));
        assert_eq!(failed.count(), ejected, "{percent} %");
    }
}

#[test]
fn where_too_few_are_in_service_all_take_turns_until_one_returns() {
    let outlier = OutlierPlan { panic_threshold: 50_000, ..OutlierPlan::default() };
    let registry = Registry::default();
    let web = web_with(&registry, 4, Some(outlier));
    let fails = |number: usize| assert!(web.failed(&web.endpoints[number], Standing::InService));
    fails(0);
    fails(1);
    assert_eq!(is_in_turn(&web), [2, 3], "half is not less than half");
    fails(2);
    assert_eq!(is_in_turn(&web), [0, 1, 2, 3]);
    // A reload changes the threshold and keeps the ejections.
    let calm = web_with(&registry, 4, Some(OutlierPlan { panic_threshold: 25_000, ..outlier }));
    assert_eq!(is_in_turn(&calm), [3]);
    let web = web_with(&registry, 4, Some(outlier));
    assert_eq!(is_in_turn(&web), [0, 1, 2, 3]);
    web.succeeded(&web.endpoints[0], Standing::InService);
    assert_eq!(is_in_turn(&web), [0, 3]);
}

#[test]
fn where_no_endpoint_is_ejected_failures_change_nothing() {
    let registry = Registry::default();
    let before = web_with(&registry, 2, Some(OutlierPlan::default()));
    assert!(before.failed(&before.endpoints[0], Standing::InService));
    let web = web_with(&registry, 2, None);
    assert!(!web.failed(&web.endpoints[1], Standing::InService));
    assert_eq!(is_in_turn(&web), [0, 1]);
}

#[test]
fn a_connection_tries_a_few_of_many() {
    let web = web(100);
    assert_eq!(web.turns().count(), MOST_ATTEMPTS);
    for endpoint in &web.endpoints {
        web.failed(endpoint, Standing::InService);
    }
    assert_eq!(web.turns().count(), MOST_ATTEMPTS);
}

#[test]
fn without_endpoints_there_is_no_turn() {
    assert_eq!(web(0).turns().count(), 0);
}

#[test]
fn names_in_statistics_are_envoys() {
    assert_eq!(stat_name("outbound:passthrough:ipv4"), "outbound_passthrough_ipv4");
    assert_eq!(stat_name("web.default.svc[version=1]"), "web_default_svc_version_1_");
    let names = |names: &[&str]| {
        let mut plan = plan(names, 0);
        plan.clusters.retain(|cluster| names.contains(&&*cluster.name));
        stat_names(&plan).0.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&["a.b", "a_b", "a:b", "a_b#2"]), ["a_b#2", "a_b", "a_b#3", "a_b_2"]);
    assert_eq!(names(&["a:b", "a.b"]), ["a_b#2", "a_b"], "the order of documents does not matter");
}

/// The cluster `web` with so many endpoints, which are checked.
fn checked(registry: &Registry, endpoints: usize, health: HealthPlan) -> Arc<Cluster> {
    let mut plan = plan(&["web"], endpoints);
    let planned = plan.clusters.iter_mut().find(|cluster| &*cluster.name == "web").unwrap();
    Arc::make_mut(planned).health = Some(Arc::new(health));
    cluster(&registry.open(plan), "web")
}

fn health(panic_threshold: u32, fail_on_panic: bool) -> HealthPlan {
    HealthPlan { check: Some(Arc::default()), panic_threshold, fail_on_panic }
}

#[test]
fn an_endpoint_that_fails_its_checks_is_no_endpoint_at_all() {
    let web = checked(&Registry::default(), 4, health(0, false));
    web.set_unhealthy(Some(&web.endpoints[1]), true);
    web.failed(&web.endpoints[2], Standing::InService);
    for _ in 0..4 {
        let order: Vec<_> = web.turns().map(number).collect();
        assert!(order.len() == 3 && !order.contains(&1), "{order:?}");
        assert_eq!(order.last(), Some(&2), "an ejected one is a last resort");
        let mut turns = web.turns();
        let more: Vec<_> = std::iter::from_fn(|| turns.next().map(|_| turns.has_more())).collect();
        assert_eq!(more, [true, true, false], "the last one has all the time that is left");
    }
    assert_eq!(web.healthy(), 3);
    (0..4).for_each(|place| web.set_unhealthy(Some(&web.endpoints[place]), true));
    assert_eq!((web.turns().count(), web.healthy()), (0, 0));
    web.set_unhealthy(Some(&web.endpoints[3]), false);
    assert_eq!(is_in_turn(&web), [3]);
    web.set_unhealthy(Some(&web.endpoints[2]), false);
    assert_eq!(is_in_turn(&web), [2, 3], "its ejection ends with that");
}

#[test]
fn where_too_few_pass_their_checks_all_get_connections_or_none() {
    for (fails, in_panic) in [(false, vec![0, 1, 2, 3]), (true, vec![])] {
        let registry = Registry::default();
        let web = checked(&registry, 4, health(50_000, fails));
        web.set_unhealthy(Some(&web.endpoints[0]), true);
        web.set_unhealthy(Some(&web.endpoints[1]), true);
        assert_eq!(is_in_turn(&web), [2, 3], "half is not less than half");
        web.set_unhealthy(Some(&web.endpoints[2]), true);
        assert_eq!(is_in_turn(&web), in_panic);
        // A reload keeps the flags, and another threshold counts.
        assert_eq!(is_in_turn(&checked(&registry, 4, health(25_000, fails))), [3]);
        let web = checked(&registry, 4, health(50_000, fails));
        assert_eq!(is_in_turn(&web), in_panic);
        web.set_unhealthy(Some(&web.endpoints[0]), false);
        assert_eq!(is_in_turn(&web), [0, 3]);
    }
}

#[test]
fn endpoints_that_a_policy_ejected_count_with_those_that_fail_their_checks() {
    let policy = OutlierPlan { panic_threshold: 60_000, ..OutlierPlan::default() };
    for (outlier, in_turn) in
        [(Some(policy), vec![0, 1, 2]), (Some(OutlierPlan::default()), vec![2]), (None, vec![1, 2])]
    {
        let mut plan = plan(&["web"], 3);
        let planned = plan.clusters.iter_mut().find(|cluster| &*cluster.name == "web").unwrap();
        let planned = Arc::make_mut(planned);
        (planned.outlier, planned.health) = (outlier, Some(Arc::new(health(60_000, false))));
        let web = cluster(&Registry::default().open(plan), "web");
        web.set_unhealthy(Some(&web.endpoints[0]), true);
        web.failed(&web.endpoints[1], Standing::InService);
        assert_eq!(is_in_turn(&web), in_turn, "{outlier:?}");
    }
}

#[test]
fn without_a_check_no_flag_counts_and_none_is_left_for_a_later_one() {
    let registry = Registry::default();
    let web = checked(&registry, 2, health(0, false));
    web.set_unhealthy(Some(&web.endpoints[0]), true);
    assert_eq!(is_in_turn(&web), [1]);
    assert_eq!(is_in_turn(&web_with(&registry, 2, Some(OutlierPlan::default()))), [0, 1]);
    assert_eq!(is_in_turn(&checked(&registry, 2, health(0, false))), [0, 1]);
}

#[test]
fn a_bucket_stays_as_long_as_the_name_and_the_rate_of_its_listener() {
    let registry = Registry::default();
    let open = |num| {
        let mut plan = plan_without_documents();
        let rate = RatePlan { num, interval: Duration::from_secs(3600) };
        Arc::make_mut(&mut plan.listeners[1]).rate = Some(rate);
        registry.open(plan)
    };
    let taken = |running: &Running| {
        let bucket = running.listeners[1].bucket.as_ref().expect("a rate");
        (0..10).take_while(|_| bucket.take()).count()
    };
    let first = open(3);
    assert!(first.listeners[0].bucket.is_none());
    assert_eq!(taken(&first), 3);
    let second = open(3);
    assert_eq!(taken(&second), 0, "a reload fills no bucket");
    let other = open(4);
    assert_eq!(taken(&other), 4, "another rate is another bucket");
    drop((first, second));
    assert_eq!(registry.0.buckets.lock().unwrap().len(), 2);
    let _other = open(4);
    assert_eq!(registry.0.buckets.lock().unwrap().len(), 1, "and the old one is gone");
}

#[test]
fn callers_have_buckets_of_their_own_that_stay_where_others_come_and_go() {
    let registry = Registry::default();
    let rate = RatePlan { num: 3, interval: Duration::from_secs(3600) };
    let open = |services: &[&str]| {
        let mut plan = plan_without_documents();
        let of = |service: &&str| {
            let who = vec![Who::Tags(Tags([("kuma.io/service".to_owned(), (*service).to_owned())].into()))];
            let from = Callers { who, addresses: HashSet::new() };
            CallerRate {
                from,
                rate: RequestRate { by: Arc::default(), rate, status: 429, fields: Arc::default() },
            }
        };
        let rules = HttpPlan { rates: services.iter().map(of).collect(), ..HttpPlan::default() };
        let listener = Arc::make_mut(&mut plan.listeners[1]);
        (listener.rate, listener.http) = (Some(rate), Some(Arc::new(rules)));
        registry.open(plan)
    };
    let taken = |bucket: &Bucket| (0..10).take_while(|_| bucket.take()).count();
    let first = open(&["web", "ops"]);
    let listener = &first.listeners[1];
    assert_eq!(taken(listener.bucket.as_ref().expect("a rate")), 3);
    assert_eq!(taken(&listener.requests[1]), 3, "neither the connections' nor another caller's");
    let second = open(&["ops", "web"]);
    let left: Vec<_> = second.listeners[1].requests.iter().map(|one| taken(one)).collect();
    assert_eq!(left, [0, 3], "a bucket is its caller's, not its place's");
}

/// The cluster `web` with so many endpoints, a share below which panic begins, and each way of choosing among them.
fn by_each_algorithm(endpoints: usize, outlier: OutlierPlan, fails: bool) -> [Arc<Cluster>; 2] {
    [Algorithm::RoundRobin, Algorithm::LeastRequest { choices: 2, bias: None }].map(|algorithm| {
        let mut plan = plan(&["web"], endpoints);
        let planned = plan.clusters.iter_mut().find(|cluster| &*cluster.name == "web").unwrap();
        let planned = Arc::make_mut(planned);
        planned.balance.algorithm = algorithm;
        (planned.outlier, planned.health) = (Some(outlier), Some(Arc::new(health(50_000, fails))));
        cluster(&Registry::default().open(plan), "web")
    })
}

fn standings(web: &Cluster) -> Vec<Standing> {
    web.order([10, 0, 0, 9].into()).map(|turn| turn.standing).collect()
}

#[test]
fn where_none_is_to_be_tried_in_panic_an_ejected_endpoint_still_returns_by_a_trial() {
    let outlier =
        OutlierPlan { ejection_time: Duration::ZERO, panic_threshold: 50_000, ..OutlierPlan::default() };
    for web in by_each_algorithm(1, outlier, true) {
        web.failed(&web.endpoints[0], Standing::InService);
        assert_eq!(standings(&web), [Standing::Trial]);
        web.succeeded(&web.endpoints[0], Standing::InService);
        assert_eq!(standings(&web), [Standing::InService]);
    }
}

#[test]
fn an_ejection_that_no_policy_asks_for_makes_no_panic_whatever_chooses() {
    for web in by_each_algorithm(4, OutlierPlan::default(), false) {
        (0..3).for_each(|place| _ = web.failed(&web.endpoints[place], Standing::InService));
        for _ in 0..20 {
            assert_eq!(web.order([10, 0, 0, 9].into()).next().map(number), Some(3));
        }
    }
}

#[test]
fn a_connection_of_the_plan_of_before_leaves_no_answer_for_the_next_plan() {
    let registry = Registry::default();
    let before = checked(&registry, 4, health(61_000, true));
    (0..2).for_each(|place| before.set_unhealthy(Some(&before.endpoints[place]), true));
    let after = checked(&registry, 4, health(25_000, true));
    assert_eq!(before.turns().count(), 0, "half is less than 61 %");
    assert_eq!(is_in_turn(&after), [2, 3]);
}
