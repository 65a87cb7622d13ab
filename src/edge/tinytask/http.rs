//! The HTTP under rmcp: its own client, with a short way for the one kind of answer that is large.
//!
//! Which kind of message it is is found out by rmcp by reading it in pieces that fit any, and copying them: over the text of a list of
//! 10,000 tasks, 5 MB, the daemon grew by 40. An answer of a tool that is text and nothing else is read here in one go; whatever differs from that
//! in the least is left to rmcp, unread.
//!
//! Of what only reads, also the events are taken apart here: rmcp weighs each byte by itself, which was a third of what a list of 200 tasks
//! costs. An answer that does not come as tinytask sends it is asked for once more, through rmcp: asking changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use rmcp::model::{
    CallToolResult, ClientJsonRpcMessage, ClientRequest, ContentBlock, RequestId,
    ServerJsonRpcMessage, ServerResult,
};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    StreamableHttpResponseLimits,
};
use serde::Deserialize;
use sse_stream::Sse;

use super::connect::LARGEST_ANSWER;

type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

/// Tools that change nothing, and that a start waits for.
const READS: [&str; 4] = ["get_my_queue", "get_subtasks", "get_task", "list_tasks"];

/// The end of a body follows its last words at once, or within a moment where a server says it by itself; without it, the connection
/// cannot be used again.
const END: Duration = Duration::from_millis(5);

/// rmcp's client, but for the answers of tools.
#[derive(Clone)]
pub(super) struct Client(pub(super) reqwest::Client);

/// `{"result":{"content":[{"type":"text","text":"…"}]},"jsonrpc":"2.0","id":7}`, and nothing besides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolAnswer {
    #[serde(rename = "jsonrpc")]
    _version: Version,
    id: i64,
    result: ToolResult,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "2.0")]
    Two,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolResult {
    content: [ToolText; 1],
    #[serde(rename = "isError", default)]
    is_error: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolText {
    #[serde(rename = "type")]
    _kind: Kind,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Text,
}

impl From<ToolAnswer> for ServerJsonRpcMessage {
    fn from(answer: ToolAnswer) -> Self {
        let ToolResult { content, is_error } = answer.result;
        let content = content.map(|block| ContentBlock::text(block.text)).into();
        let result = match is_error {
            true => CallToolResult::error(content),
            false => CallToolResult::success(content),
        };
        Self::response(
            ServerResult::CallToolResult(result),
            RequestId::Number(answer.id),
        )
    }
}

/// The answer of a tool that the first event is, where it is one; else the events as they came.
async fn tool_answer(mut events: Events) -> Result<ServerJsonRpcMessage, Events> {
    let Some(first) = events.next().await else {
        return Err(events);
    };
    // An event of another kind, or one to go on from after a break, is for rmcp.
    let is_plain = |event: &&Sse| {
        matches!(event.event.as_deref(), None | Some("message")) && event.retry.is_none()
    };
    let data = first.as_ref().ok().filter(is_plain);
    let data = data.and_then(|event| event.data.as_deref());
    match data.map(serde_json::from_str::<ToolAnswer>) {
        Some(Ok(answer)) => Ok(answer.into()),
        _ => Err(stream::iter([first]).chain(events).boxed()),
    }
}

fn tool(message: &ClientJsonRpcMessage) -> Option<&str> {
    match message {
        ClientJsonRpcMessage::Request(request) => match &request.request {
            ClientRequest::CallToolRequest(call) => Some(&call.params.name),
            _ => None,
        },
        _ => None,
    }
}

/// The data of the one event that this is: `event: message`, one line of data, and nothing besides.
fn only_event(body: &[u8]) -> Option<&[u8]> {
    let body = body.strip_prefix(b"event: message\n").unwrap_or(body);
    let data = body.strip_prefix(b"data: ")?.strip_suffix(b"\n\n")?;
    let is_one_line = !data.contains(&b'\n') && !data.contains(&b'\r');
    is_one_line.then_some(data)
}

impl Client {
    /// The answer of a tool that reads, which ends with its event or with the body; `None` where it is anything else, and has to be asked
    /// for again.
    async fn read(
        &self,
        uri: &str,
        message: &ClientJsonRpcMessage,
        headers: &Headers,
    ) -> Result<Option<ServerJsonRpcMessage>, reqwest::Error> {
        let Ok(body) = serde_json::to_vec(message) else {
            return Ok(None);
        };
        let mut request = (self.0.post(uri))
            .header(ACCEPT, "text/event-stream, application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut response = request.send().await?;
        let kind = response.headers().get(CONTENT_TYPE);
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if response.status() != reqwest::StatusCode::OK || !is_stream {
            return Ok(None);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
            if body.ends_with(b"\n\n") {
                tokio::time::timeout(END, response.chunk()).await.ok();
                break;
            }
        }
        let answer = only_event(&body).and_then(|data| serde_json::from_slice(data).ok());
        Ok(answer.map(ToolAnswer::into))
    }
}

impl StreamableHttpClient for Client {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, StreamableHttpError<Self::Error>> {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session, auth, headers, limits)
            .await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, StreamableHttpError<Self::Error>> {
        let tool = tool(&message);
        let calls_a_tool = tool.is_some();
        if tool.is_some_and(|tool| READS.contains(&tool))
            && session.is_none()
            && auth.is_none()
            && let Some(answer) = self.read(&uri, &message, &headers).await?
        {
            return Ok(StreamableHttpPostResponse::Json(answer, None));
        }
        let response = (self.0)
            .post_message_with_response_limits(uri, message, session, auth, headers, limits)
            .await?;
        Ok(match response {
            StreamableHttpPostResponse::Sse(events, session) if calls_a_tool => {
                match tool_answer(events).await {
                    Ok(answer) => StreamableHttpPostResponse::Json(answer, session),
                    Err(events) => StreamableHttpPostResponse::Sse(events, session),
                }
            }
            other => other,
        })
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<(), StreamableHttpError<Self::Error>> {
        self.0.delete_session(uri, session, auth, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<Events, StreamableHttpError<Self::Error>> {
        (self.0)
            .get_stream(uri, session, last_event, auth, headers)
            .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        auth: Option<String>,
        headers: Headers,
        most: usize,
    ) -> Result<Events, StreamableHttpError<Self::Error>> {
        (self.0)
            .get_stream_with_max_sse_event_size(uri, session, last_event, auth, headers, most)
            .await
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::ServerJsonRpcMessage as Message;

    use super::*;

    fn event(data: &str) -> Sse {
        Sse {
            data: Some(data.to_owned()),
            ..Sse::default()
        }
    }

    async fn read(event: Sse) -> Result<ServerJsonRpcMessage, Vec<Sse>> {
        match tool_answer(stream::iter([Ok(event)]).boxed()).await {
            Ok(answer) => Ok(answer),
            Err(events) => Err(events.map(|event| event.expect("it was")).collect().await),
        }
    }

    /// The text, whether it is an error, and the number of the request.
    fn told(message: &Message) -> (String, bool, RequestId) {
        let Message::Response(response) = message else {
            panic!("no response: {message:?}");
        };
        let ServerResult::CallToolResult(result) = &response.result else {
            panic!("no tool's: {message:?}");
        };
        let [ContentBlock::Text(text)] = &result.content[..] else {
            panic!("not one text: {message:?}");
        };
        let is_error = result.is_error.unwrap_or(false);
        (text.text.clone(), is_error, response.id.clone())
    }

    #[tokio::test]
    async fn a_tools_answer_is_read_as_rmcp_reads_it() {
        for data in [
            r#"{"result":{"content":[{"type":"text","text":"{\n  \"id\": 7 \u00e9 \ud83d\ude00"}]},"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":8,"result":{"isError":true,"content":[{"text":"no","type":"text"}]}}"#,
        ] {
            let quick = read(event(data)).await.expect("read here");
            let slow: Message = serde_json::from_str(data).expect("read by rmcp");
            assert_eq!(told(&quick), told(&slow));
        }
    }

    #[test]
    fn of_what_only_reads_nothing_but_the_one_event_of_tinytask_is_read_here() {
        assert_eq!(
            only_event(b"event: message\ndata: {}\n\n"),
            Some(&b"{}"[..])
        );
        assert_eq!(only_event(b"data: {}\n\n"), Some(&b"{}"[..]));
        for other in [
            "",
            "data: {}",
            "data: {}\n",
            "event: ping\ndata: {}\n\n",
            "id: 7\ndata: {}\n\n",
            "data: {\ndata: }\n\n",
            "data: {}\n\ndata: {}\n\n",
            "data: {}\n\n: a comment\n\n",
            "data: {}\r\n\r\n",
            "data: {}\r\n\n",
        ] {
            assert_eq!(only_event(other.as_bytes()), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn whatever_else_comes_is_left_to_rmcp_as_it_came() {
        let answer = r#"{"result":{"content":[{"type":"text","text":""}]},"jsonrpc":"2.0","id":7}"#;
        let named = Sse {
            event: Some("ping".into()),
            ..event(answer)
        };
        for other in [
            named,
            Sse::default(),
            event(""),
            event(&answer[1..]),
            event(&answer.replace("2.0", "1.0")),
            event(&answer.replace("text\",\"text", "image\",\"text")),
            event(&answer.replace(r#""id":7"#, r#""id":7,"more":1"#)),
            event(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"no"}}"#),
            event(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#),
            event(r#"{"result":{"content":[]},"jsonrpc":"2.0","id":7}"#),
        ] {
            let left = read(other.clone()).await.expect_err("not read here");
            assert_eq!(format!("{left:?}"), format!("{:?}", [other]));
        }
    }
}
