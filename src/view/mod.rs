//! Snapshot in, text out.
