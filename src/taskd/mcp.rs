//! The MCP side: which methods there are, and the connection over standard input and output. rmcp stays here and in `http`.
//!
//! As with tinytask, nothing has to be initialized: each request stands alone.

use std::io::Write as _;
use std::sync::{Arc, LazyLock};

use rmcp::model::{
    CallToolRequestMethod, CallToolRequestParams, CallToolResponse, CallToolResult,
    ConstString as _, ContentBlock, CustomRequest, CustomResult, ErrorCode, Implementation,
    InitializeRequestParams, InitializeResult, ListResourceTemplatesRequestMethod,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource,
    ResourceContents, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::edge::{clock, kill_point};

use super::store::{Store, Trouble, patiently};
use super::{arguments, resources, tools};

/// The name on the wire: ours, as clients tell the generations apart by their tools, never by this.
const NAME: &str = "calypso-watch-tinytask";

/// An old revision that tinytask still speaks and rmcp does not know; it differs in nothing used here.
pub(super) const OLDEST_VERSION: &str = "2024-10-07";

static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    tools::all()
        .map(|tool| Tool::new(tool.name, tool.about, arguments::schema(tool.params)))
        .collect()
});

/// The server, as rmcp calls it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    pub(super) store: Arc<Store>,
    log: bool,
}

impl Server {
    /// `log`: a line for each call on standard error.
    pub fn new(store: Arc<Store>, log: bool) -> Self {
        Self { store, log }
    }

    /// Serves standard input and output until the input ends.
    pub async fn serve_stdio(self) {
        let running = rmcp::service::serve_directly(self, rmcp::transport::stdio(), None);
        // Both ends of this are an end: nothing more can be asked.
        drop(running.waiting().await);
    }

    async fn call(&self, name: &str, given: &Map<String, Value>) -> tools::Answer {
        let begun = Instant::now();
        kill_point::reach("server:asked");
        let answer = tools::call(&self.store, name, given).await;
        kill_point::reach("server:before-answer");
        if self.log {
            log_call(name, given, &answer, begun);
        }
        answer
    }

    /// A call of a tool without rmcp, which would parse it anew, spawn a service for it and copy the answer: the JSON-RPC
    /// response as one event. Nothing if the message is anything else, or of a revision that asks for more.
    pub(super) async fn call_at_once(&self, message: &Value) -> Option<Vec<u8>> {
        if message["method"] != CallToolRequestMethod::VALUE {
            return None;
        }
        let id = message.get("id")?;
        let params = message["params"].as_object()?;
        let name = params.get("name")?.as_str()?;
        let none = Map::new();
        let given = match params.get("arguments") {
            None => &none,
            Some(given) => given.as_object()?,
        };
        // What else there is (`task`, a protocol version of its own in `_meta`) changes what is answered.
        let is_plain = params.iter().all(|(key, value)| match key.as_str() {
            "name" | "arguments" => true,
            "_meta" => value
                .as_object()
                .is_some_and(|meta| meta.keys().all(|key| key == "progressToken")),
            _ => false,
        });
        if !is_plain {
            return None;
        }
        let answer = self.call(name, given).await;
        let before = format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\
             \"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\""
        );
        let after = match answer.is_error {
            true => "\"}],\"isError\":true}}\n\n",
            false => "\"}]}}\n\n",
        };
        Some(answer.text.within(before.as_bytes(), after.as_bytes()))
    }
}

/// `12:03:04.123 architect  signup_for_task  task 42  0.4 ms`; a dash for what is not known.
fn log_call(name: &str, given: &Map<String, Value>, answer: &tools::Answer, begun: Instant) {
    let agent = ["agent_name", "current_agent", "created_by", "assigned_to"]
        .iter()
        .find_map(|key| given.get(*key)?.as_str())
        .unwrap_or("-");
    let task = match answer.task {
        Some(id) => format!("task {id}"),
        None => "-".into(),
    };
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let at = clock::local_time(clock::wall());
    let mut line = format!(
        "{at} {}  {name}  {task}  {took:.1} ms",
        agent.escape_debug()
    );
    if answer.is_error {
        let text = answer.text.plain();
        let first = text.lines().next().unwrap_or_default();
        line += &format!("  error: {}", first.escape_debug());
    }
    line.push('\n');
    // A closed standard error is no reason to refuse a call.
    std::io::stderr().write_all(line.as_bytes()).ok();
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        let mut info = ServerConfig::new(capabilities);
        info.server_info = Implementation::new(NAME, env!("CARGO_PKG_VERSION"));
        info
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut info = self.negotiate_initialize(&request)?;
        if request.protocol_version.as_str() == OLDEST_VERSION {
            info.protocol_version = request.protocol_version;
        }
        Ok(info)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(TOOLS.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let given = request.arguments.unwrap_or_default();
        let answer = self.call(&request.name, &given).await;
        let text = ContentBlock::text(answer.text.plain());
        let mut result = CallToolResult::success(vec![text]);
        result.is_error = answer.is_error.then_some(true);
        Ok(result.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resources = resources::PATTERNS
            .map(|(uri, name)| Resource::new(uri, name).with_mime_type(resources::MEDIA_TYPE));
        Ok(ListResourcesResult::with_all_items(resources.into()))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Err(ErrorData::method_not_found::<
            ListResourceTemplatesRequestMethod,
        >())
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        match patiently(|| resources::read(&self.store, &uri), Trouble::is_busy).await {
            Ok(text) => {
                let contents =
                    ResourceContents::text(text, uri).with_mime_type(resources::MEDIA_TYPE);
                Ok(ReadResourceResult::new(vec![contents]).into())
            }
            Err(why) => Err(ErrorData::internal_error(
                format!("Error reading resource {uri}: {why}"),
                None,
            )),
        }
    }

    /// What rmcp could not read as a method it knows, by its name or by its parameters.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        if request.method == CallToolRequestMethod::VALUE {
            return Err(ErrorData::invalid_params(
                "tools/call takes a `name`, and `arguments` that are an object",
                None,
            ));
        }
        Err(ErrorData::new(
            ErrorCode::METHOD_NOT_FOUND,
            "Method not found",
            None,
        ))
    }
}
