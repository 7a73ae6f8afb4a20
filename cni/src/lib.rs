//! culvert-cni.
