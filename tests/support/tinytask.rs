//! The built-in tinytask as a process of its own, on a free port.

use std::io::{BufRead as _, BufReader};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use client::Client;

pub(crate) mod client;

/// A server on a free port; it ends with this.
pub(crate) struct Tinytask {
    server: Child,
    client: Client,
}

impl Tinytask {
    /// Serves a database in this folder.
    pub(crate) fn serve(folder: &Path) -> Self {
        Self::serve_at(folder, "127.0.0.1:0")
    }

    /// As [`Tinytask::serve`], on this address.
    pub(crate) fn serve_at(folder: &Path, address: &str) -> Self {
        let mut server = Command::new(env!("CARGO_BIN_EXE_calypso-watch"))
            .args(["tinytask", "serve", "--listen", address, "--db"])
            .arg(folder.join("tinytask.db"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("our own binary starts");
        let mut line = String::new();
        let out = server.stdout.as_mut().expect("it is piped");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.strip_suffix("/mcp"))
            .unwrap_or_else(|| panic!("where does it listen? {line:?}"))
            .to_owned();
        Self {
            server,
            client: Client { address },
        }
    }

    /// What recipes name.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.client.address)
    }
}

impl Deref for Tinytask {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Tinytask {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
