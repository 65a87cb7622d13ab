//! The built-in tinytask: tool calls and plain HTTP calls, as clients of any kind send them.
//!
//! `TOOL {arguments}` is a tool call, `GET /path` with a body on the lines below is a plain one. The database stays from input to
//! input: whatever was stored must be listed afterwards.

use std::cell::RefCell;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use calypso_watch::taskd::store::Store;
use calypso_watch::taskd::{rest, tools};
use serde_json::{Map, Value};

use super::folder;

/// Calls until the database is made anew, so that lists stay short.
const CALLS: u32 = 500;

thread_local! {
    static WORLD: RefCell<Option<(Arc<Store>, tokio::runtime::Runtime, u32)>> = const { RefCell::new(None) };
}

pub(super) fn server(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_none_or(|(_, _, calls)| *calls > CALLS) {
            *world = None;
            *world = Some(fresh());
        }
        let (store, runtime, calls) = world.as_mut().expect("made just above");
        *calls += 1;
        runtime.block_on(async {
            for line in text.split("\n--\n") {
                call(store, line).await;
            }
            // Still a server, whatever was stored.
            let list = tools::call(store, "list_tasks", &Map::new()).await;
            assert!(!list.is_error, "{}", list.plain());
            serde_json::from_str::<Value>(&list.plain()).expect("a list is JSON");
        });
    });
}

fn fresh() -> (Arc<Store>, tokio::runtime::Runtime, u32) {
    let folder = folder("server");
    for name in ["t.db", "t.db-wal", "t.db-shm"] {
        std::fs::remove_file(folder.join(name)).ok();
    }
    let store = Store::open(&folder.join("t.db")).expect("a new database");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    (Arc::new(store), runtime, 0)
}

async fn call(store: &Arc<Store>, text: &str) {
    let (head, rest) = text.split_once(' ').unwrap_or((text, ""));
    if head.bytes().all(|byte| byte.is_ascii_uppercase()) && rest.starts_with('/') {
        let (path, body) = rest.split_once('\n').unwrap_or((rest, ""));
        let request = Request::builder()
            .method(head)
            .uri(path)
            .body(Body::from(body.to_owned()));
        if let Ok(request) = request {
            let answer = rest::answer(store.clone(), request).await;
            assert_ne!(answer.status().as_u16(), 500, "{text}");
            let told = to_bytes(answer.into_body(), usize::MAX)
                .await
                .expect("it is there");
            assert!(told.is_empty() || serde_json::from_slice::<Value>(&told).is_ok());
        }
    } else {
        let given: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
        let answer = tools::call(store, head, &given).await;
        assert!(answer.is_error || !answer.plain().is_empty(), "{text}");
    }
}
