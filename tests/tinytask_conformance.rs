//! Is the built-in tinytask alike the real one, and does it keep what it has said?
//!
//! `TINYTASK_UNDER_TEST` points the recorded conversations at another server: a URL such as `http://127.0.0.1:3000/mcp`, or a
//! command that speaks over standard input and output. It must begin with an empty database. The other tests are about the
//! built-in alone and are left out then.
#![expect(
    clippy::disallowed_methods,
    reason = "tests read the environment and write plain files"
)]

#[path = "tinytask/answers.rs"]
mod answers;
#[path = "tinytask/client.rs"]
mod client;
#[path = "tinytask/conversations.rs"]
mod conversations;
#[path = "tinytask/crowds.rs"]
mod crowds;
#[path = "tinytask/files.rs"]
mod files;
#[path = "tinytask/hint.rs"]
mod hint;
#[path = "tinytask/lifecycle.rs"]
mod lifecycle;
#[path = "tinytask/model.rs"]
mod model;
#[path = "tinytask/server.rs"]
mod server;
