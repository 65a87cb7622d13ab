//! The built-in tinytask.
