//! One connection: made, asked, mourned. What rmcp and reqwest say of a failure becomes an [`Error`] here.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rmcp::ServiceExt as _;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, Implementation,
};
use rmcp::service::{ClientInitializeError, RoleClient, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransportConfig, StreamableHttpError,
};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::Cause;
use super::http::Client;
use super::stdio::{self, Child};
use super::{Dialect, Endpoint, Error};

/// rmcp's own limit of 16 MiB is a list of 20,000 tasks.
pub(super) const LARGEST_ANSWER: usize = 1 << 30;

/// Connections that are kept for the next calls: for the queues, the details and the witnesses that a look mostly asks for at once.
const KEPT: usize = 6;

/// What a tinytask must offer; v1 has them all.
const NEEDED: [&str; 5] = [
    "get_my_queue",
    "list_tasks",
    "get_task",
    "update_task",
    "add_comment",
];

/// A live connection to a tinytask of a known generation.
pub(super) struct Session {
    pub dialect: Dialect,
    service: RunningService<RoleClient, ClientConfig>,
    child: Option<Mutex<Child>>,
    worked: AtomicBool,
}

/// What a tool said. A failure of the tool is an answer too.
pub(super) struct Answer {
    pub text: String,
    pub is_error: bool,
}

/// Connects and learns the generation.
pub(super) async fn connect(endpoint: &Endpoint, limit: Duration) -> Result<Session, Error> {
    let late = |call| Error::Timeout {
        endpoint: endpoint.to_string(),
        call,
        after: limit,
    };
    let mut child = None;
    let served = match endpoint {
        Endpoint::Http { url } => {
            let transport = http(endpoint, url)?;
            timeout(limit, client_info().serve(transport)).await
        }
        Endpoint::Stdio { command, env, cwd } => {
            let (transport, started) = stdio::start(command, env, cwd.as_deref())?;
            child = Some(started);
            timeout(limit, client_info().serve(transport)).await
        }
    };
    let service = match (served, &mut child) {
        (Ok(Ok(service)), _) => service,
        (Ok(Err(_)), Some(child)) => return Err(child.why_ended().await),
        (Ok(Err(error)), None) => return Err(init_error(endpoint, error)),
        (Err(_), _) => return Err(late("initialize")),
    };
    let tools = match timeout(limit, service.list_all_tools()).await {
        Ok(Ok(tools)) => tools,
        Ok(Err(error)) => {
            return Err(match &mut child {
                Some(child) => child.why_ended().await,
                None => call_error(endpoint, error),
            });
        }
        Err(_) => return Err(late("tools/list")),
    };
    let offers = |name: &str| tools.iter().any(|tool| tool.name == name);
    if let Some(missing) = NEEDED.into_iter().find(|name| !offers(name)) {
        return Err(Error::NotTinytask {
            endpoint: endpoint.to_string(),
            why: Cause::new(format!("it offers no `{missing}`")),
        });
    }
    Ok(Session {
        dialect: if offers("list_queues") {
            Dialect::V2
        } else {
            Dialect::V1
        },
        service,
        child: child.map(Mutex::new),
        worked: AtomicBool::new(false),
    })
}

/// Why a call on a connection brought no answer: the connection is to be given up.
pub(super) enum Broken {
    Late {
        call: &'static str,
        after: Duration,
    },
    Service(ServiceError),
    /// An answer that no tinytask of the generation seen at connecting gives.
    Stranger(String),
}

impl Session {
    /// Calls a tool. Dropping the future sends a cancellation, so a time-out does not leave the server at work.
    pub(super) async fn call(
        &self,
        tool: &'static str,
        arguments: Map<String, Value>,
        limit: Duration,
    ) -> Result<Answer, Broken> {
        let params = CallToolRequestParams::new(tool).with_arguments(arguments);
        let response = match timeout(limit, self.service.call_tool_once(params)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Broken::Service(error)),
            Err(_) => {
                return Err(Broken::Late {
                    call: tool,
                    after: limit,
                });
            }
        };
        let CallToolResponse::Complete(result) = response else {
            return Err(Broken::Stranger("it asks questions back".into()));
        };
        let text = result
            .content
            .into_iter()
            .find_map(|block| match block {
                rmcp::model::ContentBlock::Text(text) => Some(text.text),
                _ => None,
            })
            .ok_or_else(|| Broken::Stranger("it answers without text".into()))?;
        let is_error = result.is_error.unwrap_or(false);
        // Only a server that took the place of another says so of a tool it had.
        if is_error && text.starts_with("Unknown tool:") {
            return Err(Broken::Stranger(text));
        }
        self.worked.store(true, Ordering::Relaxed);
        Ok(Answer { text, is_error })
    }

    /// Puts a broken call into words.
    pub(super) async fn explain(&self, endpoint: &Endpoint, broken: Broken) -> Error {
        match broken {
            Broken::Late { call, after } => Error::Timeout {
                endpoint: endpoint.to_string(),
                call,
                after,
            },
            Broken::Stranger(text) => Error::NotTinytask {
                endpoint: endpoint.to_string(),
                why: Cause::new(text),
            },
            Broken::Service(error) => match &self.child {
                Some(child) => child.lock().await.why_ended().await,
                None => call_error(endpoint, error),
            },
        }
    }

    /// Has no end been seen? An HTTP server that is down shows only at the next call.
    pub(super) fn is_alive(&self) -> bool {
        !self.service.is_closed() && !self.service.is_transport_closed()
    }

    /// Has a call been answered on it?
    pub(super) fn has_worked(&self) -> bool {
        self.worked.load(Ordering::Relaxed)
    }

    /// Ends it and waits, for a bounded time.
    pub(super) async fn close(mut self) {
        if self
            .service
            .close_with_timeout(Duration::from_secs(1))
            .await
            .is_err()
        {
            tracing::debug!("tinytask's connection ended in a panic");
        }
        if let Some(child) = self.child.take() {
            child.into_inner().end().await;
        }
    }
}

fn client_info() -> ClientConfig {
    ClientConfig::new(
        ClientCapabilities::default(),
        Implementation::new("calypso-watch", env!("CARGO_PKG_VERSION")),
    )
}

/// A transport with a fresh connection for each call, 0.1 ms on this machine: a kept one dies unseen after 66 s, and the call
/// that finds out may be a write, which must not be repeated. Nor does an idle pool tick then.
fn http(endpoint: &Endpoint, url: &str) -> Result<StreamableHttpClientTransport<Client>, Error> {
    let refused = |why: String| Error::NotTinytask {
        endpoint: endpoint.to_string(),
        why: Cause::new(why),
    };
    let address = reqwest::Url::parse(url)
        .map_err(|error| refused(format!("that is no address: {error}")))?;
    match address.scheme() {
        "http" => {}
        "https" => {
            return Err(Error::Tls {
                endpoint: endpoint.to_string(),
            });
        }
        other => return Err(refused(format!("{other}:// is not http://"))),
    }
    let mut client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    client = if is_loopback(&address) {
        // HTTP_PROXY is meant for the world outside; a proxy cannot reach this machine's loopback. A connection is kept until the server closes
        // it, which tinytask v2 does after 66 s: a timer of ours would wake us for nothing. A call that meets the close is made again, or, where
        // it writes, by the next look.
        (client.no_proxy())
            .pool_max_idle_per_host(KEPT)
            .pool_idle_timeout(None)
    } else {
        // On the way elsewhere something may forget a connection that rests, and then a call waits out its time.
        client.pool_max_idle_per_host(0)
    };
    let client = client
        .build()
        .map_err(|error| refused(Cause::root(&error).to_string()))?;
    Ok(StreamableHttpClientTransport::with_client(
        Client(client),
        StreamableHttpClientTransportConfig::with_uri(url)
            .max_sse_event_size(LARGEST_ANSWER)
            .max_json_response_size(LARGEST_ANSWER),
    ))
}

fn is_loopback(address: &reqwest::Url) -> bool {
    match address.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

fn init_error(endpoint: &Endpoint, error: ClientInitializeError) -> Error {
    match error {
        ClientInitializeError::TransportError { error, .. } => {
            http_error(endpoint, error.error.as_ref())
        }
        ClientInitializeError::ConnectionClosed(_) => Error::Unreachable {
            endpoint: endpoint.to_string(),
            source: Cause::new("it closed the connection before it had answered"),
        },
        ClientInitializeError::JsonRpcError(error) => Error::NotTinytask {
            endpoint: endpoint.to_string(),
            why: Cause::new(error.message),
        },
        other => Error::NotTinytask {
            endpoint: endpoint.to_string(),
            why: Cause::root(&other),
        },
    }
}

fn call_error(endpoint: &Endpoint, error: ServiceError) -> Error {
    let unreachable = |source| Error::Unreachable {
        endpoint: endpoint.to_string(),
        source,
    };
    match error {
        ServiceError::TransportSend(error) => http_error(endpoint, error.error.as_ref()),
        ServiceError::TransportClosed => unreachable(Cause::new(
            "it closed the connection before it had answered",
        )),
        // A body that ends too early comes as one of these, made up by rmcp.
        ServiceError::McpError(error) => unreachable(Cause::new(error.message)),
        other => unreachable(Cause::root(&other)),
    }
}

/// Reads what the HTTP transport met.
fn http_error(
    endpoint: &Endpoint,
    error: &(dyn std::error::Error + Send + Sync + 'static),
) -> Error {
    let unreachable = |source| Error::Unreachable {
        endpoint: endpoint.to_string(),
        source,
    };
    let stranger = |why: &str| Error::NotTinytask {
        endpoint: endpoint.to_string(),
        why: Cause::new(why),
    };
    let Some(error) = error.downcast_ref::<StreamableHttpError<reqwest::Error>>() else {
        return unreachable(Cause::root(error));
    };
    match error {
        StreamableHttpError::UnexpectedServerResponse(text)
            if text.contains("Missing session ID") =>
        {
            Error::LegacySse
        }
        StreamableHttpError::UnexpectedServerResponse(text) => match text.split_once(": ") {
            Some((status, body)) if body.trim_start().starts_with('<') => {
                stranger(&format!("it answers with a web page: {status}"))
            }
            _ => stranger(text),
        },
        StreamableHttpError::UnexpectedContentType(kind) => stranger(&format!(
            "it answers with {}",
            kind.as_deref().unwrap_or("nothing that has a type")
        )),
        StreamableHttpError::AuthRequired(_) | StreamableHttpError::InsufficientScope(_) => {
            stranger("it asks for a login, which tinytask never does")
        }
        StreamableHttpError::HttpStatus(status) => unreachable(Cause::new(status.to_string())),
        // Its cause is not its `source`.
        StreamableHttpError::Client(error) => unreachable(Cause::root(error)),
        other => unreachable(Cause::root(other)),
    }
}

/// `span` give or take a quarter, so that several watchers do not come back in step.
pub(super) fn jitter(span: Duration) -> Duration {
    let millis = span.as_millis() as u64;
    between(millis - millis / 4, millis + millis / 4)
}

/// Some span from `low` to `high` milliseconds.
pub(super) fn between(low: u64, high: u64) -> Duration {
    // Each RandomState has other keys, so its empty hash is random enough to keep clients out of step.
    let random = std::hash::RandomState::new().build_hasher().finish();
    Duration::from_millis(low + random % (high - low + 1))
}
