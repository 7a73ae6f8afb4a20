//! The programs under test, built by cargo once for each run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Names a folder with ready binaries, to build nothing.
pub const FOLDER_VARIABLE: &str = "CULVERT_BIN_DIR";

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The plugin.
    pub cni: PathBuf,
    /// The proxy.
    pub sidecar: PathBuf,
    /// The operator's command line.
    pub install: PathBuf,
}

const NAMES: [&str; 3] = ["culvert-cni", "culvert-sidecar", "culvert-install"];

impl Binaries {
    /// The release binaries, as users run them. The first call of a process builds them.
    pub fn built() -> Result<&'static Self> {
        static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
        BUILT
            .get_or_init(|| {
                let found = match env::var_os(FOLDER_VARIABLE) {
                    Some(folder) => in_folder(Path::new(&folder)),
                    None => build(),
                };
                found.map_err(|e| format!("{e:#}"))
            })
            .as_ref()
            .map_err(|e| anyhow!("{e}"))
    }
}

fn in_folder(folder: &Path) -> Result<Binaries> {
    let folder = folder.canonicalize().with_context(|| format!("{FOLDER_VARIABLE}: {}", folder.display()))?;
    let [cni, sidecar, install] = NAMES.map(|name| folder.join(name));
    for path in [&cni, &sidecar, &install] {
        if !path.is_file() {
            bail!("{FOLDER_VARIABLE}: {} is missing", path.display());
        }
    }
    Ok(Binaries { cni, sidecar, install })
}

/// Asks cargo for the paths too: they depend on the host triple and on CARGO_TARGET_DIR.
fn build() -> Result<Binaries> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--release", "--message-format=json-render-diagnostics"]);
    for name in NAMES {
        command.args(["--package", name]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo build failed: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let artifacts: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let path = |name: &str| {
        artifacts
            .iter()
            .filter(|a| a["reason"] == "compiler-artifact" && a["target"]["name"] == name)
            .find_map(|a| a["executable"].as_str())
            .map(PathBuf::from)
            .ok_or_else(|| anyhow!("cargo build made no {name}"))
    };
    Ok(Binaries { cni: path(NAMES[0])?, sidecar: path(NAMES[1])?, install: path(NAMES[2])? })
}
