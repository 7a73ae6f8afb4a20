// SPDX-License-Identifier: Apache-2.0
//! The records of names, and a table of names by hand for the tests of this room.

use super::*;
use crate::dns::message::question_end;

/// A host, its TTL, its addresses, and its ports with their names, of which an empty one is none.
pub(crate) type NameRow<'r> = (&'r str, u32, &'r [&'r str], &'r [(u16, &'r str)]);

/// Makes the names of a plan.
pub(crate) fn mesh(rows: &[NameRow<'_>]) -> Arc<MeshNames> {
    let mut names: Vec<_> = rows
        .iter()
        .map(|(host, ttl, addresses, ports)| MeshName {
            host: (*host).into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ttl: *ttl,
            ports: ports.iter().map(|(port, name)| port_of(*port, name)).collect(),
            service: "MeshService web".into(),
            by: "HostnameGenerator local".into(),
        })
        .collect();
    names.sort_by(|one, other| one.host.cmp(&other.host));
    Arc::new(MeshNames { names, ..MeshNames::default() })
}

fn port_of(port: u16, name: &str) -> NamePort {
    NamePort { port, name: (!name.is_empty()).then(|| name.into()) }
}

/// A question for a name of these labels.
fn question(labels: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    for label in labels {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label);
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// The records of a name, as text.
fn records(names: &Names, name: &str, wanted: RecordType) -> Option<Vec<String>> {
    let labels: Vec<_> = name.split('.').map(str::as_bytes).collect();
    let message = question(&labels);
    let found = names.get(&message, question_end(&message).unwrap())?;
    Some(found.records(wanted).unwrap().iter().map(ToString::to_string).collect())
}

fn some(records: &[&str]) -> Option<Vec<String>> {
    Some(records.iter().map(|record| (*record).to_owned()).collect())
}

const ROWS: &[NameRow<'static>] = &[
    (
        "web.mesh",
        30,
        &["240.0.0.2", "fd00:fd00::2"],
        &[(80, "http"), (8080, "http"), (81, "Admin"), (82, "")],
    ),
    ("other.mesh", 10, &["240.0.0.2"], &[]),
    ("nothing.mesh", 30, &[], &[(80, "http")]),
    ("a-b_c.example.com", 30, &["192.0.2.1"], &[]),
    ("single", 30, &["240.0.0.3"], &[]),
];

#[test]
fn a_name_has_the_records_of_its_addresses_ports_and_no_others() {
    let names = Names::of(mesh(ROWS), Reach::ALL);
    let six = format!("2.{}0.0.d.f.0.0.d.f.ip6.arpa", "0.".repeat(23));
    for (name, wanted, expected) in [
        ("web.mesh", RecordType::A, some(&["240.0.0.2"])),
        ("WEB.Mesh", RecordType::AAAA, some(&["fd00:fd00::2"])),
        ("web.mesh", RecordType::ANY, some(&["240.0.0.2", "fd00:fd00::2"])),
        ("web.mesh", RecordType::SRV, some(&[])),
        ("nothing.mesh", RecordType::A, some(&[])),
        ("a-b_c.example.com", RecordType::A, some(&["192.0.2.1"])),
        ("single", RecordType::A, some(&["240.0.0.3"])),
        ("_http._tcp.web.mesh", RecordType::SRV, some(&["0 0 80 web.mesh.", "0 0 8080 web.mesh."])),
        ("_HTTP._TCP.web.mesh", RecordType::ANY, some(&["0 0 80 web.mesh.", "0 0 8080 web.mesh."])),
        ("_admin._tcp.web.mesh", RecordType::SRV, some(&["0 0 81 web.mesh."])),
        ("_admin._tcp.web.mesh", RecordType::A, some(&[])),
        ("2.0.0.240.in-addr.arpa", RecordType::PTR, some(&["other.mesh.", "web.mesh."])),
        ("2.0.0.240.in-addr.arpa", RecordType::A, some(&[])),
        (&six[..], RecordType::PTR, some(&["web.mesh."])),
        (&six.to_ascii_uppercase()[..], RecordType::PTR, some(&["web.mesh."])),
    ] {
        assert_eq!(records(&names, name, wanted), expected, "{name} {wanted}");
    }
    for unknown in [
        "mesh",
        "we.mesh",
        "web.mesh2",
        "x.web.mesh",
        "web.mesh.mesh",
        "_http._udp.web.mesh",
        "_https._tcp.web.mesh",
        "http._tcp.web.mesh",
        "_._tcp.web.mesh",
        "_tcp.web.mesh",
        "_http._tcp.other.mesh",
        "_http._tcp._http._tcp.web.mesh",
        "2.0.0.240.in-addr.arpa.mesh",
        "02.0.0.240.in-addr.arpa",
        "+2.0.0.240.in-addr.arpa",
        "2.0.0.0.240.in-addr.arpa",
        "0.0.240.in-addr.arpa",
        "256.0.0.240.in-addr.arpa",
        "9.0.0.240.in-addr.arpa",
        "in-addr.arpa",
        &six[2..],
        &format!("0.{six}"),
        &six.replacen('2', "g", 1),
    ] {
        assert_eq!(records(&names, unknown, RecordType::ANY), None, "{unknown}");
    }
}

#[test]
fn the_lowest_ttl_of_an_addresss_names_holds() {
    let names = Names::of(mesh(ROWS), Reach::ALL);
    for (name, ttl) in [("web.mesh", 30), ("_http._tcp.web.mesh", 30), ("2.0.0.240.in-addr.arpa", 10)] {
        let labels: Vec<_> = name.split('.').map(str::as_bytes).collect();
        let message = question(&labels);
        assert_eq!(names.get(&message, message.len()).unwrap().ttl(), ttl, "{name}");
    }
}

#[test]
fn a_family_without_a_way_has_no_records_and_the_name_stays() {
    for (reach, expected) in [
        (Reach::ALL, some(&["240.0.0.2", "fd00:fd00::2"])),
        (Reach { v4: true, v6: false }, some(&["240.0.0.2"])),
        (Reach { v4: false, v6: true }, some(&["fd00:fd00::2"])),
        (Reach { v4: false, v6: false }, some(&[])),
    ] {
        let names = Names::of(mesh(ROWS), reach);
        assert_eq!(records(&names, "web.mesh", RecordType::ANY), expected, "{reach:?}");
        // Of what is asked by address nothing is dialled.
        assert_eq!(
            records(&names, "3.0.0.240.in-addr.arpa", RecordType::PTR),
            some(&["single."]),
            "{reach:?}"
        );
    }
}

#[test]
fn no_other_bytes_look_like_a_name_of_the_mesh() {
    let names = Names::of(mesh(ROWS), Reach::ALL);
    let known = |labels: &[&[u8]]| {
        let message = question(labels);
        names.get(&message, message.len()).is_some()
    };
    assert!(known(&[b"web", b"mesh"]));
    // Labels with a dot inside, and the root.
    assert!(!known(&[b"web.mesh"]));
    assert!(!known(&[b"_http._tcp", b"web", b"mesh"]));
    assert!(!known(&[]));
    // Every byte in the place of each letter: the name in its other case, and nothing else.
    for (at, own) in b"webmesh".iter().enumerate() {
        for byte in 0..=u8::MAX {
            let mut bytes = *b"webmesh";
            bytes[at] = byte;
            let (web, mesh) = bytes.split_at(3);
            assert_eq!(known(&[web, mesh]), byte.eq_ignore_ascii_case(own), "{byte} at {at}");
        }
    }
    // A name of 255 bytes on the wire, its end included, fits the text of 254.
    let label = [b'a'; 63];
    assert!(!known(&[&label, &label, &label, &label[..61]]));
    let longest = [&"a".repeat(63)[..], &"a".repeat(63), &"a".repeat(63), &"a".repeat(61)].join(".");
    let names = Names::of(mesh(&[(&longest, 30, &["240.0.0.4"], &[])]), Reach::ALL);
    assert_eq!(records(&names, &longest, RecordType::A), some(&["240.0.0.4"]));
    assert_eq!(records(&names, "4.0.0.240.in-addr.arpa", RecordType::PTR), some(&[&format!("{longest}.")]));
}

#[test]
fn ten_thousand_names_are_found_each() {
    let hosts: Vec<_> = (0..10_000_u32)
        .map(|at| (format!("s{at}.mesh"), format!("240.0.{}.{}", at / 256, at % 256)))
        .collect();
    let addresses: Vec<_> = hosts.iter().map(|(_, address)| [&**address]).collect();
    let none: &[(u16, &str)] = &[];
    let rows: Vec<NameRow<'_>> =
        hosts.iter().zip(&addresses).map(|((host, _), all)| (&**host, 30, &all[..], none)).collect();
    let names = Names::of(mesh(&rows), Reach::ALL);
    for (host, address) in &hosts {
        assert_eq!(records(&names, host, RecordType::A), some(&[address]), "{host}");
    }
    assert_eq!(size_of_val(&*names.by_address), 10_000 * 8);
}
