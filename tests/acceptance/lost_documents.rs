//! Documents that are gone, row by row as DOCUMENTS.md lists them: at a start, in `validate`, and while the sidecar runs.
//! What is lost opens nothing; what is decided is in force at once, and what it opens is told.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::until::uninterrupted;
use culvert_tests::{Authority, Lab, Sidecar, eventually};
use serde_json::Value;

use crate::documents::{SOON, TRANSPARENT};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::talks;

/// Labs that share the rows: each waits most of its time for the poll of a second.
const AT_ONCE: usize = 4;

const MESH: &str = "type: Mesh
name: default
networking: {outbound: {passthrough: false}}
mtls:
  enabledBackend: ca
  backends: [{name: ca, type: provided, mode: STRICT}]
";
const PERMISSION: &str = "{type: MeshTrafficPermission, name: web, spec: {from: [{targetRef: {kind: MeshService, name: web}, default: {action: Allow}}]}}\n";
const NO_MESH: &str = "--mesh default: no document is a Mesh of this name; ";
const NO_DOCUMENT: &str = "found no document in ";
const NO_ITEMS: &str = "{apiVersion: v1, kind: List, items: []}\n";

fn dataplane(name: &str, address: &str) -> String {
    format!(
        "{{type: Dataplane, name: {name}, networking: {{address: {address}, {TRANSPARENT}, inbound: [{{port: 8080, tags: {{kuma.io/service: {name}}}}}]}}}}\n"
    )
}

/// A mounted ConfigMap: the files link into `..data`, itself a link to the folder of one version.
struct Volume {
    folder: PathBuf,
}

impl Volume {
    fn new(lab: &Lab, number: usize) -> Result<Self> {
        let volume = Self { folder: lab.folder().join(format!("mesh-{number}")) };
        fs::create_dir(&volume.folder)?;
        volume.publish(&["mesh.yaml", "permission.yaml", "here.yaml", "web.yaml", "api.yaml"])?;
        Ok(volume)
    }

    fn text(name: &str) -> String {
        match name {
            "mesh.yaml" => MESH.into(),
            "permission.yaml" => PERMISSION.into(),
            "here.yaml" => dataplane("here", "10.77.0.2"),
            "web.yaml" => dataplane("web", "10.77.0.7"),
            _ => dataplane("api", "10.77.0.8"),
        }
    }

    /// Puts a version with these files in place, in the kubelet's order.
    fn publish(&self, names: &[&str]) -> Result<()> {
        let version = format!("..{}", fs::read_dir(&self.folder)?.count());
        let data = self.folder.join(&version);
        fs::create_dir(&data)?;
        for name in names {
            fs::write(data.join(name), Self::text(name))?;
        }
        symlink(&version, self.at("..data_tmp"))?;
        fs::rename(self.at("..data_tmp"), self.at("..data"))?;
        for name in names.iter().filter(|name| self.at(name).symlink_metadata().is_err()) {
            symlink(Path::new("..data").join(name), self.at(name))?;
        }
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let name = name.to_str().context("a name in UTF-8")?;
            if !name.starts_with("..") && !names.contains(&name) {
                fs::remove_file(self.at(name))?;
            }
        }
        Ok(())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        Ok(fs::write(self.at(name), text)?)
    }

    /// Changes the text of the Mesh.
    fn edit(&self, from: &str, to: &str) -> Result<()> {
        ensure!(MESH.contains(from), "{from}");
        self.write("mesh.yaml", MESH.replace(from, to))
    }

    fn forbid(&self, name: &str) -> Result<()> {
        Ok(fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o000))?)
    }
}

/// The consequence of an absence.
#[derive(Clone, Copy)]
enum Fate {
    /// An error with these words; a sidecar that runs keeps its plan.
    Lost(&'static str),
    /// In force at once.
    Decided,
    /// In force at once, and told with these words.
    Opens(&'static str),
}

struct Row {
    /// First cell of the page's row.
    what: &'static str,
    change: fn(&Volume) -> Result<()>,
    fate: Fate,
}

const fn row(what: &'static str, fate: Fate, change: fn(&Volume) -> Result<()>) -> Row {
    Row { what, change, fate }
}

use Fate::{Decided, Lost, Opens};

const ROWS: &[Row] = &[
    row("the Mesh's file is removed or renamed", Lost(NO_MESH), |v| {
        Ok(fs::rename(v.at("mesh.yaml"), v.at("mesh.yaml.off"))?)
    }),
    row("the Mesh has another name", Lost("there are: defaults"), |v| {
        v.edit("name: default", "name: defaults")
    }),
    row("a ConfigMap without the Mesh", Lost(NO_MESH), |v| {
        v.publish(&["permission.yaml", "here.yaml", "web.yaml", "api.yaml"])
    }),
    row("a list without items in place of the Mesh", Lost(NO_MESH), |v| v.write("mesh.yaml", NO_ITEMS)),
    row("a file of 0 bytes", Lost(NO_DOCUMENT), |v| v.write("permission.yaml", "")),
    row("a file of 0 bytes", Lost(NO_DOCUMENT), |v| v.write("mesh.yaml", "")),
    row("a file of comments only", Lost(NO_DOCUMENT), |v| v.write("permission.yaml", "# later\n---\n")),
    row("a file of NUL bytes", Lost("mesh.yaml: document 1"), |v| v.write("mesh.yaml", [0; 64])),
    row("a file that is cut within a value", Lost("mesh.yaml: document 1"), |v| {
        v.write("mesh.yaml", &MESH[..MESH.len() - 3])
    }),
    row("a folder without files", Lost("found a folder without files"), |v| v.publish(&[])),
    row("a folder that is gone", Lost("No such file or directory"), |v| {
        Ok(fs::rename(&v.folder, v.folder.with_extension("gone"))?)
    }),
    row("a folder or file that cannot be read", Lost("Permission denied"), |v| v.forbid("")),
    row("a folder or file that cannot be read", Lost("permission.yaml: Permission denied"), |v| {
        v.forbid("permission.yaml")
    }),
    row("a link that leads nowhere", Lost("permission.yaml: No such file or directory"), |v| {
        Ok(fs::remove_file(v.at("..data/permission.yaml"))?)
    }),
    row("a link that leads nowhere", Lost("mesh.yaml: No such file or directory"), |v| {
        Ok(fs::remove_file(v.at("..data"))?)
    }),
    row("a folder in place of a file", Lost("permission.yaml: found a folder inside of a folder"), |v| {
        fs::remove_file(v.at("permission.yaml"))?;
        Ok(fs::create_dir(v.at("permission.yaml"))?)
    }),
    row("the pod's own Dataplane is gone", Lost("--dataplane here: no document is a Dataplane"), |v| {
        Ok(fs::remove_file(v.at("here.yaml"))?)
    }),
    row("another pod's Dataplane is gone", Decided, |v| Ok(fs::remove_file(v.at("web.yaml"))?)),
    row("the last other pod's Dataplane is gone", Opens("no Dataplane of another pod is left"), |v| {
        v.publish(&["mesh.yaml", "permission.yaml", "here.yaml"])
    }),
    row("a policy is gone", Opens("no MeshTrafficPermission is in effect"), |v| {
        v.publish(&["mesh.yaml", "here.yaml", "web.yaml", "api.yaml"])
    }),
    row("a list without items in place of policies", Opens("no MeshTrafficPermission is in effect"), |v| {
        v.write("permission.yaml", NO_ITEMS)
    }),
    row("the Mesh's `mtls` is gone", Opens("mTLS is off"), |v| {
        v.edit("enabledBackend: ca\n  backends: [{name: ca, type: provided, mode: STRICT}]", "backends: []")
    }),
    row("STRICT is gone", Opens("PERMISSIVE instead of STRICT"), |v| v.edit("STRICT", "PERMISSIVE")),
    row("`passthrough: false` is gone", Opens("passthrough is on"), |v| {
        v.edit("networking: {outbound: {passthrough: false}}\n", "")
    }),
    row("a file that is cut and still right", Opens("mTLS is off"), |v| {
        v.write("mesh.yaml", MESH.split_once("mtls:").context("a cut")?.0)
    }),
];

/// A pod in a closed and STRICT mesh.
struct World {
    lab: Lab,
    identity: String,
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        let identity = lab.folder().join("identity");
        Authority::new("mesh default")?.service("here")?.write(&identity)?;
        Ok(Self { lab, identity: identity.display().to_string() })
    }

    fn options(&self, volume: &Volume) -> [String; 6] {
        let folder = volume.folder.display().to_string();
        ["--resources", &folder, "--dataplane", "here", "--identity", &self.identity].map(str::to_owned)
    }

    fn start(&self, volume: &Volume) -> Result<Sidecar<'_>> {
        self.lab.pod.sidecar().options(self.options(volume)).start()
    }

    /// Runs a sidecar that ends by itself: its exit code and its standard error.
    fn ends(&self, options: &[String]) -> Result<(Option<i32>, String)> {
        let mut sidecar = self.lab.pod.sidecar().options(options).start_unready()?;
        Ok((sidecar.wait(SOON)?.code(), sidecar.stderr().text()))
    }

    fn validate(&self, volume: &Volume) -> Result<(Option<i32>, String)> {
        let folder = volume.folder.display().to_string();
        self.ends(&["validate", "--dataplane", "here", &folder].map(str::to_owned))
    }

    /// Fails unless the sidecar lets no call out and no stranger in.
    fn assert_closed(&self, name: &str) -> Result<()> {
        let outside = self.lab.peer.serve("192.0.2.10:80", echo())?;
        let app = self.lab.pod.as_uid(APP).serve("10.77.0.2:8080", echo())?;
        assert_taken_and_reset(self.lab.pod.as_uid(APP).connect("192.0.2.10:80"), name);
        // A reset may overtake what is written.
        let mut stranger = self.lab.peer.connect("10.77.0.2:8080")?;
        let _ = stranger.write_all(b"x");
        assert!(
            matches!(uninterrupted(|| stranger.read(&mut [0])), Ok(0) | Err(_)),
            "{name}: a stranger was let in"
        );
        assert_eq!((outside.accepted(), app.accepted()), (0, 0), "{name}");
        Ok(())
    }

    fn walk(&self, number: usize, row: &Row) -> Result<()> {
        let Row { what, change, fate } = row;
        let volume = Volume::new(&self.lab, number)?;
        let sidecar = self.start(&volume)?;
        self.assert_closed(&format!("{what}, before"))?;
        change(&volume)?;
        let page = |key: &str| -> Result<String> {
            let page: Value = serde_json::from_str(&sidecar.admin("/overview")?.body)?;
            Ok(page["documents"][key].to_string())
        };
        let logged = |level: &str, words: &str| {
            let line = |line: &str| (line.contains(level) && line.contains(words)).then_some(());
            sidecar.stderr().wait_for(SOON, line).is_some()
        };
        match fate {
            Lost(words) => {
                eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n > 0), SOON);
                self.assert_closed(what)?;
                assert_eq!(
                    (sidecar.stat("config_reloaded")?, sidecar.stat("config_stale")?),
                    (0, 1),
                    "{what}"
                );
                assert!(page("errors")?.replace("\\\"", "\"").contains(words), "{what}: {}", page("errors")?);
                assert!(logged("ERROR", words), "{what}");
            }
            Decided | Opens(_) => {
                eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n > 0), SOON);
                let opened = u64::from(matches!(fate, Opens(_)));
                assert_eq!(sidecar.stat("config_reload_opened")?, opened, "{what}");
                assert_eq!(sidecar.stat("config_stale")?, 0, "{what}");
            }
        }
        if let Opens(words) = fate {
            assert!(page("warnings")?.contains(words), "{what}: {}", page("warnings")?);
            assert!(logged("WARN", words), "{what}");
        }
        assert_eq!(sidecar.status("/ready")?.status, 200, "{what}");
        drop(sidecar);
        self.walk_at_a_start(&volume, row)
    }

    fn walk_at_a_start(&self, volume: &Volume, Row { what, fate, .. }: &Row) -> Result<()> {
        // `validate` runs as the sidecar's uid too.
        for said in [self.validate(volume)?, self.ends_or_starts(volume, fate)?] {
            match (fate, said) {
                (Lost(words), (code, said)) => {
                    assert_eq!(code, Some(64), "{what}: {said}");
                    assert!(said.contains(words), "{what}: {said}");
                }
                (_, (code, said)) => assert_eq!(code, Some(0), "{what}: {said}"),
            }
        }
        Ok(())
    }

    fn ends_or_starts(&self, volume: &Volume, fate: &Fate) -> Result<(Option<i32>, String)> {
        if matches!(fate, Lost(_)) {
            return self.ends(&self.options(volume));
        }
        self.start(volume)?;
        Ok((Some(0), String::new()))
    }
}

#[test]
fn what_is_lost_opens_nothing_and_what_is_decided_is_in_force_and_told() -> Result<()> {
    let walk = |share: &[(usize, &Row)]| -> Result<()> {
        let world = World::new()?;
        share.iter().try_for_each(|(number, row)| world.walk(*number, row).context(row.what))
    };
    let rows: Vec<_> = ROWS.iter().enumerate().collect();
    thread::scope(|scope| {
        let shares: Vec<_> =
            rows.chunks(rows.len().div_ceil(AT_ONCE)).map(|share| scope.spawn(move || walk(share))).collect();
        shares.into_iter().try_for_each(|share| share.join().expect("its panic was printed"))
    })
}

#[test]
fn the_page_has_each_row_of_the_test() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidecar/DOCUMENTS.md");
    let page = fs::read_to_string(page)?;
    let section =
        page.split("\n## ").find(|section| section.starts_with("What is lost")).context("no section")?;
    let mut written: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    written.retain(|line| !line.contains("identity") && !line.contains("`--mesh`"));
    let mut walked: Vec<_> = ROWS.iter().map(|row| row.what).collect();
    walked.dedup();
    assert_eq!(written.len(), walked.len(), "{written:#?}");
    for (line, row) in written.iter().zip(walked) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells[0], row);
        let fate = ROWS.iter().find(|one| one.what == row).map(|row| row.fate).context("a row")?;
        let expected = match fate {
            Lost(_) => ["error", "the old plan stays"],
            Decided => ["starts", "in force"],
            Opens(_) => ["starts", "in force, with a WARN"],
        };
        assert_eq!(cells[1..], expected, "{row}");
    }
    Ok(())
}

#[test]
fn a_misspelt_mesh_and_an_identity_without_documents_are_errors_of_the_start() -> Result<()> {
    let world = World::new()?;
    let volume = Volume::new(&world.lab, 0)?;
    let misspelt = [&world.options(&volume)[..], &["--mesh".into(), "defualt".into()]].concat();
    let misspelt = [misspelt, vec!["--trust-domain".into(), "default".into()]].concat();
    let validated =
        ["validate", "--mesh", "defualt", &volume.folder.display().to_string()].map(str::to_owned);
    for (options, words) in [
        (&misspelt[..], "--mesh defualt: no document is a Mesh of this name; there are: default"),
        (&validated, "--mesh defualt: no document is a Mesh of this name; there are: default"),
        (&["--identity".into(), world.identity.clone()], "needs mesh documents"),
    ] {
        let (code, said) = world.ends(options)?;
        assert_eq!(code, Some(64), "{options:?}: {said}");
        assert!(said.contains(words), "{options:?}: {said}");
    }
    Ok(())
}

#[test]
fn what_was_lost_is_in_force_again_once_it_is_back() -> Result<()> {
    let world = World::new()?;
    let volume = Volume::new(&world.lab, 0)?;
    let sidecar = world.start(&volume)?;
    let stat = |name: &str| sidecar.stat(name);
    // The same file again is no change.
    fs::rename(volume.at("mesh.yaml"), volume.at("kept"))?;
    eventually!(stat("config_stale").is_ok_and(|n| n == 1), SOON);
    fs::rename(volume.at("kept"), volume.at("mesh.yaml"))?;
    eventually!(stat("config_stale").is_ok_and(|n| n == 0), SOON);
    assert_eq!((stat("config_reload_failed")?, stat("config_reloaded")?), (1, 0));
    // The identity is no document: the one in use stays.
    fs::remove_dir_all(&world.identity)?;
    eventually!(
        sidecar.metrics().is_ok_and(|text| text.contains("culvert_identity_reload_failed_total 1")),
        SOON
    );
    assert_eq!(sidecar.status("/ready")?.status, 200);
    // Another Mesh in its place is a change, and opens what it says.
    volume.write("mesh.yaml", "")?;
    eventually!(stat("config_reload_failed").is_ok_and(|n| n == 2), SOON);
    volume.write("mesh.yaml", "type: Mesh\nname: default\n")?;
    eventually!(stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    assert_eq!((stat("config_stale")?, stat("config_reload_opened")?), (0, 1));
    let _server = world.lab.peer.serve("192.0.2.10:80", echo())?;
    talks(world.lab.pod.as_uid(APP).connect("192.0.2.10:80")?)
}
