//! culvert-cni.
fn main() {}
