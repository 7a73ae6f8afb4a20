//! culvert-tests.
