//! A neighbour that sends to the pod's hardware address what no router would: forged packets.

use anyhow::Result;
use culvert_tests::server::echo;
use culvert_tests::{Family, Knock, Lab, Landing, Segment};

use crate::support::by_every_engine;

/// The address of a service that trusts its own pod.
const SERVICE: u16 = 8080;

fn a_forged_packet_does_not_reach_what_listens_on_loopback(engine: &str) -> Result<()> {
    for annotations in [&[][..], &[("redirect-outbound", "disabled")], &[("exclude-inbound-ports", "8080")]] {
        let lab = Lab::new()?;
        lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
        let landing = Landing::new(&lab.pod)?;
        let services = [
            lab.pod.serve(("127.0.0.1", SERVICE), echo())?,
            lab.pod.serve(("127.0.0.6", SERVICE), echo())?,
            lab.pod.serve(("::1", SERVICE), echo())?,
            lab.pod.serve(("::6", SERVICE), echo())?,
        ];
        let wire = lab.peer.wire_of("eth0")?;
        let pod = lab.pod.mac("eth0")?;

        // The same forger is heard where it may be: so silence is no mistake of its own.
        for family in Family::BOTH {
            let syn = Segment::syn((family.peer(), 4000), (family.pod(), 8081));
            assert_eq!(
                wire.knock(pod, syn)?,
                Knock::Accepted,
                "{family} to the pod's own address, {annotations:?}"
            );
        }

        let mut requests = Vec::new();
        for address in ["127.0.0.1", "127.0.0.6", "127.0.0.2", "::1", "::6"] {
            for port in [SERVICE, 8081, 15_006, 15_001] {
                let source = (Family::of(address.parse()?).peer(), u16::try_from(5000 + requests.len())?);
                requests.push(Segment::syn(source, (address, port)));
            }
        }
        for (request, answer) in requests.iter().zip(wire.knock_all(pod, &requests)?) {
            assert_eq!(answer, Knock::Silence, "to {}, {annotations:?}", request.destination);
        }
        for service in &services {
            assert_eq!(service.accepted(), 0, "{} was reached", service.address());
        }
        assert!(landing.accepted().values().all(|count| *count == 0), "{:?}", landing.accepted());
    }
    Ok(())
}

fn a_forged_source_on_loopback_gets_no_answer(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine)])?.expect_success();
    let landing = Landing::new(&lab.pod)?;
    let wire = lab.peer.wire_of("eth0")?;
    let pod = lab.pod.mac("eth0")?;
    for family in Family::BOTH {
        for source in [family.loopback(), family.hop()] {
            let syn = Segment::syn((source, 4000), (family.pod(), 8080));
            assert_eq!(wire.knock(pod, syn)?, Knock::Silence, "from {source}");
        }
    }
    assert!(landing.accepted().values().all(|count| *count == 0), "{:?}", landing.accepted());
    Ok(())
}

by_every_engine! {
    a_forged_packet_does_not_reach_what_listens_on_loopback,
    a_forged_source_on_loopback_gets_no_answer,
}
