//! The programs under test, built by cargo once for each run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Names a folder with ready binaries, to build nothing.
pub const FOLDER_VARIABLE: &str = "CULVERT_BIN_DIR";

/// Paths of the programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Path of the chained plugin.
    pub cni: PathBuf,
    /// Path of the proxy.
    pub sidecar: PathBuf,
    /// The operator's command line, which the demo does not call.
    #[cfg(feature = "acceptance")]
    pub install: PathBuf,
}

impl Binaries {
    /// The programs: of tests and benchmarks the release build, as users run them, of the demo its own profile. The first call
    /// of a process builds them.
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
    let found = |name: &str| {
        let path = folder.join(name);
        if !path.is_file() {
            bail!("{FOLDER_VARIABLE}: {} is missing", path.display());
        }
        Ok(path)
    };
    Ok(Binaries {
        cni: found("culvert-cni")?,
        sidecar: found("culvert-sidecar")?,
        #[cfg(feature = "acceptance")]
        install: found("culvert-install")?,
    })
}

/// The packages for cargo to build. The demo names its own package and features too: so it selects the packages that
/// `cargo demo` itself was built from, features and all, and what is left to do is to link.
const BUILD: &[&str] = if cfg!(feature = "acceptance") {
    &["--release", "--package", "culvert-cni", "--package", "culvert-sidecar", "--package", "culvert-install"]
} else {
    &[
        "--no-default-features",
        "--package",
        "culvert-tests",
        "--package",
        "culvert-cni",
        "--package",
        "culvert-sidecar",
        "--bin",
        "culvert-cni",
        "--bin",
        "culvert-sidecar",
    ]
};

/// Asks cargo for the paths too: they depend on the host triple and on CARGO_TARGET_DIR.
fn build() -> Result<Binaries> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Cargo describes the running package in these. Build scripts like ring's run again where they differ.
    for (name, _) in env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|p| name.as_encoded_bytes().starts_with(p.as_bytes()));
        if of_package {
            command.env_remove(name);
        }
    }
    command.current_dir(workspace).args(["build", "--message-format=json-render-diagnostics"]).args(BUILD);
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
    Ok(Binaries {
        cni: path("culvert-cni")?,
        sidecar: path("culvert-sidecar")?,
        #[cfg(feature = "acceptance")]
        install: path("culvert-install")?,
    })
}
