//! The HTTP port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever supervises the broker, and what people
//! look at ([`crate::status`]).
//!
//! Just enough HTTP/1.1: GET and HEAD, one request per connection, everything bounded in size and time.

use crate::listener::ShardListener;
use crate::metrics::Gatherer;
use crate::quarantine::QuarantineBoard;
use crate::runtime::Runtime;
use crate::status::{Answer, Status};
use futures::future::{select, Either};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a request's head.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Connections at once; more are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// Time for a whole exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// Headers of every answer: nothing but our own files runs in a browser, whatever topics and groups are called, and nothing
/// is kept.
const EVERYWHERE: &str = "Content-Security-Policy: default-src 'self'; img-src data:; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Cache-Control: no-store\r\n";

/// Whether the broker serves. Clones are one and the same, on any thread.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    phase: Arc<AtomicU8>,
    quarantine: QuarantineBoard,
}

/// What a broker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It opens its stores and does not serve yet.
    Starting = 0,
    /// It serves.
    Serving = 1,
    /// It takes nothing new, and will end.
    Draining = 2,
}

impl Readiness {
    /// A broker that is starting and writes the partitions that it refuses on this board.
    pub fn new(quarantine: QuarantineBoard) -> Self {
        Readiness {
            phase: Arc::default(),
            quarantine,
        }
    }

    /// Tells what the broker is doing now.
    pub fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// What `/readyz` shows of a broker that serves: a line for each partition that it refuses.
    fn serving(&self) -> String {
        let refused = self.quarantine.all().into_iter();
        let lines = refused.map(|((topic, partition), why)| format!("\nquarantined: {topic}-{partition}: {why}"));
        "ok".to_string() + &lines.collect::<String>()
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }
}

/// The server. It runs on one shard.
pub struct HttpServer {
    gatherer: Gatherer,
    /// What people look at, if there is a broker behind it.
    status: Option<Status>,
    readiness: Readiness,
    runtime: Rc<dyn Runtime>,
    open: Cell<usize>,
}

struct Response {
    status: &'static str,
    content_type: &'static str,
    body: String,
    head_only: bool,
}

impl Response {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Response {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into() + "\n",
            head_only: false,
        }
    }
}

impl HttpServer {
    /// A server with nothing open.
    pub fn new(gatherer: Gatherer, status: Option<Status>, readiness: Readiness, runtime: Rc<dyn Runtime>) -> Rc<Self> {
        Rc::new(HttpServer {
            gatherer,
            status,
            readiness,
            runtime,
            open: Cell::new(0),
        })
    }

    /// Serves until the listener is closed.
    pub async fn serve(self: Rc<Self>, listener: Rc<ShardListener>) {
        while let Some(stream) = listener.accept().await {
            if self.open.get() >= CONNECTIONS_MAX {
                continue;
            }
            self.open.set(self.open.get() + 1);
            let server = self.clone();
            let task = async move {
                // A mistake here must not take the records' side down.
                if AssertUnwindSafe(server.serve_connection(stream))
                    .catch_unwind()
                    .await
                    .is_err()
                {
                    log::error!("answering an HTTP request panicked");
                }
                server.open.set(server.open.get() - 1);
            };
            self.runtime.spawn("http", Box::pin(task));
        }
    }

    /// Answers the one request of a connection, or gives up on it.
    pub async fn serve_connection(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let exchange = pin!(async {
            let Some(response) = self.respond(&mut stream).await else {
                return;
            };
            let head = format!(
                "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{EVERYWHERE}Connection: close\r\n\r\n",
                response.status,
                response.content_type,
                response.body.len()
            );
            // Whoever left without waiting for the answer does not need it.
            if stream.write_all(head.as_bytes()).await.is_ok() && !response.head_only {
                let _ = stream.write_all(response.body.as_bytes()).await;
            }
            let _ = stream.close().await;
        });
        if let Either::Right(_) = select(exchange, self.runtime.sleep(EXCHANGE_TIMEOUT)).await {
            log::debug!("an HTTP request took longer than {EXCHANGE_TIMEOUT:?}");
        }
    }

    /// Reads a request; none if the peer leaves before it is whole.
    async fn respond(&self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Response> {
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                return Some(Response::text(
                    "431 Request Header Fields Too Large",
                    "the request is too large",
                ));
            }
            filled += match stream.read(&mut buffer[filled..]).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => n,
            };
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&buffer[..filled]) {
                Ok(httparse::Status::Partial) => {}
                Ok(httparse::Status::Complete(_)) => {
                    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
                    return Some(self.answer(method, target).await);
                }
                Err(error) => return Some(Response::text("400 Bad Request", error.to_string())),
            }
        }
    }

    /// What a broker that serves says: `ok`, and what it cannot serve.
    fn ready(&self) -> String {
        let unreadable = self.status.as_ref().map(Status::unreadable).unwrap_or_default();
        let lines = unreadable.iter();
        let lines = lines.map(|(key, reason)| format!("\nmetastore value {key} cannot be read: {reason}"));
        std::iter::once(self.readiness.serving()).chain(lines).collect()
    }

    async fn shown(&self, target: &str) -> Option<Answer> {
        self.status.as_ref()?.answer(target).await
    }

    async fn answer(&self, method: &str, target: &str) -> Response {
        if !matches!(method, "GET" | "HEAD") {
            return Response::text("405 Method Not Allowed", "GET or HEAD");
        }
        let path = target.split('?').next().unwrap_or_default();
        let response = match path {
            "/metrics" => match self.gatherer.page().await {
                Ok(body) => Response {
                    status: "200 OK",
                    content_type: "text/plain; version=0.0.4; charset=utf-8",
                    body,
                    head_only: false,
                },
                Err(why) => Response::text("503 Service Unavailable", why),
            },
            "/healthz" => Response::text("200 OK", "ok"),
            "/readyz" => match self.readiness.phase() {
                Phase::Serving => Response::text("200 OK", self.ready()),
                Phase::Starting => Response::text("503 Service Unavailable", "starting"),
                Phase::Draining => Response::text("503 Service Unavailable", "draining"),
            },
            _ => match self.shown(target).await {
                Some(answer) => Response {
                    status: answer.status,
                    content_type: answer.content_type,
                    body: answer.body,
                    head_only: false,
                },
                None => Response::text("404 Not Found", "try /, /api/v1/, /metrics, /healthz or /readyz"),
            },
        };
        Response {
            head_only: method == "HEAD",
            ..response
        }
    }
}

#[cfg(test)]
mod tests;
