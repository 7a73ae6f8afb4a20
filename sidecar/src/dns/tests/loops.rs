// SPDX-License-Identifier: Apache-2.0
//! A server of the pod whose own queries come to the sidecar.

use super::*;
use tokio::sync::Semaphore;

/// A cache without a memory: passes each query on with another id from another port, and its answer back.
struct Cache {
    address: SocketAddr,
    passed_on: Arc<AtomicUsize>,
}

impl Cache {
    /// Passes on what `takes` lets through.
    async fn asking(takes: impl Fn(&[u8]) -> bool + Send + 'static) -> (Self, Arc<Mutex<SocketAddr>>) {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let (address, server) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(nowhere)));
        let passed_on = Arc::<AtomicUsize>::default();
        let (seen, asked) = (Arc::clone(&passed_on), Arc::clone(&server));
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut query = buffer[..length].to_vec();
                if !takes(&query) {
                    continue;
                }
                let number = seen.fetch_add(1, Ordering::SeqCst);
                let (socket, server) = (Arc::clone(&socket), *asked.lock().unwrap());
                tokio::spawn(async move {
                    let id = id_of(&query);
                    message::set_id(&mut query, u16::try_from(number).unwrap());
                    let out = client(server).await;
                    out.send(&query).await.unwrap();
                    let mut answer = received(&out).await;
                    message::set_id(&mut answer, id);
                    // The sidecar may not wait for it any more.
                    let _ = socket.send_to(&answer, from).await;
                });
            }
        });
        (Self { address, passed_on }, server)
    }

    fn passed_on(&self) -> usize {
        self.passed_on.load(Ordering::SeqCst)
    }
}

fn world_with(cache: &Cache) -> World {
    let world = World::new(&[], NEVER);
    world.dns.servers.store(Arc::new(Servers::default().follow(&[cache.address], |_| true)));
    world
}

#[tokio::test]
async fn a_cache_in_the_pod_that_asks_the_sidecar_again_is_found_out() {
    let (cache, server) = Cache::asking(|_| true).await;
    let world = world_with(&cache);
    *server.lock().unwrap() = world.v4();
    let asked = query(1, "a.test", 1);
    let reply = world.ask(&asked).await;
    assert!(answers(&reply, &asked));
    assert_eq!(code(&reply), SERVFAIL);
    // The second round is the hint, and some more pass before the probe is back.
    let rounds = cache.passed_on();
    assert!(rounds < 100, "{rounds} rounds");
    assert!(world.count(Answered::Loop) >= 1);
    // From now on it is not asked.
    assert_eq!(code(&world.ask(&query(2, "b.test", 1)).await), SERVFAIL);
    assert_eq!(cache.passed_on(), rounds);
    assert_eq!(world.dns.metrics.active.get(), 0);
}

#[tokio::test]
async fn a_cache_that_does_not_pass_the_probe_on_goes_round_a_bounded_number_of_times() {
    let (cache, server) = Cache::asking(|query| !query[HEADER + 1..].starts_with(b"culvert-")).await;
    let world = world_with(&cache);
    *server.lock().unwrap() = world.v4();
    assert_eq!(code(&world.ask(&query(1, "a.test", 1)).await), SERVFAIL);
    let rounds = cache.passed_on();
    assert!((200..=300).contains(&rounds), "{rounds} rounds");
}

#[tokio::test]
async fn a_cache_in_the_pod_that_asks_a_server_outside_is_used() {
    const MANY: usize = 1000;
    let good = Upstream::good(5).await;
    let (cache, server) = Cache::asking(|_| true).await;
    *server.lock().unwrap() = good.address;
    let world = world_with(&cache);
    let is_probed = || {
        let queries = good.queries.lock().unwrap();
        queries.iter().any(|query| query[HEADER + 1..].starts_with(b"culvert-"))
    };
    let ask = async || {
        let client = client(world.v4()).await;
        client.send(&query(1, "a.test", 1)).await.unwrap();
        assert_eq!(last_of(&received(&client).await), 5);
    };
    // Two that are there together are the hint.
    timeout(PATIENCE, async {
        while !is_probed() {
            tokio::join!(ask(), ask());
        }
    })
    .await
    .expect("a probe is sent");
    // As many at a time as sockets keep in their queues.
    let turns = Arc::new(Semaphore::new(50));
    let mut answers = Vec::new();
    for id in 0..MANY {
        let (turns, server) = (Arc::clone(&turns), world.v4());
        answers.push(tokio::spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let client = client(server).await;
            client.send(&query(u16::try_from(id).unwrap(), "a.test", 1)).await.unwrap();
            last_of(&received(&client).await)
        }));
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap(), 5);
    }
    assert_eq!((world.count(Answered::Loop), world.count(Answered::Failed)), (0, 0));
}
