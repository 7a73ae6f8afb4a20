// SPDX-License-Identifier: Apache-2.0
use super::*;
use std::fs::File;

fn of(paths: &[PathBuf]) -> Sources<'_> {
    Sources { paths, ..Sources::default() }
}

const SMALL: Bounds = Bounds { files: 3, bytes: 100, documents: 4, memory: 1 << 20 };

/// The errors of a folder with these files.
fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let loaded = load_within(SMALL, &Context::default(), &of(&[folder.path().into()]));
    let path = format!("{}", folder.path().display());
    loaded.errors.iter().map(|error| error.to_string().replace(&path, "F")).collect()
}

#[test]
fn what_is_out_of_bounds_is_told_with_the_bounds() {
    const MESH: &str = "---\n{type: Mesh, name: a}\n";
    let other = |name: char| format!("{{type: Mesh, name: {name}}}");
    let (b, c, d) = (other('b'), other('c'), other('d'));
    assert_eq!(errors(&[("a.yaml", MESH), ("b.yaml", &b), ("c.json", &c), ("d.txt", MESH)]), [""; 0]);
    assert_eq!(
        errors(&[("a.yaml", MESH), ("b.yaml", &b), ("c.json", &c), ("d.yml", &d)]),
        [format!(
            "F: found 4 files with {} bytes; allowed: 3 files and 100 bytes in all",
            MESH.len() + 3 * b.len()
        )]
    );
    assert_eq!(
        errors(&[("a.yaml", &"#".repeat(60)), ("b.yaml", &"#".repeat(41))]),
        ["F: found 2 files with 101 bytes; allowed: 3 files and 100 bytes in all"]
    );
    let five = (0..5).map(|n| format!("--- {{type: Mesh, name: {n}a}}\n")).collect::<String>();
    assert!(five.len() > 100);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), five).unwrap();
    let more_bytes = Bounds { bytes: 1000, ..SMALL };
    let loaded = load_within(more_bytes, &Context::default(), &of(&[folder.path().into()]));
    assert_eq!(
        loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("{}: found 5 documents; allowed: 4", folder.path().display())]
    );
}

#[test]
fn memory_counts_whatever_the_text_looks_like_and_what_does_not_fit_is_not_read() {
    let with = |tag: usize| {
        format!(
            "--- {{type: Dataplane, name: a{tag}, networking: {{address: 10.0.0.1, inbound: [{{port: 1, tags: {{kuma.io/service: a{tag}}}}}]}}}}\n"
        )
    };
    let read = |text: &str, memory: usize| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        load_within(Bounds { memory, ..BOUNDS }, &Context::default(), &of(&[folder.path().into()]))
    };
    let each: String = (0..1000).map(with).collect();
    let same = with(0).repeat(1000);
    let (each_memory, same_memory) = (read(&each, BOUNDS.memory).memory, read(&same, BOUNDS.memory).memory);
    assert!(each_memory > 1_000_000 && each_memory - same_memory > 500_000, "{each_memory} {same_memory}");
    for as_list in [false, true] {
        let text = if as_list { format!("items:\n{}", each.replace("--- ", "- ")) } else { each.clone() };
        let loaded = read(&text, each_memory / 10);
        let words = loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let end = format!("take more memory than is allowed: {} bytes", each_memory / 10);
        assert!(matches!(&words[..], [one] if one.ends_with(&end)), "{words:?}");
        assert!((90..=110).contains(&loaded.found.documents.len()), "{}", loaded.found.documents.len());
    }
    // Of thousands of errors a part is kept, in a list too.
    for text in ["---\na: 1\n".repeat(1000), format!("items: [{}]", "a,".repeat(1000))] {
        let loaded = read(&text, BOUNDS.memory);
        assert_eq!((loaded.errors.len(), loaded.more), (MOST_ERRORS, 1000 - MOST_ERRORS), "{text:.20}");
    }
}

#[test]
fn a_file_is_not_read_before_its_size_is_known_to_be_in_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big.yaml");
    // A hole: it takes no place, and to read it would take 16 TiB.
    File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let loaded = load(&Context::default(), &of(&[file]));
    assert!(loaded.errors[0].to_string().ends_with("allowed: 20000 files and 67108864 bytes in all"));
}

#[test]
fn what_cannot_be_read_is_told_by_its_file_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("loop.yaml", at("loop.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("gone.yaml")).unwrap();
    fs::create_dir(at("folder.yaml")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("latin.yaml"), b"# a\nname: \xe4\n").unwrap();
    fs::write(at("wrong.yml"), "type: x").unwrap();
    fs::write(at("README.md"), "# no document").unwrap();
    fs::write(at(".hidden.yaml"), "type: x").unwrap();
    let missing = at("missing");
    let loaded = load(&Context::default(), &of(&[folder.path().into(), missing, "/dev/null".into()]));
    let path = format!("{}/", folder.path().display());
    let errors: Vec<_> = loaded.errors.iter().map(|error| error.to_string().replace(&path, "")).collect();
    let expected = [
        "folder.yaml: found a folder inside of a folder; allowed: a file",
        "gone.yaml: No such file or directory (os error 2)",
        "latin.yaml: line 2: found bytes that are no UTF-8; allowed: text in UTF-8",
        "loop.yaml: Too many levels of symbolic links (os error 40)",
        "wrong.yml: document 1 (x): type: found \"x\"; allowed: Mesh, ",
        "missing: No such file or directory (os error 2)",
        "/dev/null: found neither a file nor a folder; allowed: a file",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_file_without_documents_and_a_folder_without_files_are_errors() {
    for (text, found) in [
        ("", "0 bytes"),
        ("\n", "1 bytes"),
        ("# a: 1\n---\n...\n# b\n", "19 bytes"),
        ("\u{feff}---\nnull\n", "12 bytes"),
        ("%YAML 1.2\n---\n", "14 bytes"),
    ] {
        let expected = format!("F/a.yaml: found no document in {found}; allowed: at least one");
        let errors = errors(&[("a.yaml", text), ("b.yaml", "{type: Mesh, name: b}")]);
        assert!(matches!(&errors[..], [one] if one.starts_with(&expected)), "{text:?}: {errors:?}");
    }
    // A document that says "none" is a statement.
    assert_eq!(errors(&[("a.yaml", "{kind: List, items: []}")]), [""; 0]);
    for files in [&[][..], &[("README.md", "type: Mesh"), (".a.yaml", "type: Mesh")]] {
        assert_eq!(errors(files), [format!("F: {NO_FILE}")]);
    }
}

#[test]
fn a_file_that_can_be_read_by_another_mode_is_another_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, "").unwrap();
    let paths = [folder.path().to_owned()];
    let before = Fingerprint::of(&paths);
    assert_eq!(before, Fingerprint::of(&paths));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // The kernel's clock for files ticks some hundred times a second.
    while Fingerprint::of(&paths) == before {
        assert!(std::time::Instant::now() < until);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The documents of a text for any pod of the mesh `default`.
fn read_text(text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let context = Context { mesh: "default".into(), ..Context::default() };
    loaded.add(&context, text, Path::new("a.yaml"));
    loaded
}

#[test]
fn what_is_not_about_this_pod_passes_and_is_told_once_a_kind_and_field() {
    let probe =
        "serviceProbe: {tcp: {}, interval: 1s, timeout: 500ms, healthyThreshold: 1, unhealthyThreshold: 3}";
    let dataplane = |name: usize| {
        format!(
            "---\n{{type: Dataplane, name: d{name}, networking: {{address: 10.0.0.1, admin: {{port: 9902}}, inbound: [\
             {{port: 1, tags: {{kuma.io/service: a}}, {probe}}}, {{port: 2, tags: {{kuma.io/service: b}}, {probe}}}]}}}}\n"
        )
    };
    let text = format!(
        "{{type: Mesh, name: default, tracing: {{defaultBackend: p, backends: [{{name: p, type: zipkin, conf: {{url: u}}}}]}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, data: {{value: eA==}}, type: system.kuma.io/secret}}
---
apiVersion: v1
kind: List
items:
- {{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {{name: b}}, spec: {{meshServices: {{mode: Exclusive}}, tracing: {{}}}}}}
- {{apiVersion: v1, kind: Secret, metadata: {{name: b}}}}
- {{apiVersion: kuma.io/v1alpha1, kind: ZoneInsight, metadata: {{name: z}}, spec: {{subscriptions: []}}, status: {{a: 1}}}}
{}",
        (0..1000).map(dataplane).collect::<String>()
    );
    let Loaded { found, errors, .. } = read_text(&text);
    assert_eq!((errors, found.lost.len()), (vec![], 0));
    assert_eq!(found.documents.len(), 1002);
    let warnings = found.left_out.warnings();
    let expected = [
        "without effect here: networking.admin of 1000 Dataplane documents (Port of Envoy's admin;",
        "without effect here: meshServices of 1 Mesh document (Services that",
        "without effect here: tracing of 2 Mesh documents (Spans of HTTP requests;",
        "left out: 2 Secret documents (keys and tokens of the control plane; identities come from --identity); the first is a.yaml: document 2",
        "left out: 1 ZoneInsight document (state of a zone",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{expected}: {warning}");
    }
    assert!(warnings[0].ends_with("; the first is a.yaml: document 4"), "{}", warnings[0]);
    assert!(warnings[1].ends_with("; the first is a.yaml: document 3, item 1"), "{}", warnings[1]);
    let count = found.left_out.count();
    assert_eq!((count.documents, count.fields), (3, 1003));
}

#[test]
fn a_kind_that_would_change_what_the_pod_does_stays_an_error_that_names_it() {
    for kind in
        ["Zone", "DataplaneInsight", "AccessRole", "ContainerPatch", "MeshGateway", "MeshTrace", "Workload"]
    {
        for text in [
            format!("{{type: {kind}, name: x, mesh: default, anything: {{at: [all]}}}}"),
            format!(
                "{{apiVersion: kuma.io/v1alpha1, kind: {kind}, mesh: default, metadata: {{name: x}}, spec: {{at: all}}}}"
            ),
            format!("{{items: [{{type: {kind}, name: x}}]}}"),
        ] {
            let Loaded { found, errors, .. } = read_text(&text);
            assert_eq!(
                (errors, found.documents.len(), found.left_out.count().documents),
                (vec![], 0, 1),
                "{text}"
            );
        }
    }
    for (kind, hint) in [
        ("MeshOPA", "would let them in"),
        ("MeshHTTPRoute", "would change what the pod does"),
        ("ConfigMap", "a ConfigMap is mounted"),
        ("Deployment", "MeshTrafficPermission"),
        ("secret", "MeshTrafficPermission"),
        ("", "MeshTrafficPermission"),
    ] {
        for text in [
            format!("{{type: '{kind}', name: x}}"),
            format!("{{apiVersion: v1, kind: '{kind}', metadata: {{name: x}}}}"),
        ] {
            let Loaded { found, errors, .. } = read_text(&text);
            let words = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            let named = words.contains(&format!("found {kind:?}; allowed: Mesh, ")) && words.contains(hint);
            assert!(named && errors.len() == 1, "{text}: {words}");
            assert_eq!((found.lost.len(), found.left_out.count().documents), (1, 0), "{text}");
        }
    }
}

#[test]
fn an_unknown_field_beside_those_without_effect_stays_an_error() {
    for (text, path) in [
        ("{type: Mesh, name: a, metric: {}}", "metric"),
        ("{type: Mesh, name: a, routing: {zoneIngress: true}}", "routing.zoneIngress"),
        (
            "{type: Mesh, name: a, tracing: {backends: [{name: z, type: zipkin, url: x}]}}",
            "tracing.backends[0].url",
        ),
        (
            "{type: Dataplane, name: a, networking: {address: 10.0.0.1, admin: {ports: 1}}}",
            "networking.admin.ports",
        ),
        (
            "{type: Dataplane, name: a, networking: {address: 10.0.0.1, inbound: [{port: 1, serviceProbe: {http: {}}}]}}",
            "networking.inbound[0].serviceProbe.http",
        ),
    ] {
        let words = read_text(text).errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let start = format!(": {path}: found a field that culvert does not have");
        assert!(words.len() == 1 && words[0].contains(&start), "{text}: {words:?}");
    }
}

#[test]
fn comments_of_any_length_say_nothing() {
    let comments = "# a comment\n".repeat(500);
    let text = format!(
        "{comments}type: Mesh\n{comments}name: default\nnetworking:\n{comments}  outbound:\n{comments}    passthrough: false\n"
    );
    let loaded = read_text(&text);
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    assert_eq!(loaded.found.documents.len(), 1);
}
