// SPDX-License-Identifier: Apache-2.0
use super::*;
use std::fs::File;

const SMALL: Bounds = Bounds { files: 3, bytes: 100, documents: 4, memory: 1 << 20 };

/// The errors of a folder with these files.
fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let loaded = load_within(SMALL, &Context::default(), &[folder.path().into()]);
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
    let loaded = load_within(more_bytes, &Context::default(), &[folder.path().into()]);
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
        load_within(Bounds { memory, ..BOUNDS }, &Context::default(), &[folder.path().into()])
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
    let loaded = load(&Context::default(), &[file]);
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
    let loaded = load(&Context::default(), &[folder.path().into(), missing, "/dev/null".into()]);
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
