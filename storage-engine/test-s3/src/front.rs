//! The HTTP side: connections, the admin path, and what faults do to a request on its way to S3 and back.

use crate::faults::{Counters, Fate, Faults, Gone, Kind};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Collected, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderValue, CONTENT_LENGTH};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use s3s::Body;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch, Notify};
use tokio_rustls::TlsAcceptor;

/// The path that is no bucket's.
const ADMIN: &str = "/_faults";

#[derive(Debug)]
pub(crate) struct Front {
    s3: S3Service,
    faults: Mutex<Faults>,
    gone_until: Mutex<Option<Instant>>,
    counters: Mutex<Counters>,
    concurrent: AtomicU64,
    /// Grows whenever connections that are idle are to close.
    idle_closed: watch::Sender<u64>,
    /// Grows whenever faults change, so that what hangs looks again.
    changed: watch::Sender<u64>,
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

impl Front {
    pub(crate) fn new(s3: S3Service) -> Self {
        Front {
            s3,
            faults: Mutex::default(),
            gone_until: Mutex::default(),
            counters: Mutex::default(),
            concurrent: AtomicU64::new(0),
            idle_closed: watch::channel(0).0,
            changed: watch::channel(0).0,
        }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *lock(&self.gone_until) = faults.gone_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        *lock(&self.faults) = faults;
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn counters(&self) -> Counters {
        lock(&self.counters).clone()
    }

    pub(crate) fn close_idle_connections(&self) {
        self.idle_closed.send_modify(|times| *times += 1);
    }

    fn gone(&self) -> Option<Gone> {
        let over = lock(&self.gone_until).is_some_and(|until| until <= Instant::now());
        lock(&self.faults).gone.filter(|_| !over)
    }

    /// Waits while the server is gone. A request that came meanwhile is lost.
    async fn hang(&self) -> Cut {
        let mut changes = self.changed.subscribe();
        while self.gone() == Some(Gone::Hang) {
            let pause = tokio::time::sleep(Duration::from_millis(20));
            futures::future::select(Box::pin(changes.changed()), Box::pin(pause)).await;
        }
        Cut
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        if request.uri().path() == ADMIN {
            return Ok(self.administer(request).await);
        }
        match self.gone() {
            Some(Gone::Hang) => return Err(self.hang().await),
            Some(Gone::Refuse) => return Err(Cut),
            None => {}
        }
        let kind = kind(&request);
        let concurrent = Guard::enter(&self.concurrent);
        self.count(kind, &request, concurrent.now);
        let (delay, fate) = {
            let mut faults = lock(&self.faults);
            (faults.delay_ms.get(&kind).copied(), faults.deal(kind))
        };
        if let Some(ms) = delay {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        self.suffer(kind, fate, request).await
    }

    async fn suffer(&self, kind: Kind, fate: Fate, mut request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        match fate {
            Fate::CutBefore => return Err(Cut),
            Fate::AnswerBefore(status, code) => {
                // Whoever has not sent all yet might not read the answer of a server that closes.
                while request.body_mut().frame().await.is_some_and(|frame| frame.is_ok()) {}
                return Ok(error(status, &code));
            }
            _ => {}
        }
        if lock(&self.faults).ignore_conditions {
            // The signature covers the header, so it can only be forgotten further inside.
            request.headers_mut().insert(IGNORE_CONDITIONS, TRUE);
        }
        let answer = self.s3.call(request.map(Body::from)).await;
        lock(&self.counters).kinds.entry(kind).or_default().done += 1;
        match (fate, answer) {
            (Fate::CutAfter, _) => Err(Cut),
            (Fate::ErrorAfter, _) => Ok(error(500, "InternalError")),
            (Fate::ConflictAfter, _) => Ok(error(412, "PreconditionFailed")),
            (Fate::CutBody, Ok(response)) => Ok(cut_in_the_middle(response).await),
            (Fate::CorruptBody, Ok(response)) => Ok(corrupt(response).await),
            (_, Ok(response)) => Ok(response),
            (_, Err(_)) => Err(Cut),
        }
    }

    fn count(&self, kind: Kind, request: &Request<Incoming>, concurrent: u64) {
        let mut counters = lock(&self.counters);
        counters.concurrent_max = counters.concurrent_max.max(concurrent);
        let length = request.headers().get(CONTENT_LENGTH);
        let bytes = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let counts = counters.kinds.entry(kind).or_default();
        counts.requests += 1;
        counts.bytes += bytes.unwrap_or(0);
        if kind == Kind::Put {
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let fields = request.headers().iter();
            counters.last_put = fields.map(|(name, value)| (name.to_string(), text(value))).collect();
        }
    }

    async fn administer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::GET {
            let shown = serde_json::json!({ "faults": *lock(&self.faults), "counters": self.counters() });
            return Response::new(Body::from(shown.to_string()));
        }
        let body = whole(request.into_body().into()).await;
        match serde_json::from_slice(&body) {
            Ok(faults) => {
                self.set_faults(faults);
                Response::new(Body::from("{}".to_string()))
            }
            Err(error) => plain(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

/// Tells `directory` to forget about conditions.
pub(crate) const IGNORE_CONDITIONS: &str = "x-test-ignore-conditions";
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Counts who is inside.
struct Guard<'a> {
    concurrent: &'a AtomicU64,
    now: u64,
}

impl<'a> Guard<'a> {
    fn enter(concurrent: &'a AtomicU64) -> Self {
        let now = concurrent.fetch_add(1, Ordering::Relaxed) + 1;
        Guard { concurrent, now }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.concurrent.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kind(request: &Request<Incoming>) -> Kind {
    match *request.method() {
        Method::PUT => Kind::Put,
        Method::HEAD => Kind::Head,
        Method::GET if request.uri().query().is_some_and(|query| query.contains("list-type=2")) => Kind::List,
        Method::GET => Kind::Get,
        _ => Kind::Delete,
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

fn error(status: u16, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    plain(
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        text,
    )
}

async fn whole(body: Body) -> Bytes {
    let collected = BodyExt::collect(body).await;
    collected.map(Collected::to_bytes).unwrap_or_default()
}

/// The same response, whose body breaks off after its first half.
async fn cut_in_the_middle(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let bytes = whole(body).await;
    parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    let half = bytes.slice(..bytes.len() / 2);
    let frames = futures::stream::iter([Ok(Frame::data(half)), Err(Cut)]).then(|frame| async {
        // What was said before is to be on its way when the connection goes.
        tokio::time::sleep(Duration::from_millis(20)).await;
        frame
    });
    let body = Body::http_body_unsync(StreamBody::new(Box::pin(frames)));
    Response::from_parts(parts, body)
}

/// The same response with one bit that is wrong.
async fn corrupt(response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let mut bytes = whole(body).await.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// Serves until told to stop.
pub(crate) async fn serve(
    front: Arc<Front>,
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    stopped: oneshot::Receiver<()>,
) {
    let accepting = async {
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if front.gone() != Some(Gone::Refuse) {
                tokio::spawn(connection(front.clone(), stream, tls.clone()));
            }
        }
    };
    futures::future::select(Box::pin(accepting), stopped).await;
}

async fn connection(front: Arc<Front>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    {
        let mut counters = lock(&front.counters);
        counters.connections += 1;
        counters.open += 1;
        counters.open_max = counters.open_max.max(counters.open);
    }
    let _ = stream.set_nodelay(true);
    match tls {
        None => talk(&front, stream).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                talk(&front, stream).await;
            }
        }
    }
    lock(&front.counters).open -= 1;
}

async fn talk(front: &Arc<Front>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let busy = AtomicU64::new(0);
    let mut idle_closed = front.idle_closed.subscribe();
    let enough = Notify::new();
    let service = service_fn(|request| {
        let entered = Guard::enter(&busy);
        let enough = &enough;
        async move {
            let answer = front.answer(request).await;
            drop(entered);
            if lock(&front.faults).close_after_answer {
                enough.notify_one();
            }
            answer
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let closed = async {
        loop {
            if idle_closed.changed().await.is_err() {
                pending::<()>().await;
            }
            if busy.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    };
    let left = async {
        enough.notified().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let ended = futures::future::select(Box::pin(closed), Box::pin(left));
    futures::future::select(Box::pin(served), ended).await;
}

/// What remains of a body, all at once.
pub(crate) async fn collect(mut body: s3s::dto::StreamingBlob) -> io::Result<Vec<Bytes>> {
    let mut parts = Vec::new();
    while let Some(part) = body.next().await {
        parts.push(part.map_err(io::Error::other)?);
    }
    Ok(parts)
}
