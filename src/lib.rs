//! calypso-watch: look, decide, act, record.
//!
//! The map, top to bottom; an arrow may skip a layer, never rise (`tests/layers.rs` reads the `use` lines):
//!
//! | layer | what it does |
//! |---|---|
//! | [`cli`], [`commands`], [`report`] | what can be typed, what it means, how an error is told |
//! | [`look`], [`daemon`], [`shim`], [`taskd`] | the shells: the only places where things happen |
//! | [`selftest`] | a shell too: tries mount, latencies and `kill -9` on the user's own disk |
//! | [`edge`] | one file per outside thing: files, processes, tinytask, goose |
//! | [`view`] | snapshot in, text out; pure |
//! | [`core`] | the decision: no I/O, no clock |
//!
//! Start reading at [`core`], then [`daemon`].

pub mod cli;
pub mod commands;
pub mod report;

pub mod daemon;
pub mod look;
pub mod selftest;
pub mod shim;
pub mod taskd;

pub mod edge;

pub mod view;

pub mod core;
