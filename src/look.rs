//! The one look.
