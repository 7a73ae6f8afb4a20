//! The protocol as a table: responses in, requests out, and what is compiled in between.

use crate::control::Settled;
use crate::control::inventory::{CompiledDestination, Inventory, MOST_UNSETTLED, Refused, Taken, ToCompile};
use crate::plan::load::destination::Asked;
use culvert_control::messages::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Destination, Document, NamedDocument, Node, Resource,
};
use culvert_control::{DESTINATION, DOCUMENT};
use culvert_mesh::load::Text;
use prost::Message;
use std::collections::BTreeSet;

pub(super) fn resource(kind: &str, name: &str, version: &str, content: &impl Message) -> Resource {
    let resource = Any { type_url: kind.to_owned(), value: content.encode_to_vec() };
    Resource { version: version.to_owned(), resource: Some(resource), name: name.to_owned() }
}

pub(super) fn document(name: &str, text: &str) -> Resource {
    let version = format!("v-{}", text.get(..16).unwrap_or(text));
    resource(DOCUMENT, name, &version, &Document { text: text.to_owned() })
}

pub(super) fn destination(at: &str, documents: &[(&str, &str)]) -> Resource {
    let named =
        |(name, text): &(&str, &str)| NamedDocument { name: (*name).to_owned(), text: (*text).to_owned() };
    let documents = documents.iter().map(named).collect();
    resource(DESTINATION, at, "1", &Destination { documents })
}

pub(super) fn response(
    kind: &str,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        type_url: kind.to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn told(inventory: &mut Inventory, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> Taken {
    inventory.take(response(DOCUMENT, nonce, resources, removed)).unwrap()
}

fn answered(inventory: &mut Inventory, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> Taken {
    inventory.take(response(DESTINATION, nonce, resources, removed)).unwrap()
}

/// `NAME=TEXT` of all texts.
fn shown(texts: &[Text]) -> String {
    let one = |text: &Text| format!("{}={}", text.name.strip_prefix("control: ").unwrap(), text.text);
    texts.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Compiles with these documents at fault, as the reload does, and returns everything in force.
fn compile(inventory: &mut Inventory, bad: &[&str]) -> (String, Vec<DeltaDiscoveryRequest>) {
    let texts = inventory.texts();
    let names: BTreeSet<_> = bad.iter().map(|name| format!("control: {name}").into()).collect();
    let texts = inventory.texts_without(&texts, &names);
    let about = names.iter().map(|name| (name.clone(), format!("{name} is wrong"))).collect();
    let settled =
        Settled { generation: inventory.generation(), in_force: Some(texts), bad: about, failed: None };
    inventory.settle(&settled);
    for ToCompile { asked, texts: told } in inventory.destinations().changed() {
        let wrong: Vec<_> = told.iter().filter(|text| names.contains(&text.name)).collect();
        let why = wrong.first().map(|text| format!("{} is wrong", text.name));
        let in_force = Some(inventory.destinations().without(&asked, &told, &names));
        inventory.compiled(CompiledDestination { asked, told, in_force, why });
    }
    (shown(&inventory.in_force()), inventory.due(&settled))
}

/// `NONCE`, or `NONCE: REASON` of a refusal.
fn words(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let one = |request: &DeltaDiscoveryRequest| match &request.error_detail {
        Some(status) => format!("{}: {}", request.response_nonce, status.message),
        None => request.response_nonce.clone(),
    };
    requests.iter().map(one).collect()
}

const AT: &str = "10.0.0.9:80";

fn at(text: &str) -> Asked {
    Asked::read(text)
}

#[test]
fn a_response_is_acknowledged_once_it_is_compiled() {
    let mut inventory = Inventory::default();
    let taken = told(&mut inventory, "1", vec![document("Mesh/a", "x"), document("P/b", "y")], &[]);
    assert_eq!(taken, Taken { changed: true, about_pod: true, answered: vec![] });
    // Nothing is due for what is not compiled.
    assert_eq!(inventory.due(&Settled::default()).len(), 0);
    let (in_force, due) = compile(&mut inventory, &[]);
    assert_eq!((in_force.as_str(), words(&due)), ("Mesh/a=x P/b=y", vec!["1".into()]));
    assert_eq!(due[0].type_url, DOCUMENT);
    // The same again changes nothing, and is acknowledged at once.
    assert!(!told(&mut inventory, "2", vec![document("Mesh/a", "x")], &["P/gone"]).changed);
    assert_eq!(inventory.strays, 1);
    let settled = Settled { generation: inventory.generation(), ..Settled::default() };
    assert_eq!(words(&inventory.due(&settled)), ["2"]);
    told(&mut inventory, "3", vec![document("Mesh/a", "z")], &["P/b"]);
    assert_eq!(compile(&mut inventory, &[]).0, "Mesh/a=z");
}

#[test]
fn a_wrong_document_is_refused_by_name_and_the_others_are_in_force() {
    let mut inventory = Inventory::default();
    told(&mut inventory, "1", vec![document("Mesh/a", "x"), document("P/b", "y")], &[]);
    compile(&mut inventory, &[]);
    told(&mut inventory, "2", vec![document("P/b", "bad")], &[]);
    told(&mut inventory, "3", vec![document("Mesh/a", "z"), document("P/new", "bad")], &[]);
    let (in_force, due) = compile(&mut inventory, &["P/b", "P/new"]);
    assert_eq!(in_force, "Mesh/a=z P/b=y", "the last good one, and none that was never good");
    assert_eq!(words(&due), ["2: control: P/b is wrong", "3: control: P/new is wrong"]);
    // A stream that begins again names them without a version: they come again, or are told to be gone.
    let opening = inventory.opening(&Node::default());
    let versions: Vec<_> = opening[0].initial_resource_versions.iter().map(|(a, b)| (&**a, &**b)).collect();
    assert_eq!(versions, [("Mesh/a", "v-z"), ("P/b", ""), ("P/new", "")]);
    // Mended, one counts; one that is gone leaves with its last good content.
    told(&mut inventory, "1", vec![document("P/new", "good")], &["P/b"]);
    let (in_force, due) = compile(&mut inventory, &[]);
    assert_eq!((in_force.as_str(), words(&due)), ("Mesh/a=z P/new=good", vec!["1".into()]));
}

#[test]
fn where_nothing_can_be_used_each_response_is_refused_and_the_last_set_stays() {
    let mut inventory = Inventory::default();
    told(&mut inventory, "1", vec![document("Mesh/a", "x")], &[]);
    compile(&mut inventory, &[]);
    told(&mut inventory, "2", vec![document("Mesh/a", "y")], &[]);
    told(&mut inventory, "3", vec![document("P/b", "y")], &[]);
    let failed = Some("file.yaml: wrong".to_owned());
    let settled = Settled { generation: inventory.generation(), failed, ..Settled::default() };
    inventory.settle(&settled);
    assert_eq!(words(&inventory.due(&settled)), ["2: file.yaml: wrong", "3: file.yaml: wrong"]);
    assert_eq!(shown(&inventory.in_force()), "Mesh/a=x");
    assert_eq!(shown(&inventory.texts()), "Mesh/a=y P/b=y", "tried again with the next change");
    // A destination that came with them is compiled by what is in force, and acknowledged then.
    inventory.follow(&[at(AT)], &[]);
    answered(&mut inventory, "4", vec![destination(AT, &[("D/x", "x")])], &[]);
    let settled = Settled { generation: inventory.generation(), ..settled };
    assert_eq!(inventory.due(&settled), []);
    let ToCompile { asked, texts: told } = inventory.destinations().changed().remove(0);
    inventory.compiled(CompiledDestination { asked, in_force: Some(told.clone()), told, why: None });
    assert_eq!(words(&inventory.due(&settled)), ["4"]);
}

#[test]
fn a_destination_is_asked_answered_followed_and_given_up() {
    let mut inventory = Inventory::default();
    let (request, changed) = inventory.follow(&[at(AT), at("[fd00::9]:80")], &[]);
    assert_eq!(request.unwrap().resource_names_subscribe, [AT, "[fd00::9]:80"]);
    assert!(!changed);
    assert_eq!(inventory.follow(&[at(AT)], &[at("10.1.1.1:1")]), (None, false), "asked already; never asked");
    // Nobody: the answer changes no document.
    let taken = answered(&mut inventory, "1", vec![destination("[fd00::9]:80", &[])], &[]);
    assert_eq!(taken, Taken { answered: vec![at("[fd00::9]:80")], ..Taken::default() });
    let taken = answered(&mut inventory, "2", vec![destination(AT, &[("D/x", "x")])], &[]);
    assert!(taken.changed && taken.answered.is_empty() && !taken.about_pod);
    assert!(!inventory.is_answered(&at(AT)), "it is not compiled yet");
    let (in_force, due) = compile(&mut inventory, &[]);
    assert_eq!((in_force.as_str(), words(&due)), ("D/x=x", vec!["1".into(), "2".into()]));
    assert!(inventory.is_answered(&at(AT)));
    // It changes its mind: nobody, and somebody again.
    assert!(answered(&mut inventory, "3", vec![], &[AT]).changed);
    assert_eq!(compile(&mut inventory, &[]).0, "");
    answered(&mut inventory, "4", vec![destination(AT, &[("D/x", "y")])], &[]);
    assert_eq!(compile(&mut inventory, &[]).0, "D/x=y");
    let (request, changed) = inventory.follow(&[], &[at(AT)]);
    assert_eq!((request.unwrap().resource_names_unsubscribe, changed), (vec![AT.to_owned()], true));
    // An answer that comes late is about nothing.
    let strays = inventory.strays;
    assert_eq!(
        answered(&mut inventory, "5", vec![destination(AT, &[("D/x", "z")])], &["10.2.2.2:2"]),
        Taken::default()
    );
    assert_eq!((inventory.strays - strays, compile(&mut inventory, &[]).0.as_str()), (2, ""));
}

#[test]
fn a_change_of_a_destination_is_compiled_alone_and_one_of_the_pod_with_all_of_them() {
    let mut inventory = Inventory::default();
    let (other, name) = ("10.0.0.8:80", "web.shop.mesh");
    inventory.follow(&[at(AT), at(other), at(name)], &[]);
    answered(&mut inventory, "1", vec![destination(AT, &[("D/x", "x"), ("D/y", "y")])], &[]);
    answered(&mut inventory, "2", vec![destination(other, &[("D/x", "x")]), destination(name, &[])], &[]);
    assert_eq!(inventory.about_generation(), 0);
    compile(&mut inventory, &[]);
    let changed = |inventory: &Inventory| -> Vec<String> {
        inventory
            .destinations()
            .changed()
            .iter()
            .map(|one| format!("{} {}", one.asked, shown(&one.texts)))
            .collect()
    };
    assert_eq!(changed(&inventory), [""; 0]);
    answered(&mut inventory, "3", vec![destination(AT, &[("D/x", "new")])], &[]);
    answered(&mut inventory, "4", vec![destination(name, &[("D/z", "z")])], &[]);
    let mut all = changed(&inventory);
    all.sort();
    assert_eq!(all, ["10.0.0.9:80 D/x=new", "web.shop.mesh D/z=z"]);
    assert_eq!((inventory.about_generation(), inventory.destinations().all().len()), (0, 3));
    told(&mut inventory, "5", vec![document("P/a", "a")], &[]);
    assert_eq!(inventory.about_generation(), inventory.generation());
    // What is told about the pod stands before the same of a destination.
    told(&mut inventory, "6", vec![document("D/z", "own")], &[]);
    assert_eq!(compile(&mut inventory, &[]).0, "D/x=new D/z=own P/a=a");
    // Given up while it is compiled, it has to be forgotten after that.
    let caught = inventory.destinations().all().into_iter().find(|one| one.asked == at(name)).unwrap();
    inventory.follow(&[], &[at(name)]);
    assert_eq!(changed(&inventory), ["web.shop.mesh "], "to be forgotten");
    let ToCompile { asked, texts: told } = caught;
    inventory.compiled(CompiledDestination { asked, in_force: Some(told.clone()), told, why: None });
    assert_eq!(changed(&inventory), ["web.shop.mesh "]);
    // Asked for again meanwhile, with nobody there: what stands is not that answer.
    inventory.follow(&[at(name)], &[]);
    assert_eq!(answered(&mut inventory, "7", vec![destination(name, &[])], &[]).answered, []);
    let ToCompile { asked, texts: told } = inventory.destinations().changed().remove(0);
    inventory.compiled(CompiledDestination { asked, in_force: Some(told.clone()), told, why: None });
    assert!(inventory.is_answered(&at(name)) && changed(&inventory).is_empty());
}

#[test]
fn a_wrong_document_of_a_destination_leaves_what_was_there_and_the_answer_does_not_count() {
    let mut inventory = Inventory::default();
    inventory.follow(&[at(AT)], &[]);
    answered(&mut inventory, "1", vec![destination(AT, &[("D/x", "bad"), ("D/y", "y")])], &[]);
    let (in_force, due) = compile(&mut inventory, &["D/x"]);
    assert_eq!((in_force.as_str(), words(&due)), ("D/y=y", vec!["1: control: D/x is wrong".to_owned()]));
    assert!(!inventory.is_answered(&at(AT)));
    assert_eq!(inventory.bad(), ["control: D/x is wrong"]);
    // A stream that begins again asks for it without a version.
    assert_eq!(inventory.opening(&Node::default())[1].initial_resource_versions.len(), 0);
    answered(&mut inventory, "1", vec![destination(AT, &[("D/x", "good"), ("D/y", "y")])], &[]);
    compile(&mut inventory, &[]);
    assert!(inventory.is_answered(&at(AT)) && inventory.bad().is_empty());
    answered(&mut inventory, "2", vec![destination(AT, &[("D/x", "worse"), ("D/y", "z")])], &[]);
    let (in_force, due) = compile(&mut inventory, &["D/x"]);
    assert_eq!((in_force.as_str(), words(&due).len()), ("D/x=good D/y=z", 1));
    // What comes while it is compiled is not taken for compiled.
    answered(&mut inventory, "3", vec![destination(AT, &[("D/x", "3")])], &[]);
    let ToCompile { asked, texts: told } = inventory.destinations().changed().remove(0);
    answered(&mut inventory, "4", vec![destination(AT, &[("D/x", "4")])], &[]);
    inventory.compiled(CompiledDestination { asked, in_force: Some(told.clone()), told, why: None });
    assert_eq!(shown(&inventory.in_force()), "D/x=3");
    assert!(!inventory.is_answered(&at(AT)) && inventory.destinations().changed().len() == 1);
}

#[test]
fn a_stream_begins_with_all_that_is_there() {
    let mut inventory = Inventory::default();
    let node = Node { id: "shop/web-1".to_owned(), ..Node::default() };
    assert_eq!(inventory.opening(&node).len(), 1, "no destination is asked for");
    inventory.follow(&[at(AT), at("10.0.0.8:80")], &[]);
    told(&mut inventory, "1", vec![document("Mesh/a", "x")], &[]);
    answered(&mut inventory, "2", vec![destination(AT, &[])], &[]);
    let opening = inventory.opening(&node);
    assert_eq!(opening[0].node.as_ref(), Some(&node));
    assert_eq!(opening[0].resource_names_subscribe, ["*"]);
    assert_eq!(opening[0].initial_resource_versions["Mesh/a"], "v-x");
    let mut names = opening[1].resource_names_subscribe.clone();
    names.sort();
    assert_eq!(names, ["10.0.0.8:80", AT]);
    assert_eq!(
        opening[1].initial_resource_versions.iter().collect::<Vec<_>>(),
        [(&AT.to_owned(), &"1".to_owned())]
    );
    // Nonces of the stream before are forgotten.
    assert_eq!(compile(&mut inventory, &[]).1, []);
}

#[test]
fn a_response_that_is_wrong_by_itself_is_refused_and_changes_nothing() {
    let long = "x".repeat(1025);
    let no_content = Resource { name: "P/a".into(), ..Resource::default() };
    let garbled = Resource {
        name: "P/a".into(),
        resource: Some(Any { type_url: DOCUMENT.into(), value: vec![0xff] }),
        ..Resource::default()
    };
    for (kind, resources, removed, expected) in [
        ("envoy.Cluster", vec![], &[][..], Refused::Type("envoy.Cluster".into())),
        (DOCUMENT, vec![no_content], &[], Refused::Content("P/a".into())),
        (DOCUMENT, vec![garbled], &[], Refused::Content("P/a".into())),
        (DOCUMENT, vec![destination("P/a", &[])], &[], Refused::Content("P/a".into())),
        (DOCUMENT, vec![document("P/a", "1"), document("P/a", "2")], &[], Refused::Twice("P/a".into())),
        (DOCUMENT, vec![document("P/a", "1")], &["P/a"], Refused::Twice("P/a".into())),
        (DOCUMENT, vec![document(&long, "1")], &[], Refused::Name),
        (DOCUMENT, vec![document("", "1")], &[], Refused::Name),
        (DESTINATION, vec![destination(AT, &[(&long, "1")])], &[], Refused::Name),
    ] {
        let mut inventory = Inventory::default();
        inventory.follow(&[at(AT)], &[]);
        let (refused, nack) = *inventory.take(response(kind, "7", resources, removed)).unwrap_err();
        assert_eq!(refused, expected);
        assert_eq!((nack.response_nonce.as_str(), nack.type_url.as_str()), ("7", kind));
        assert_eq!(nack.error_detail.unwrap().message, expected.to_string());
        assert_eq!((inventory.generation(), inventory.texts()), (0, vec![]));
    }
}

#[test]
fn a_flood_is_bounded_in_documents_bytes_and_responses() {
    let mut inventory = Inventory::default();
    let megabytes = "x".repeat(4_000_000);
    for number in 0..16 {
        told(&mut inventory, "n", vec![document(&format!("P/{number}"), &megabytes)], &[]);
    }
    let more = response(DOCUMENT, "n", vec![document("P/16", &megabytes)], &[]);
    assert!(matches!(inventory.take(more).unwrap_err().0, Refused::TooMuch { documents: 17, .. }));
    // In the place of another one it has room.
    told(&mut inventory, "n", vec![document("P/15", &megabytes)], &[]);
    let mut inventory = Inventory::default();
    let many =
        |from: usize| (from..from + 25_000).map(|number| document(&format!("P/{number}"), "")).collect();
    for from in [0, 25_000] {
        told(&mut inventory, "n", many(from), &[]);
    }
    let more = response(DOCUMENT, "n", vec![document("P/50000", "")], &[]);
    assert!(matches!(inventory.take(more).unwrap_err().0, Refused::TooMuch { documents: 50_001, .. }));
    let mut inventory = Inventory::default();
    for number in 0..MOST_UNSETTLED {
        assert!(!inventory.is_behind(), "{number}");
        told(&mut inventory, "n", vec![document("P/a", &number.to_string())], &[]);
    }
    assert!(inventory.is_behind());
    assert_eq!(compile(&mut inventory, &[]).1.len(), MOST_UNSETTLED);
    assert!(!inventory.is_behind());
}
