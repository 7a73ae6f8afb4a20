//! culvert-sidecar.
fn main() {}
