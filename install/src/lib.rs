//! culvert-install.
