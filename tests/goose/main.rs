//! Does the starter team work on the real goose? The model behind it is scripted; goose, its tools and tinytask are real.

#![expect(
    clippy::disallowed_methods,
    reason = "tests make files and read their own environment"
)]

#[path = "../support/model/mod.rs"]
mod model;
#[path = "../support/team.rs"]
mod team;
#[path = "../support/tinytask.rs"]
mod tinytask;

mod agents;
mod lies;
mod path;
mod rules;
mod tools;
mod watched;
