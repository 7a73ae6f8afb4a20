//! culvert-install.
fn main() {}
