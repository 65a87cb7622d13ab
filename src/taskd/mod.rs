//! The built-in tinytask: an MCP server over one SQLite file, alike tinytask v2 to its clients and on disk.
//!
//! | file | owns |
//! |---|---|
//! | [`http`] | listening on loopback: MCP, health, who may ask |
//! | [`mcp`] | the MCP side: rmcp stays inside, with `http` |
//! | [`rest`] | the plain HTTP calls under `/api/v1` |
//! | [`tools`] | what each tool answers, in which text |
//! | [`arguments`] | which arguments a tool takes, and how wrong ones are told |
//! | [`text`] | how texts are written: escaped once, as they are made |
//! | [`resources`] | what can be read by URI |
//! | [`store`] | the SQL, and all rules about tasks |
//! | [`schema`] | the file: its tables, what may be opened |
//!
//! Stands alone: it knows nothing of base paths, runs or the tinytask client, so that two readings of one protocol check
//! each other.

pub mod http;
pub mod mcp;
pub mod rest;
pub mod store;
pub mod tools;

mod arguments;
mod resources;
mod schema;
mod text;
