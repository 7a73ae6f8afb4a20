// SPDX-License-Identifier: Apache-2.0
//! Command line of `inject`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum, ValueHint};

/// Examples below `inject --help`.
const INJECT_EXAMPLES: &str = "\
Examples:
  culvert-install inject --file web.yaml --image culvert:0.1.0 | kubectl apply -f -
  helm template web ./chart | culvert-install inject --file - --image culvert:0.1.0
  culvert-install inject --why web.yaml
  culvert-install inject --why web.yaml --namespace-label kubernetes.io/metadata.name=shop

Exit codes: 0 each pod has its sidecar or is skipped, with the reason on stderr; 1 a pod is refused,
or the file cannot be read, and --file prints nothing; 64 the command line is wrong.";

/// Options of `inject`.
#[derive(Debug, Args)]
#[command(after_help = INJECT_EXAMPLES, group = ArgGroup::new("what").required(true).multiple(true).args(["file", "why"]))]
pub(crate) struct InjectArgs {
    /// Manifest to print with sidecars; - is stdin. Comments and order stay, but for what stderr names
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Print the decisions about the pods of this manifest, or of that of --file, and nothing else; - is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, num_args = 0..=1)]
    pub why: Option<Option<PathBuf>>,
    /// Image with the sidecar
    #[arg(long, value_name = "IMAGE", required_unless_present = "why")]
    pub image: Option<String>,
    /// Shape of the sidecar where no annotation chooses one: native needs Kubernetes 1.29
    #[arg(long, value_enum, default_value_t = ShapeArg::Native)]
    pub sidecar: ShapeArg,
    /// Label of the pods' namespace; repeat the option for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, default_value = "culvert.dev/inject=enabled")]
    pub namespace_label: Vec<(String, String)>,
    /// Annotation of the pods' namespace, as openshift.io/sa.scc.uid-range=1000980000/10000; repeat for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub namespace_annotation: Vec<(String, String)>,
    /// Conflist of the pods' nodes, whose culvert-cni entry holds the defaults (`redirect`) and the `locked` keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub conflist: Option<PathBuf>,
    /// Namespace whose pods get no sidecar; repeat for several. The cluster's own (kube-system) never get one
    #[arg(long, value_name = "NAME")]
    pub exclude_namespace: Vec<String>,
}

/// Shape of the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeArg {
    /// Init container that keeps running
    Native,
    /// Container beside the application's
    Plain,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is KEY=VALUE".to_owned()),
    }
}
