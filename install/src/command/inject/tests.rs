// SPDX-License-Identifier: Apache-2.0
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert_cni::pod::Settings as NodeSettings;
use serde_json::{Value, json};

use super::*;
use crate::command::answer::Colour;
use crate::{Streams, run as run_program};

/// A document of the folder `shapes`: its first line is a comment with the expected outcome.
pub(super) struct Form {
    file: String,
    pub text: String,
    expected: String,
}

pub(super) fn forms() -> Vec<Form> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/command/inject/shapes");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let of_file = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let form = |text: &str| {
            let expected = text.lines().next().unwrap().strip_prefix("# ").expect("an outcome").to_owned();
            Form { file: file.clone(), text: text.to_owned(), expected }
        };
        text.split("---\n").map(form).collect::<Vec<_>>()
    };
    files.iter().flat_map(of_file).collect()
}

fn namespace() -> Namespace {
    let labels = [("culvert.dev/inject".to_owned(), "enabled".to_owned())].into();
    Namespace { labels, ..Namespace::default() }
}

pub(super) fn settings(shape: Shape) -> Settings {
    Settings {
        image: "registry.example.com/culvert:0.1.0".to_owned(),
        shape,
        excluded: Vec::new(),
        kuma_label: KumaLabel::On,
        node: NodeSettings::default(),
        control: None,
    }
}

/// All that is said about a text, and the text with sidecars.
fn outcome(text: &str, shape: Shape) -> (String, Answer) {
    outcome_by(text, &settings(shape))
}

pub(super) fn outcome_by(text: &str, settings: &Settings) -> (String, Answer) {
    let said = of_text(text, &namespace(), settings, true).unwrap();
    (said.out, of_text(text, &namespace(), settings, false).unwrap())
}

pub(super) fn pods(text: &str) -> Vec<Value> {
    let found = documents(text).unwrap();
    let pods = found.iter().flat_map(|document| {
        places(&document.value)
            .pods
            .into_iter()
            .map(|place| document.value.pointer(&place.pointer).unwrap().clone())
    });
    pods.collect()
}

#[test]
fn each_shape_of_a_pod_has_its_outcome() {
    let forms = forms();
    assert!(forms.len() >= 60, "{}", forms.len());
    for Form { file, text, expected } in forms {
        let (said, answer) = outcome(&text, Shape::Native);
        match expected.split_once(": ") {
            None if expected == "unchanged" => {
                assert_eq!(answer, Answer::said(text.clone(), Exit::Well), "{file}: {text}");
            }
            None => {
                assert_eq!(expected, "injected", "{file}: {text}");
                assert_eq!((answer.exit, answer.err.as_str()), (Exit::Well, ""), "{file}: {text}");
                assert!(said.contains(": injected: label "), "{file}: {text}\n{said}");
                is_well_injected(&text, &answer.out, Shape::Native);
            }
            Some(("skipped", reason)) => {
                assert_eq!((&answer.out, answer.exit), (&text, Exit::Well), "{file}: {text}");
                assert!(answer.err.contains(reason), "{file}: {text}\n{}", answer.err);
                assert!(said.contains(&format!(": skipped: {reason}")), "{file}: {text}\n{said}");
            }
            Some(("refused", reason)) => {
                assert_eq!((answer.out.as_str(), answer.exit), ("", Exit::Attention), "{file}: {text}");
                assert!(answer.err.contains(reason), "{file}: {text}\n{}", answer.err);
                assert!(said.contains(&format!(": refused\n  {reason}")), "{file}: {text}\n{said}");
            }
            Some(_) => panic!("{file}: {expected}"),
        }
    }
}

#[test]
fn each_shape_of_a_pod_takes_a_plain_sidecar_unless_it_must_end_or_start_without_it() {
    for Form { file, text, .. } in forms().into_iter().filter(|form| form.expected == "injected") {
        let (_, answer) = outcome(&text, Shape::Plain);
        if text.contains("restartPolicy: Never") || text.contains("restartPolicy: OnFailure") {
            assert!(answer.err.contains("would keep the pod from ending"), "{file}: {text}\n{}", answer.err);
        } else if text.contains("name: init-probe") {
            assert!(answer.err.contains("its startupProbe goes over the network"), "{file}: {}", answer.err);
        } else {
            assert_eq!(answer.exit, Exit::Well, "{file}: {text}\n{}", answer.err);
            is_well_injected(&text, &answer.out, Shape::Plain);
        }
    }
}

/// Manifests with a line too few, or cut anywhere, are what they then say, or no manifests.
#[test]
fn a_damaged_manifest_is_no_panic_and_no_half_an_answer() {
    for Form { text, .. } in forms() {
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let without = (0..lines.len()).map(|gone| [&lines[..gone], &lines[gone + 1..]].concat().concat());
        let cut = (0..text.len()).step_by(11).map(|end| text[..end].to_owned());
        for damaged in without.chain(cut) {
            let Ok(answer) = of_text(&damaged, &namespace(), &settings(Shape::Native), false) else {
                continue;
            };
            if answer.exit == Exit::Well && answer.out != damaged {
                let again = of_text(&answer.out, &namespace(), &settings(Shape::Native), false)
                    .unwrap_or_else(|error| panic!("{error}: {damaged}\n→\n{}", answer.out));
                assert_eq!(again.out, answer.out, "{damaged}");
            }
        }
    }
}

/// Invariants of every pod with a sidecar.
fn is_well_injected(before: &str, after: &str, shape: Shape) {
    let context = format!("{before}\n→\n{after}");
    // A second call has nothing to do.
    let (said, again) = outcome(after, shape);
    assert_eq!(again.out, after, "{context}");
    assert!(said.contains("nothing to change"), "{context}\n{said}");
    // Comments, and the order of what stood there.
    for line in before.lines().filter(|line| line.contains("# ")) {
        assert!(after.contains(line), "{line:?} is lost: {context}");
    }
    let list = if shape == Shape::Native { "initContainers" } else { "containers" };
    for (pod, original) in pods(after).iter().zip(pods(before)) {
        let spec = &pod["spec"];
        let sidecar = &spec[list][0];
        assert_eq!(sidecar["name"], "culvert-sidecar", "{context}");
        assert_eq!(sidecar.get("restartPolicy").is_some(), shape == Shape::Native, "{context}");
        let security = &sidecar["securityContext"];
        let uid = security["runAsUser"].as_u64().unwrap();
        assert_eq!(
            *security,
            json!({ "runAsUser": uid, "runAsGroup": uid, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
                    "seccompProfile": { "type": "RuntimeDefault" } }),
            "{context}"
        );
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(annotations["culvert.dev/redirect"], "enabled", "{context}");
        if annotations.get("kuma.io/sidecar-uid").is_none() {
            assert_eq!(annotations["culvert.dev/proxy-uid"], uid.to_string(), "{context}");
        }
        assert!(annotations["inject.culvert.dev/decision"].is_string(), "{context}");
        assert_eq!(
            annotations["kubectl.kubernetes.io/default-container"], original["spec"]["containers"][0]["name"],
            "{context}"
        );
        assert_eq!(spec["enableServiceLinks"], false, "{context}");
        let grace = original["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        assert!(spec["terminationGracePeriodSeconds"].as_u64().unwrap() > grace, "{context}");
        let mounts = sidecar["volumeMounts"].as_array().unwrap();
        let token = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert!(mounts.iter().any(|mount| mount["mountPath"] == token), "{context}");
        let volumes = spec["volumes"].as_array().unwrap();
        for mount in mounts {
            assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{context}");
        }
        assert_eq!(
            sidecar.get("resources").is_none(),
            original["spec"].get("resources").is_some(),
            "{context}"
        );
        has_good_probes(pod, sidecar, &context);
    }
}

/// Each rewritten handler has its original in the option, in the form that the sidecar takes.
fn has_good_probes(pod: &Value, sidecar: &Value, context: &str) {
    let args: Vec<_> = sidecar["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let option = args.iter().find_map(|arg| arg.strip_prefix("--app-probes=")).unwrap_or("{}");
    let option: Value = serde_json::from_str(option).unwrap();
    let mut named = 0;
    for container in
        ["initContainers", "containers"].iter().filter_map(|list| pod["spec"][*list].as_array()).flatten()
    {
        let probes = ["readinessProbe", "livenessProbe", "startupProbe"].map(|field| &container[field]);
        let hooks = ["postStart", "preStop"].map(|field| &container["lifecycle"][field]);
        for handler in probes.into_iter().chain(hooks) {
            let path = handler["httpGet"]["path"].as_str().unwrap_or_default();
            if path.starts_with("/app-health/") {
                assert!(option[path].is_object(), "{path}: {context}");
                named += 1;
            }
        }
    }
    assert_eq!(option.as_object().unwrap().len(), named, "{context}");
    for (path, probe) in option.as_object().unwrap() {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        assert!(path.starts_with("/app-health/") && path.bytes().all(fits), "{path}: {context}");
        let mut ways = 0;
        for (key, value) in probe.as_object().unwrap() {
            let allowed: &[&str] = match key.as_str() {
                "httpGet" => &["port", "path", "scheme", "httpHeaders"],
                "tcpSocket" => &["port"],
                "grpc" => &["port", "service"],
                "timeoutSeconds" => {
                    assert!((1..=300).contains(&value.as_u64().unwrap()), "{context}");
                    continue;
                }
                other => panic!("{other}: {context}"),
            };
            ways += 1;
            assert!(
                value.as_object().unwrap().keys().all(|key| allowed.contains(&key.as_str())),
                "{context}"
            );
            assert!((1..=65_535).contains(&value["port"].as_u64().unwrap()), "{context}");
            let path = value.get("path").map_or("/", |path| path.as_str().unwrap());
            assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "{context}");
        }
        assert_eq!(ways, 1, "{context}");
    }
}

/// The pods of the README without their sidecars get the very containers that stand there.
#[test]
fn the_manifests_of_the_readme_are_the_template() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    for (kind, shape, list) in
        [("native", Shape::Native, "initContainers"), ("plain", Shape::Plain, "containers")]
    {
        let (_, rest) =
            page.split_once(&format!("<!-- sidecar: {kind} -->\n```yaml\n")).expect("the manifest");
        let (manifest, _) = rest.split_once("```").unwrap();
        let expected = documents(manifest).unwrap().remove(0).value;
        let bare = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "containers": [{ "name": "web", "image": "registry.example.com/web:1" }] } });
        let Decision::Injected(Injected { operations, .. }) = decide(&bare, &namespace(), &settings(shape))
        else {
            panic!("{kind}: not injected");
        };
        let mut pod = bare;
        apply(&mut pod, &operations).unwrap();
        let sidecar = pod["spec"][list][0].as_object_mut().unwrap();
        // The injector's own: the API token stays out of the sidecar.
        let mounts = sidecar.remove("volumeMounts").unwrap();
        assert_eq!(mounts[0]["name"], "culvert-no-token", "{kind}");
        assert_eq!(
            pod["spec"].as_object_mut().unwrap().remove("volumes").unwrap()[0]["name"],
            "culvert-no-token"
        );
        assert_eq!(pod["spec"], expected["spec"], "{kind}");
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(
            annotations["culvert.dev/redirect"], expected["metadata"]["annotations"]["culvert.dev/redirect"],
            "{kind}"
        );
    }
}

pub(super) fn program(args: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["culvert-install", "inject"].iter().chain(args).map(OsString::from);
    let exit = run_program(args, Streams { out: &mut out, err: &mut err, colour: Colour::Plain });
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn the_program_prints_manifests_with_sidecars() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("web.yaml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pod = "# ours\nkind: Pod\napiVersion: v1\nmetadata: # of the pod\n  name: web\nspec:\n  containers:\n    - name: web # one\n      image: w\n---\nkind: Service\napiVersion: v1 # untouched\n";
    let (exit, out, err) = program(&["--file", &file(pod), "--image", "i:1"]);
    assert_eq!((exit, err.as_str()), (Exit::Well, ""));
    insta::assert_snapshot!("file", out);

    let (exit, out, err) = program(&["--why", &file(pod)]);
    assert_eq!((exit, err.as_str()), (Exit::Well, ""));
    insta::assert_snapshot!("why", out);

    // The same with the manifest of --file, in either order; and each of two manifests is one too many.
    let path = file(pod);
    for also in [["--file", &path, "--why"], ["--why", "--file", &path]] {
        assert_eq!(program(&also), (Exit::Well, out.clone(), String::new()));
    }
    for wrong in [&["--why"][..], &["--why", &path, "--file", &path], &["--file", &path], &[]] {
        let (exit, out, err) = program(wrong);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{wrong:?}");
        assert!(!err.is_empty(), "{wrong:?}");
    }

    // The webhook is the third way: alone, by a whole name, and in a pod.
    for (wrong, named) in [
        (&["--service", "a.b", "--image", "i", "--file", &path][..], "cannot be used with"),
        (&["--service", "a.b", "--image", "i", "--namespace-label", "a=b"], "cannot be used with"),
        (&["--service", "a", "--image", "i"], "NAME.NAMESPACE"),
        (&["--service", "a.b"], "--image"),
        (&["--listen", ":1", "--image", "i", "--file", &path], "--service"),
        (&["--service", "a.b", "--image", "i", "--certificate-life", "0d"], "3650d"),
        (&["--service", "a.b", "--image", "i", "--conflist", "/does/not/exist"], "/does/not/exist"),
        (&["--image", "i"], "--service <NAME.NAMESPACE>"),
    ] {
        let (exit, out, err) = program(wrong);
        assert!(exit != Exit::Well && out.is_empty(), "{wrong:?}");
        assert!(err.contains(named), "{wrong:?}: {err}");
    }

    let unlabelled = ["--file", &file(pod), "--image", "i:1", "--namespace-label", "team=shop"];
    let (exit, out, err) = program(&unlabelled);
    assert_eq!((exit, out.as_str()), (Exit::Well, pod));
    assert!(err.contains("skipped: Pod web: neither the pod nor its namespace"), "{err}");

    let range = "openshift.io/sa.scc.uid-range=1000980000/10000";
    let (_, out, _) = program(&["--file", &file(pod), "--image", "i:1", "--namespace-annotation", range]);
    assert!(
        out.contains("runAsUser: 1000980001") && out.contains("culvert.dev/proxy-uid: \"1000980001\""),
        "{out}"
    );

    let json = r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"web"}]}}"#;
    let (exit, out, _) = program(&["--file", &file(json), "--image", "i:1", "--sidecar", "plain"]);
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, &out["spec"]["containers"][0]["name"]), (Exit::Well, &json!("culvert-sidecar")));
}

#[test]
fn what_the_program_cannot_do_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let wrong = file("wrong.yaml", "a: [1\n");
    let twice = file("twice.yaml", "kind: Pod\nkind: Job\n");
    for (args, exit, named) in [
        (vec![], Exit::Usage, "--file"),
        (vec!["--file", "x"], Exit::Usage, "--image"),
        (vec!["--file", "x", "--why", "y", "--image", "i"], Exit::Usage, "inject needs one manifest"),
        (vec!["--why", "x", "--namespace-label", "x"], Exit::Usage, "KEY=VALUE"),
        (vec!["--why", "/does/not/exist"], Exit::Attention, "cannot read /does/not/exist"),
        (vec!["--why", &wrong], Exit::Attention, "no YAML"),
        (vec!["--why", &twice], Exit::Attention, "line 2: \"kind\" stands twice"),
    ] {
        let (found, out, err) = program(&args);
        assert_eq!((found, out.as_str()), (exit, ""), "{args:?}: {err}");
        assert!(err.contains(named), "{args:?}: {err}");
    }
}

#[test]
fn items_of_a_list_keep_their_comments() {
    let pod = |name: &str| {
        format!(
            "  # the {name}\n  - apiVersion: v1\n    kind: Pod\n    metadata:\n      name: {name} # its name\n    spec:\n      containers: # one\n        - name: {name}\n          image: i\n"
        )
    };
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{}{}", pod("web"), pod("api"));
    let (_, Answer { out, err, exit }) = outcome(&text, Shape::Native);
    assert_eq!((err.as_str(), exit), ("", Exit::Well));
    let mut rest = out.lines();
    for line in text.lines() {
        assert!(rest.any(|found| found == line), "{line:?} is lost or moved: {out}");
    }
    is_well_injected(&text, &out, Shape::Native);
}

#[test]
fn items_of_a_list_have_its_kind_and_other_kinds_are_noted() {
    let template = "spec: {template: {spec: {containers: [{name: web}]}}}";
    for (text, said) in [
        (
            "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: web}, spec: {containers: [{name: web}]}}]\n".to_owned(),
            "Pod web: injected",
        ),
        (
            format!("apiVersion: apps/v1\nkind: DeploymentList\nitems: [{{metadata: {{name: web}}, {template}}}]\n"),
            "Deployment web: injected",
        ),
        (
            format!("apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {{name: web}}\n{template}\n"),
            "note: Rollout web has a pod template, but its kind is not known\n",
        ),
        (
            format!("apiVersion: v1\nkind: List\nitems: [{{kind: CloneSet, apiVersion: apps.kruise.io/v1, {template}}}]\n"),
            "note: CloneSet without a name has a pod template",
        ),
    ] {
        let (found, answer) = outcome(&text, Shape::Native);
        assert!(found.starts_with(said), "{text}: {found}");
        assert_eq!(answer.err.is_empty(), answer.out != text, "{}", answer.err);
        assert!(answer.err.is_empty() || answer.err.contains(said), "{}", answer.err);
    }
}

#[test]
fn notes_and_excluded_namespaces_are_told_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec:\n  enableServiceLinks: true\n  initContainers: [{name: early}]\n  containers: [{name: web}]\n";
    fs::write(&file, text).unwrap();
    let given = ["--file", file.to_str().unwrap(), "--image", "i:1", "--sidecar", "plain"];
    let (exit, out, err) = program(&given);
    assert_eq!(exit, Exit::Well);
    assert!(out.contains("culvert-sidecar"), "{out}");
    for note in ["init containers run before a plain sidecar", "enableServiceLinks becomes false"] {
        assert!(err.contains(&format!("note: Pod shop/web: {note}")), "{err}");
    }
    let excluded = [&given[..], &["--exclude-namespace", "ci", "--exclude-namespace", "shop"]].concat();
    let (exit, out, err) = program(&excluded);
    assert_eq!((exit, out.as_str()), (Exit::Well, text));
    assert_eq!(err, "culvert-install: skipped: Pod shop/web: namespace shop is excluded\n");
}

/// The nodes of a cluster may have defaults of their own, and lock some.
#[test]
fn the_sidecar_fits_the_defaults_of_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let entry = r#"{"type":"culvert-cni","redirect":{"proxyUid":1337,"redirectDns":"10.0.0.1","statusPort":15099},"locked":["proxyUid","inboundPort"]}"#;
    let conflist = file("10-x.conflist", &format!(r#"{{"name":"n","plugins":[{entry}]}}"#));
    let pod = |uid: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n    - name: web\n      securityContext: {{runAsUser: {uid}}}\n"
        )
    };
    let web = file("web.yaml", &pod(5678));
    let (exit, out, err) = program(&["--file", &web, "--image", "i", "--conflist", &conflist]);
    assert_eq!((exit, err.as_str()), (Exit::Well, ""));
    let pod_of = pods(&out).remove(0);
    let annotations = &pod_of["metadata"]["annotations"];
    for (name, value) in [
        ("proxy-uid", "1337"),
        ("redirect-dns", "10.0.0.1"),
        ("dns-port", "15053"),
        ("status-port", "15099"),
        ("outbound-port", "15001"),
    ] {
        assert_eq!(annotations[format!("culvert.dev/{name}")], value, "{out}");
    }
    // Locked, and without a value: the plugin would refuse each value of the pod's.
    assert_eq!(annotations.get("culvert.dev/inbound-port"), None);
    let sidecar = &pod_of["spec"]["initContainers"][0];
    assert_eq!(sidecar["securityContext"]["runAsUser"], 1337);
    assert_eq!(sidecar["args"].as_array().unwrap()[2..], ["--status-address=[::]:15099", "--dns-port=15053"]);

    // The next free uid would not be the node's.
    let same = file("same.yaml", &pod(1337));
    let (exit, _, err) = program(&["--file", &same, "--image", "i", "--conflist", &conflist]);
    assert_eq!(exit, Exit::Attention);
    assert!(err.contains("proxy-uid is locked on this node"), "{err}");
    let (exit, _, err) = program(&["--why", &same, "--conflist", &web]);
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("no conflist with a culvert-cni entry"), "{err}");
}

/// The bars are a second for 1,000 pods and a millisecond for ten containers, in a release build on a free machine; a
/// build for tests beside others gets twenty times as long.
#[test]
fn a_thousand_pods_take_no_time_to_speak_of() {
    let container = |number: usize| {
        format!(
            "    - name: c{number}\n      image: i\n      ports: [{{containerPort: {}}}]\n      readinessProbe:\n        httpGet: {{port: {}}}\n",
            8000 + number,
            8000 + number
        )
    };
    let head = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n";
    let text = format!("{head}{}---\n", container(0)).repeat(1000);
    let start = Instant::now();
    let answer = of_text(&text, &namespace(), &settings(Shape::Native), false).unwrap();
    let took = start.elapsed();
    assert_eq!(answer.out.matches("name: culvert-sidecar").count(), 1000);
    println!("1,000 pods: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");

    let item = format!("- {}", format!("{head}{}", container(0)).trim_end().replace('\n', "\n  "));
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}", format!("{item}\n").repeat(1000));
    let start = Instant::now();
    let answer = of_text(&list, &namespace(), &settings(Shape::Native), false).unwrap();
    let took = start.elapsed();
    assert_eq!(answer.out.matches("name: culvert-sidecar").count(), 1000);
    println!("1,000 pods of a list: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");

    let ten: String = (0..10).map(container).collect();
    let pod = pods(&format!("{head}{ten}")).remove(0);
    let start = Instant::now();
    for _ in 0..100 {
        assert!(matches!(decide(&pod, &namespace(), &settings(Shape::Native)), Decision::Injected(_)));
    }
    let took = start.elapsed() / 100;
    println!("ten containers: {took:?}");
    assert!(took < Duration::from_millis(20), "{took:?}");
}
