// SPDX-License-Identifier: Apache-2.0
//! Manifests of a cluster with a controller.

use std::fs;

use serde_json::{Value, json};

use super::tests::{forms, outcome_by, pods, program, settings};
use super::*;
use crate::inject::Identity;

const URL: &str = "https://culvert-controller.culvert-system.svc:15012";

fn controlled(shape: Shape) -> Settings {
    let control =
        Control { url: URL.to_owned(), trust_domain: "mesh.example".to_owned(), identity: Identity::Stream };
    Settings { control: Some(control), ..settings(shape) }
}

/// Takes out what is only in the first list, by what tells its items apart.
fn without(list: &mut Value, other: &Value, key: &str) -> usize {
    let name = |item: &Value| if key.is_empty() { item.clone() } else { item[key].clone() };
    let known: Vec<_> = other.as_array().into_iter().flatten().map(name).collect();
    let list = list.as_array_mut().unwrap();
    let before = list.len();
    list.retain(|item| known.contains(&name(item)));
    before - list.len()
}

/// Takes the controller's part out of a pod.
fn bare(pod: &mut Value, other: &Value, list: &str) {
    let sidecar = &mut pod["spec"][list][0];
    let plain = &other["spec"][list][0];
    assert_eq!(sidecar["env"].as_array().map(Vec::len), Some(6));
    sidecar.as_object_mut().unwrap().remove("env");
    let args: Vec<_> = sidecar["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(args.contains(&format!("--control={URL}").as_str()), "{args:?}");
    assert!(args.contains(&"--resources=/etc/culvert/mesh"), "{args:?}");
    without(&mut sidecar["args"], &plain["args"], "");
    assert!(without(&mut sidecar["volumeMounts"], &plain["volumeMounts"], "name") >= 2);
    let volumes = &mut pod["spec"]["volumes"];
    assert!(without(volumes, &other["spec"]["volumes"], "name") >= 2);
    for volume in volumes.as_array_mut().unwrap() {
        if let Some(map) = volume.get_mut("configMap").and_then(Value::as_object_mut) {
            map.remove("optional");
        }
    }
}

#[test]
fn each_shape_gets_the_same_sidecar_and_the_controllers_part() {
    let mut injected = 0;
    for form in forms() {
        for (shape, list) in [(Shape::Native, "initContainers"), (Shape::Plain, "containers")] {
            let text = &form.text;
            let (_, plain) = outcome_by(text, &settings(shape));
            let (_, answer) = outcome_by(text, &controlled(shape));
            assert_eq!((answer.exit, &answer.err), (plain.exit, &plain.err), "{text}");
            if plain.exit != Exit::Well || plain.out == *text {
                assert_eq!(answer.out, plain.out, "{text}");
                continue;
            }
            // A second call has nothing to do, and neither has one without a controller.
            for settings in [controlled(shape), settings(shape)] {
                assert_eq!(outcome_by(&answer.out, &settings).1.out, answer.out, "{text}");
            }
            for (mut pod, other) in pods(&answer.out).into_iter().zip(pods(&plain.out)) {
                if other["spec"][list][0]["name"] == "culvert-sidecar" && pod != other {
                    bare(&mut pod, &other, list);
                    injected += 1;
                }
                assert_eq!(pod, other, "{text}");
            }
        }
    }
    assert!(injected > 80, "{injected}");
}

#[test]
fn the_program_takes_a_controller() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    fs::write(
        &file,
        json!({ "apiVersion": "v1", "kind": "Pod", "spec": { "containers": [{ "name": "web" }] } })
            .to_string(),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let given = ["--file", file, "--image", "i:1", "--control", URL];
    for (more, domain) in [(&[][..], "cluster.local"), (&["--trust-domain", "mesh.example"], "mesh.example")]
    {
        let (exit, out, err) = program(&[&given[..], more].concat());
        assert_eq!((exit, err.as_str()), (Exit::Well, ""));
        for expected in [format!("--control={URL}"), format!("--trust-domain={domain}")] {
            assert!(out.contains(&expected), "{expected} is not in {out}");
        }
    }
    let (exit, out, _) = program(&[&given[..], &["--identity", "requests"]].concat());
    assert_eq!(exit, Exit::Well);
    assert!(
        out.contains("culvert.dev:identity:roots") && out.contains("--identity=/etc/culvert/identity"),
        "{out}"
    );
    let (exit, _, err) = program(&[&given[..], &["--identity", "directory"]].concat());
    assert_eq!(exit, Exit::Attention);
    assert!(err.contains("identity-volume"), "{err}");
    let (exit, out, _) = program(&["--why", file, "--control", URL]);
    assert_eq!(exit, Exit::Well);
    assert!(out.contains("Pod without a name: injected") && out.contains("add /spec/volumes"), "{out}");
    for (more, named) in [
        (&["--control", "http://a:1"][..], "https://NAME:PORT"),
        (&["--control", "https://a:1/path"], "https://NAME:PORT"),
        (&["--control", "https://a:0"], "https://NAME:PORT"),
        (&["--control", "https://:1"], "https://NAME:PORT"),
        (&["--control", "https://$(A):1"], "https://NAME:PORT"),
        (&["--control", URL, "--trust-domain", "A b"], "lower-case"),
        (&["--trust-domain", "a"], "--control"),
        (&["--identity", "requests"], "--control"),
        (&["--control", URL, "--identity", "spire"], "requests"),
    ] {
        let (exit, out, err) = program(&[&["--file", file, "--image", "i:1"][..], more].concat());
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{more:?}: {err}");
        assert!(err.contains(named), "{more:?}: {err}");
    }
}
