//! culvert-sidecar.
