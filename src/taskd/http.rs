//! Listening on loopback: MCP at `/mcp`, `/health`, plain calls under `/api/v1`.
//!
//! rmcp's own service does the protocol, stateless. This file stands in front of it, for what tinytask takes and rmcp does not:
//! batches, paths below `/mcp`, DELETE, and answers as one event each. It also decides who may ask: only names of this machine in
//! Host and Origin, as any web page could otherwise reach the server through a name of its own (DNS rebinding).
//!
//! Known gap: there is no stream to GET, since nothing is ever pushed; clients are told so with 405.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::serve::ListenerExt as _;
use rmcp::model::ProtocolVersion;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::mcp::{OLDEST_VERSION, Server};

/// Longest body of a request.
pub(super) const MAX_BODY: usize = 4 * 1024 * 1024;

/// Most requests of one batch, and the most that is answered at once: a few bytes may ask for a list of megabytes.
const MAX_BATCH: usize = 1000;
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What connections that are still open at the end get to finish.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Mcp = StreamableHttpService<Server, NeverSessionManager>;

#[derive(Clone)]
struct Shared {
    mcp: Arc<Mcp>,
    server: Server,
    begun: Instant,
}

/// Binds the address; nobody is answered yet.
///
/// # Errors
/// What bind(2) says.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `end` is ready; then lets the call at hand finish.
///
/// # Errors
/// What accept(2) says, where it is not worth another try.
pub async fn serve(
    listener: TcpListener,
    server: Server,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_sse_keep_alive(None)
        // Checked below, for all paths.
        .disable_allowed_hosts()
        .with_max_request_body_bytes(2 * MAX_BODY);
    let store = server.store.clone();
    let shared = Shared {
        server: server.clone(),
        mcp: Arc::new(StreamableHttpService::new(
            move || Ok(server.clone()),
            Arc::default(),
            config,
        )),
        begun: Instant::now(),
    };
    let router = Router::new()
        .route("/mcp", any(mcp))
        .route("/mcp/{*rest}", any(mcp))
        .route("/mcp/", any(mcp))
        .route("/health", get(health))
        .route(
            "/api/v1/{*rest}",
            any(move |request: Request| super::rest::answer(store.clone(), request)),
        )
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "Not found") })
        .layer(middleware::from_fn(only_this_machine))
        .with_state(shared);
    let ended = Arc::new(tokio::sync::Notify::new());
    let tell = ended.clone();
    // An answer is one small packet; it must not wait for the client's acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        stream.set_nodelay(true).ok();
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        end.await;
        tell.notify_one();
    });
    tokio::select! {
        served = serving => served,
        () = async { ended.notified().await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}

async fn health(State(shared): State<Shared>) -> Response {
    axum::Json(json!({
        "status": "healthy",
        "transport": "streamable-http",
        "timestamp": crate::edge::clock::utc(crate::edge::clock::wall()),
        "database": "connected",
        "uptime": shared.begun.elapsed().as_secs_f64(),
        "sessionCount": 0,
    }))
    .into_response()
}

/// `{"error": …}`
pub(super) fn refusal(status: StatusCode, why: impl Into<String>) -> Response {
    (status, axum::Json(json!({"error": why.into()}))).into_response()
}

/// A refusal in JSON-RPC's form, as MCP clients expect it.
fn rpc_refusal(status: StatusCode, code: i32, why: impl Into<String>) -> Response {
    let body = json!({
        "jsonrpc": "2.0",
        "error": {"code": code, "message": why.into()},
        "id": null,
    });
    (status, axum::Json(body)).into_response()
}

/// Host and, where a browser asks, Origin must name this machine.
async fn only_this_machine(request: Request, next: Next) -> Response {
    let headers = request.headers();
    // HTTP/1.1 asks for a Host; an old client without one has no browser behind it.
    let host = headers.get(header::HOST).map(|host| host.to_str().ok());
    if host.is_some_and(|host| !host.is_some_and(is_loopback)) {
        return refusal(
            StatusCode::FORBIDDEN,
            "the Host header must name this machine: localhost or 127.0.0.1",
        );
    }
    let origin = headers.get(header::ORIGIN).map(|origin| {
        let origin = origin.to_str().ok()?;
        origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))
    });
    if origin.is_some_and(|origin| !origin.is_some_and(is_loopback)) {
        return refusal(
            StatusCode::FORBIDDEN,
            "the Origin header names another site: web pages of other machines are not answered",
        );
    }
    // A page of another program on this machine may send plain text and forms without asking first; JSON it may not, as its
    // browser would ask us with OPTIONS, which nobody here answers (the Fetch standard, "CORS-safelisted request-header").
    let is_read = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if origin.is_some() && !is_read && !is_json(headers) {
        return refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a web page's request must be of Content-Type application/json",
        );
    }
    next.run(request).await
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// `localhost:3000`, `127.0.0.1`, `[::1]:3000`.
fn is_loopback(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

async fn mcp(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match parts.method {
        Method::POST => post(&shared, &parts.headers, body).await,
        // There are no sessions to end.
        Method::DELETE => StatusCode::OK.into_response(),
        Method::GET if !accepts(&parts.headers, "text/event-stream") => rpc_refusal(
            StatusCode::NOT_ACCEPTABLE,
            -32000,
            "Not Acceptable: Client must accept text/event-stream",
        ),
        _ => {
            let mut refused = rpc_refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                -32000,
                "Method not allowed.",
            );
            refused.headers_mut().insert(
                header::ALLOW,
                header::HeaderValue::from_static("POST, DELETE"),
            );
            refused
        }
    }
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(media_type))
}

async fn post(shared: &Shared, headers: &HeaderMap, body: Body) -> Response {
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return rpc_refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            -32000,
            format!("the request is larger than {} MB", MAX_BODY / 1024 / 1024),
        );
    };
    if !accepts(headers, "application/json") || !accepts(headers, "text/event-stream") {
        return rpc_refusal(
            StatusCode::NOT_ACCEPTABLE,
            -32000,
            "Not Acceptable: Client must accept both application/json and text/event-stream",
        );
    }
    let content_type = headers.get(header::CONTENT_TYPE);
    if !content_type.is_some_and(|it| it.to_str().is_ok_and(|it| it.contains("application/json"))) {
        return rpc_refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            -32000,
            "Unsupported Media Type: Content-Type must be application/json",
        );
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return refusal(StatusCode::BAD_REQUEST, "Invalid JSON body");
    };
    let messages = match &message {
        Value::Array(batch) => batch.as_slice(),
        one => std::slice::from_ref(one),
    };
    if messages.is_empty() || !messages.iter().all(is_rpc) {
        return rpc_refusal(
            StatusCode::BAD_REQUEST,
            -32700,
            "Parse error: Invalid JSON-RPC message",
        );
    }
    if messages.len() > MAX_BATCH {
        return rpc_refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            -32000,
            format!("the batch holds more than {MAX_BATCH} messages"),
        );
    }
    let is_initialize = messages
        .iter()
        .any(|message| message["method"] == "initialize");
    if !is_initialize && let Some(refused) = unknown_version(headers) {
        return refused;
    }
    if message.is_object()
        && !repeats_itself_in_headers(headers)
        && let Some(event) = shared.server.call_at_once(&message).await
    {
        return answer(event);
    }
    // Notifications, and answers to requests that were never made, ask for nothing.
    let requests: Vec<&Value> = messages
        .iter()
        .filter(|message| is_request(message))
        .collect();
    let mut events = Vec::new();
    for request in &requests {
        let whole = messages.len() == 1;
        let bytes = if whole {
            body.clone()
        } else {
            Bytes::from(request.to_string())
        };
        let answer = shared
            .mcp
            .handle(inner(headers, is_initialize, bytes))
            .await
            .map(Body::new);
        let status = answer.status();
        let Ok(text) = to_bytes(answer.into_body(), usize::MAX).await else {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the answer was cut off");
        };
        // What rmcp refuses before it knows the request, it tells in plain text.
        let text = if text.starts_with(b"{") {
            text
        } else {
            let told = json!({
                "jsonrpc": "2.0",
                "error": {"code": -32600, "message": String::from_utf8_lossy(&text)},
                "id": request["id"],
            });
            Bytes::from(told.to_string())
        };
        if status != StatusCode::OK && whole {
            let json = [(header::CONTENT_TYPE, "application/json")];
            return (status, json, text).into_response();
        }
        if !whole && events.len() + text.len() > MAX_ANSWER {
            return rpc_refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                -32000,
                format!(
                    "the batch's answers are larger than {} MB",
                    MAX_ANSWER / 1024 / 1024
                ),
            );
        }
        events.extend_from_slice(b"event: message\ndata: ");
        events.extend_from_slice(&text);
        events.extend_from_slice(b"\n\n");
    }
    if requests.is_empty() {
        return StatusCode::ACCEPTED.into_response();
    }
    answer(events)
}

fn answer(events: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, events).into_response()
}

/// Does the client speak a revision whose requests carry headers of their own, to be checked against the body? rmcp does that.
fn repeats_itself_in_headers(headers: &HeaderMap) -> bool {
    headers.get(VERSION).is_some_and(|version| {
        version.as_bytes() >= ProtocolVersion::STANDARD_HEADERS.as_str().as_bytes()
    })
}

/// The request as rmcp's service gets it. `initialize` speaks for itself, and tinytask reads no version header beside it.
fn inner(headers: &HeaderMap, is_initialize: bool, body: Bytes) -> Request {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers.clone();
    let headers = request.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    let is_oldest = headers
        .get(VERSION)
        .is_some_and(|version| version == OLDEST_VERSION);
    if is_initialize || is_oldest {
        headers.remove(VERSION);
    }
    headers
        .entry(header::HOST)
        .or_insert(header::HeaderValue::from_static("localhost"));
    request
}

const VERSION: &str = "mcp-protocol-version";

fn unknown_version(headers: &HeaderMap) -> Option<Response> {
    let given = headers.get(VERSION)?.to_str().unwrap_or("?");
    let mut known: Vec<&str> = ProtocolVersion::KNOWN_VERSIONS
        .iter()
        .map(ProtocolVersion::as_str)
        .rev()
        .collect();
    known.push(OLDEST_VERSION);
    (!known.contains(&given)).then(|| {
        rpc_refusal(
            StatusCode::BAD_REQUEST,
            -32000,
            format!(
                "Bad Request: Unsupported protocol version: {given} (supported versions: {})",
                known.join(", ")
            ),
        )
    })
}

fn is_rpc(message: &Value) -> bool {
    let id = message.get("id");
    let params = message.get("params");
    message["jsonrpc"] == "2.0"
        && id.is_none_or(|id| id.is_string() || id.is_i64())
        && params.is_none_or(Value::is_object)
        && (message["method"].is_string()
            || message.get("result").is_some()
            || message.get("error").is_some())
}

fn is_request(message: &Value) -> bool {
    message["method"].is_string() && message.get("id").is_some()
}
