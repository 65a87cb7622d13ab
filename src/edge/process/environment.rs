//! The environment a process was started with. Values are asked for one by one and by name; nothing here prints one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt as _;

use super::is_alive;
use crate::core::model::ProcessId;

/// Variables and their values; only the names are ever shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// This process's.
    pub fn own() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// What `process` was started with (/proc/PID/environ, proc_pid_environ(5)); `None` when it is gone.
    ///
    /// # Errors
    /// Another user's process may not be looked into.
    pub fn of(process: &ProcessId) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(format!("/proc/{}/environ", process.pid)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Afterwards, so that the number meant this process while it was read.
        Ok(is_alive(process).then(|| Self::parse(&bytes)))
    }

    fn parse(bytes: &[u8]) -> Self {
        let variable = |pair: &[u8]| {
            let at = pair.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (pair[..at].to_vec(), pair[at + 1..].to_vec());
            Some((OsString::from_vec(name), OsString::from_vec(value)))
        };
        Self(
            bytes
                .split(|&byte| byte == 0)
                .filter_map(variable)
                .collect(),
        )
    }

    /// Is it set, to something?
    pub fn has(&self, name: &str) -> bool {
        self.os(name).is_some_and(|value| !value.is_empty())
    }

    /// Its value, where that is UTF-8 and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.os(name)?.to_str().filter(|value| !value.is_empty())
    }

    /// Its value as it is.
    pub fn os(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// The variables whose names begin so, without those that are not UTF-8.
    pub fn beginning(&self, prefix: &str) -> Vec<(String, String)> {
        let text = |value: &OsString| value.to_str().map(str::to_owned);
        self.0
            .iter()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .filter(|(name, _)| name.starts_with(prefix))
            .collect()
    }

    /// With one variable more.
    pub fn insert(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::process;

    #[test]
    fn an_environment_is_read_and_its_values_not_shown() {
        let read = Environment::parse(b"PATH=/bin\0KEY=hunter2\0EMPTY=\0odd\0A=b=c\0");
        assert_eq!(read.get("PATH"), Some("/bin"));
        assert_eq!(read.get("A"), Some("b=c"));
        assert!(read.has("KEY") && !read.has("EMPTY") && !read.has("odd"));
        let shown = format!("{read:?}");
        assert!(
            shown.contains("KEY") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert_eq!(read.beginning("KE").len(), 1);
    }

    #[test]
    fn another_process_with_the_number_has_none() {
        let own = process::own();
        assert!(Environment::of(&own).expect("ours").is_some());
        let stranger = ProcessId {
            start: own.start + 1,
            ..own
        };
        assert!(Environment::of(&stranger).expect("ours").is_none());
    }
}
