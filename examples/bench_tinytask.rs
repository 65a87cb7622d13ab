//! How fast is the built-in tinytask? Asks a real server over loopback HTTP and prints what it measured.
//!
//! `scripts/bench.sh --only tinytask` runs it: `bench_tinytask BINARY [--json] [--quick]`. The standard library only, so that
//! rustc alone builds it. A keep-alive connection per client, one call at a time on each, as agents do it.
//!
//! Bounded: each cell of the table ends after [`Size::calls`] calls or [`Size::time`], whichever is first.
//!
//! Known gap: server and clients share the machine, so more clients than cores measure both.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "measures with the clock, and prints"
)]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Tasks are spread over so many agents.
const AGENTS: usize = 50;
const TASKS: [usize; 3] = [0, 1_000, 10_000];
const CLIENTS: [usize; 2] = [1, 8];

/// How long a cell may take.
#[derive(Clone, Copy)]
struct Size {
    calls: usize,
    time: Duration,
}

#[derive(Clone, Copy, PartialEq)]
enum Call {
    /// Of a queue in which nothing changed since it was last asked.
    Queue,
    /// Of one in which something did: the client changes a task of it before each call.
    ChangedQueue,
    Signup,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Queue | Self::ChangedQueue => "get_my_queue",
            Self::Signup => "signup_for_task",
        }
    }
}

/// One line of the table.
struct Cell {
    call: Call,
    tasks: usize,
    clients: usize,
    calls: usize,
    p50: f64,
    p99: f64,
    per_second: f64,
    reply: usize,
    /// Memory of the server, in MB: the most it had.
    memory: f64,
}

fn main() -> Result<(), Failure> {
    let mut binary = None;
    let (mut as_json, mut is_quick) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => as_json = true,
            "--quick" => is_quick = true,
            _ => binary = Some(PathBuf::from(argument)),
        }
    }
    let binary = binary.ok_or("name the calypso-watch to measure")?;
    let size = match is_quick {
        true => Size {
            calls: 200,
            time: Duration::from_secs(1),
        },
        false => Size {
            calls: 4_000,
            time: Duration::from_secs(5),
        },
    };
    let folder = Folder::new()?;
    let mut cells = Vec::new();
    for tasks in TASKS {
        let filled = folder.0.join(format!("{tasks}.db"));
        fill(&binary, &filled, tasks)?;
        for call in [Call::Queue, Call::ChangedQueue, Call::Signup] {
            if call == Call::ChangedQueue && tasks == 0 {
                continue;
            }
            for clients in CLIENTS {
                let db = folder.0.join("cell.db");
                std::fs::copy(&filled, &db)?;
                cells.push(measure(&binary, &db, call, tasks, clients, size)?);
                remove(&db);
            }
        }
    }
    println!("{}", if as_json { json(&cells) } else { table(&cells) });
    Ok(())
}

/// A database with so many idle tasks; made by the server itself, which leaves one file behind when it ends.
fn fill(binary: &Path, db: &Path, tasks: usize) -> Result<(), Failure> {
    let mut server = Server::start(binary, db)?;
    let mut client = Client::connect(&server.address)?;
    for n in 0..tasks {
        let arguments = format!(
            r#"{{"title":"Task {n} of the benchmark","description":"Read the specification, write the parser, test both.","assigned_to":"agent-{}","created_by":"bench","priority":{}}}"#,
            n % AGENTS,
            n % 7
        );
        client.call("create_task", &arguments)?;
    }
    server.end()
}

fn measure(
    binary: &Path,
    db: &Path,
    call: Call,
    tasks: usize,
    clients: usize,
    size: Size,
) -> Result<Cell, Failure> {
    let server = Server::start(binary, db)?;
    // A claimed task is gone: never more claims than tasks, where there are any.
    let most = match call {
        Call::Signup if tasks > 0 => size.calls.min(tasks * 9 / 10),
        _ => size.calls,
    };
    let next = AtomicUsize::new(0);
    let together = Barrier::new(clients + 1);
    let (mut took, mut reply) = (Vec::new(), 0);
    let begun = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..clients)
            .map(|agent| {
                let (next, together, server) = (&next, &together, &server);
                scope.spawn(move || {
                    let connected = Client::connect(&server.address).and_then(|mut client| {
                        // The first call of a connection also pays for the server's own beginnings.
                        client.call("list_queues", "{}")?;
                        Ok(client)
                    });
                    together.wait();
                    let mut client = connected?;
                    let end = Instant::now() + size.time;
                    let (mut mine, mut longest) = (Vec::new(), 0);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= most || Instant::now() > end {
                            return Ok::<_, Failure>((mine, longest));
                        }
                        // Each asks for its own queue; what is claimed comes from all.
                        let agent = if call == Call::Signup {
                            n % AGENTS
                        } else {
                            agent
                        };
                        let arguments = format!(r#"{{"agent_name":"agent-{agent}"}}"#);
                        if call == Call::ChangedQueue {
                            let change = format!(r#"{{"id":{},"priority":{}}}"#, agent + 1, n % 7);
                            client.call("update_task", &change)?;
                        }
                        let asked = Instant::now();
                        let length = client.call(call.name(), &arguments)?;
                        mine.push(asked.elapsed());
                        longest = longest.max(length);
                    }
                })
            })
            .collect();
        together.wait();
        let begun = Instant::now();
        for client in asking {
            let (mine, longest) = client.join().map_err(|_| "a client panicked")??;
            took.extend(mine);
            reply = reply.max(longest);
        }
        Ok::<_, Failure>(begun)
    })?;
    let whole = begun.elapsed();
    took.sort();
    let at = |part: f64| {
        let index = (took.len() as f64 * part) as usize;
        took.get(index.min(took.len().saturating_sub(1)))
            .map_or(0.0, |span| span.as_secs_f64() * 1000.0)
    };
    Ok(Cell {
        call,
        tasks,
        clients,
        calls: took.len(),
        p50: at(0.50),
        p99: at(0.99),
        per_second: took.len() as f64 / whole.as_secs_f64(),
        reply,
        memory: server.memory(),
    })
}

fn table(cells: &[Cell]) -> String {
    let mut text = "\
| call | changed | tasks | clients | p50 ms | p99 ms | calls/s | reply KB | server MB |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        .to_owned();
    for cell in cells {
        write!(
            text,
            "\n| {} | {} | {} | {} | {:.2} | {:.2} | {:.0} | {:.1} | {:.1} |",
            cell.call.name(),
            if cell.call == Call::ChangedQueue {
                "yes"
            } else {
                ""
            },
            cell.tasks,
            cell.clients,
            cell.p50,
            cell.p99,
            cell.per_second,
            cell.reply as f64 / 1000.0,
            cell.memory
        )
        .ok();
    }
    text
}

fn json(cells: &[Cell]) -> String {
    let lines: Vec<String> = cells
        .iter()
        .map(|cell| {
            format!(
                r#"{{"call":"{}","changed":{},"tasks":{},"clients":{},"calls":{},"p50_ms":{:.3},"p99_ms":{:.3},"calls_per_s":{:.0},"reply_bytes":{},"server_mb":{:.1}}}"#,
                cell.call.name(),
                cell.call == Call::ChangedQueue,
                cell.tasks,
                cell.clients,
                cell.calls,
                cell.p50,
                cell.p99,
                cell.per_second,
                cell.reply,
                cell.memory
            )
        })
        .collect();
    format!("[\n  {}\n]", lines.join(",\n  "))
}

/// The server under test; killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(binary: &Path, db: &Path) -> Result<Self, Failure> {
        let mut child = Command::new(binary)
            .args(["tinytask", "serve", "--listen", "127.0.0.1:0", "--db"])
            .arg(db)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let mut server = Self {
            child,
            address: String::new(),
        };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        line.trim()
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.strip_suffix("/mcp"))
            .ok_or("the server did not start")?
            .clone_into(&mut server.address);
        Ok(server)
    }
    /// VmHWM of proc_pid_status(5).
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let kb = status
            .as_deref()
            .unwrap_or_default()
            .lines()
            .find_map(|line| {
                let rest = line.strip_prefix("VmHWM:")?;
                rest.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
            });
        kb.unwrap_or_default() / 1024.0
    }
    /// Ends it in order: the write-ahead log goes into the file.
    fn end(&mut self) -> Result<(), Failure> {
        let told = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()?;
        match told.success() && self.child.wait()?.success() {
            true => Ok(()),
            false => Err("the server did not end in order".into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One connection that stays open.
struct Client {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Client {
    fn connect(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        Ok(Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
            body: Vec::new(),
        })
    }
    /// Calls a tool; the length of the answer.
    fn call(&mut self, tool: &str, arguments: &str) -> Result<usize, Failure> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        );
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = None;
        let mut is_ok = false;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("the server closed the connection".into());
            }
            let text = line.trim_end();
            is_ok |= text.starts_with("HTTP/1.1 200");
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let length = length.ok_or("an answer without a length")?;
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        // A refusal would be measured as a fast answer.
        let start = &self.body[..length.min(300)];
        let end = &self.body[length.saturating_sub(60)..];
        let refused = |part: &[u8]| String::from_utf8_lossy(part).contains("\"isError\":true");
        if !is_ok || refused(start) || refused(end) {
            return Err(format!("{tool}: {}", String::from_utf8_lossy(&self.body)).into());
        }
        Ok(length)
    }
}

/// A folder for the databases; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("bench-tinytask-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A database and what a killed server left beside it.
fn remove(db: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = db.as_os_str().to_owned();
        name.push(end);
        std::fs::remove_file(name).ok();
    }
}
