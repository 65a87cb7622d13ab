//! Stands between calypso-watch and tinytask, and fails at the call a test names.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// tinytask never hears of it.
    Before,
    /// tinytask does it, and nobody hears that.
    After,
    /// Half of the answer arrives.
    Middle,
}

pub(crate) const CUTS: [Cut; 3] = [Cut::Before, Cut::After, Cut::Middle];

/// What becomes of every call.
#[derive(Debug, Clone)]
pub(crate) enum Weather {
    Fair,
    /// tinytask is not asked; this is the answer: status line, content type, body.
    Says(&'static str, &'static str, &'static str),
    /// The answer comes in pieces of so many bytes, with a pause after each.
    Trickles(usize, Duration),
}

struct Plan {
    /// Which calls are cut: of this name, so many from now on, and how.
    armed: Vec<(String, u32, Cut)>,
    weather: Weather,
    /// The next call of this name is kept from tinytask until its sender is gone.
    held: Option<(String, Receiver<()>)>,
    /// Names of all calls so far.
    calls: Vec<String>,
    /// And of those that were answered.
    answered: Vec<String>,
}

/// See the module.
pub(crate) struct Proxy {
    pub(crate) address: String,
    plan: Arc<Mutex<Plan>>,
    is_over: Arc<AtomicBool>,
}

impl Proxy {
    /// Before the tinytask at `upstream`.
    pub(crate) fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let plan = Arc::new(Mutex::new(Plan {
            armed: Vec::new(),
            weather: Weather::Fair,
            held: None,
            calls: Vec::new(),
            answered: Vec::new(),
        }));
        let is_over = Arc::new(AtomicBool::new(false));
        let (theirs, over, upstream) = (plan.clone(), is_over.clone(), upstream.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (plan, upstream) = (theirs.clone(), upstream.clone());
                // A client that goes away in the middle ends its own thread only.
                std::thread::spawn(move || client.and_then(|c| serve(c, &upstream, &plan)).ok());
            }
        });
        Self {
            address,
            plan,
            is_over,
        }
    }

    /// The `n`th call of this name from now on is cut, counted from 1.
    pub(crate) fn arm(&self, name: &str, n: u32, cut: Cut) {
        let mut plan = self.plan.lock().expect("no thread panics with it");
        plan.armed.push((name.to_owned(), n, cut));
    }

    /// Cuts nothing more; whether there is anything that was to be cut and never came.
    pub(crate) fn disarm(&self) -> bool {
        let mut plan = self.plan.lock().expect("no thread panics with it");
        !std::mem::take(&mut plan.armed).is_empty()
    }

    pub(crate) fn weather(&self, weather: Weather) {
        self.plan.lock().expect("no thread panics with it").weather = weather;
    }

    /// The next call of this name reaches tinytask once what this returns is dropped.
    pub(crate) fn hold(&self, name: &str) -> Sender<()> {
        let (until, held) = channel();
        self.plan.lock().expect("no thread panics with it").held = Some((name.to_owned(), held));
        until
    }

    /// How many calls of this name were answered so far.
    pub(crate) fn answered(&self, name: &str) -> usize {
        let plan = self.plan.lock().expect("no thread panics with it");
        plan.answered.iter().filter(|call| *call == name).count()
    }

    /// Names of all calls so far: a tool's, or the protocol's own word.
    pub(crate) fn calls(&self) -> Vec<String> {
        let plan = self.plan.lock().expect("no thread panics with it");
        plan.calls.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        TcpStream::connect(&self.address).ok();
    }
}

/// One request, one connection.
fn serve(mut client: TcpStream, upstream: &str, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let Some(request) = read_request(&mut client)? else {
        return Ok(());
    };
    let name = name(&request);
    let (cut, weather, held) = {
        let mut plan = plan.lock().expect("no thread panics with it");
        let mut cut = None;
        plan.armed.retain_mut(|(armed, left, how)| {
            *left -= u32::from(*armed == name);
            if *left == 0 {
                cut = Some(*how);
            }
            *left > 0
        });
        plan.calls.push(name.clone());
        let held = plan.held.take_if(|(held, _)| *held == name);
        (cut, plan.weather.clone(), held)
    };
    if let Some((_, until)) = held {
        // It ends with an error, as nothing is ever sent.
        until.recv().ok();
    }
    if cut == Some(Cut::Before) {
        return client.shutdown(Shutdown::Both);
    }
    if let Weather::Says(status, kind, body) = weather {
        return write!(
            client,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&request)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match (cut, weather) {
        (Some(Cut::After), _) => {}
        (Some(Cut::Middle), _) => client.write_all(&answer[..answer.len() / 2])?,
        (_, Weather::Trickles(bytes, pause)) => {
            for piece in answer.chunks(bytes) {
                client.write_all(piece)?;
                std::thread::sleep(pause);
            }
        }
        _ => client.write_all(&answer)?,
    }
    client.shutdown(Shutdown::Both)?;
    let mut plan = plan.lock().expect("no thread panics with it");
    plan.answered.push(name);
    Ok(())
}

/// Head and body, told to be the connection's last; none where nothing was asked.
fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut piece)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse::<usize>().ok())?
    });
    while bytes.len() < end + length.unwrap_or(0) {
        match client.read(&mut piece)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
    let mut request: String = (head.trim_end().lines())
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    request.push_str("connection: close\r\n\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(&bytes[end..]);
    Ok(Some(request))
}

fn name(request: &[u8]) -> String {
    let body = request
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(&[][..], |at| &request[at + 4..]);
    let call: Value = serde_json::from_slice(body).unwrap_or_default();
    let tool = call["params"]["name"].as_str();
    tool.or(call["method"].as_str()).unwrap_or("?").to_owned()
}
