//! One request and its answer: rusoto's typed requests in, signed and sent by our own transport.
//!
//! rusoto hands its errors on as texts, unwraps what servers send, and reads truncated XML for ever. So an exchange keeps
//! failure and answer to itself, and rusoto gets an answer without headers or content.

use super::body::PartsBody;
use super::config::{Bucket, Limits};
use super::credentials::CredentialsHandle;
use super::endpoint::Endpoint;
use super::outcome::Failure;
use super::pool::{self, Answer, Pool};
use crate::object_store::StoreError;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_rustls::TlsConnector;
use http_body::Body;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::Request;
use rusoto_core::credential::AwsCredentials;
use rusoto_core::request::{DispatchSignedRequestFuture, HttpDispatchError, HttpResponse};
use rusoto_core::signature::SignedRequest;
use rusoto_core::{ByteStream, Client, DispatchSignedRequest, Region};
use rusoto_s3::S3Client;
use send_wrapper::SendWrapper;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// Bytes of an answer that is not an object's content, at most: a thousand keys of a thousand bytes, each byte as `%XX`.
const XML_BYTES_MAX: u64 = 8 << 20;

/// Room that is made for an answer before any of it has come.
const RESERVE_BYTES_MAX: u64 = 32 << 20;

const USER_AGENT: &str = concat!("kafscale/", env!("CARGO_PKG_VERSION"));

/// A bucket and the way there.
pub(super) struct Remote {
    pub(super) bucket: String,
    region: Region,
    endpoint: Endpoint,
    credentials: CredentialsHandle,
    pool: Pool,
}

impl Remote {
    pub(super) fn new(
        bucket: &Bucket,
        path_style: bool,
        tls: Option<&TlsConnector>,
        credentials: CredentialsHandle,
        limits: &Limits,
    ) -> Result<Self, StoreError> {
        let endpoint = Endpoint::of(bucket, path_style)?;
        let tls = tls.filter(|_| endpoint.tls).cloned();
        Ok(Remote {
            bucket: bucket.name.clone(),
            region: Region::Custom {
                name: bucket.region.clone(),
                endpoint: endpoint.authority(),
            },
            pool: Pool::new(bucket, endpoint.clone(), tls, limits),
            endpoint,
            credentials,
        })
    }
}

/// An answer that is no error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) bytes: Bytes,
    pub(super) content_length: Option<u64>,
    pub(super) content_range: Option<String>,
    pub(super) crc32c: Option<String>,
}

/// One attempt.
pub(super) struct Exchange {
    remote: Rc<Remote>,
    headers: Vec<(&'static str, String)>,
    fresh_only: bool,
    answer_max: u64,
    sent: Cell<bool>,
    failure: RefCell<Option<Failure>>,
    reply: RefCell<Reply>,
}

impl Exchange {
    pub(super) fn new(remote: &Rc<Remote>, fresh_only: bool) -> Self {
        Exchange {
            remote: remote.clone(),
            headers: Vec::new(),
            fresh_only,
            answer_max: XML_BYTES_MAX,
            sent: Cell::new(false),
            failure: RefCell::default(),
            reply: RefCell::default(),
        }
    }

    /// Another header, to be signed with the others.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// No answer may be longer, but for errors.
    pub(super) fn answer_max(mut self, bytes: u64) -> Self {
        self.answer_max = bytes;
        self
    }

    /// Runs what `call` makes of a client that sends by this exchange, for at most `limit`.
    pub(super) async fn run<T, E, F>(self, limit: Duration, call: impl FnOnce(S3Client) -> F) -> Result<Reply, Failure>
    where
        E: Display,
        F: Future<Output = Result<T, E>>,
    {
        let exchange = Rc::new(self);
        let client = Client::new_not_signing(Dispatcher(SendWrapper::new(exchange.clone())));
        let client = S3Client::new_with_client(client, exchange.remote.region.clone());
        match super::net::within(limit, call(client)).await {
            Some(Ok(_)) => Ok(exchange.reply.take()),
            Some(Err(error)) => {
                let failure = exchange.failure.take();
                Err(failure.unwrap_or_else(|| Failure::Damaged(error.to_string())))
            }
            None if exchange.sent.get() => Err(Failure::Cut {
                why: format!("nothing in {limit:?}"),
                stale: false,
            }),
            None => Err(Failure::NotSent(format!("not begun in {limit:?}"))),
        }
    }

    async fn send(&self, mut request: SignedRequest) -> Result<HttpResponse, Failure> {
        let Remote { bucket, endpoint, .. } = &*self.remote;
        request.path = endpoint.path(bucket, &request.path).to_string();
        request.set_hostname(Some(endpoint.authority()));
        request.add_header("user-agent", USER_AGENT);
        for (name, value) in &self.headers {
            request.add_header(name, value);
        }
        request.sign(&self.keys()?);
        let request = to_http(request)?;
        let taken = request.body().taken();
        let Answer { response, connection } = self.remote.pool.send(request, self.fresh_only, &self.sent).await?;
        let (parts, body) = response.into_parts();
        let success = parts.status.is_success();
        let answer_max = if success { self.answer_max } else { XML_BYTES_MAX };
        let received = receive(body, answer_max).await;
        // Otherwise the rest of a body that nobody wants is still on its way.
        if taken.get() && received.is_ok() {
            self.remote.pool.keep(connection);
        }
        let status = parts.status.as_u16();
        if !success {
            return Err(answered(status, &received.unwrap_or_default()));
        }
        *self.reply.borrow_mut() = reply(status, &parts.headers, received?);
        Ok(HttpResponse {
            status: http::StatusCode::from_u16(status).map_err(|error| Failure::Damaged(error.to_string()))?,
            headers: http::HeaderMap::default(),
            body: ByteStream::from(Vec::new()),
        })
    }

    fn keys(&self) -> Result<AwsCredentials, Failure> {
        let credentials = self.remote.credentials.get();
        if credentials.expires.is_some_and(|end| end <= SystemTime::now()) {
            return Err(Failure::NotSent("the credentials have expired".to_string()));
        }
        Ok(AwsCredentials::new(
            credentials.access_key.clone(),
            credentials.secret_key.clone(),
            credentials.session_token.clone(),
            credentials.expires.map(DateTime::<Utc>::from),
        ))
    }
}

/// What rusoto's client sends by.
struct Dispatcher(SendWrapper<Rc<Exchange>>);

impl DispatchSignedRequest for Dispatcher {
    fn dispatch(&self, request: SignedRequest, _timeout: Option<Duration>) -> DispatchSignedRequestFuture {
        let exchange = Rc::clone(&self.0);
        // A shard's futures never leave their thread, so the wrapper's check never fails.
        Box::pin(SendWrapper::new(async move {
            exchange.send(request).await.map_err(|failure| {
                let text = format!("{failure:?}");
                *exchange.failure.borrow_mut() = Some(failure);
                HttpDispatchError::new(text)
            })
        }))
    }
}

fn to_http(request: SignedRequest) -> Result<Request<PartsBody>, Failure> {
    let unsendable = |error: &dyn Display| Failure::NotSent(format!("the request cannot be sent: {error}"));
    let mut uri = request.canonical_uri.clone();
    if !request.canonical_query_string.is_empty() {
        uri = format!("{uri}?{}", request.canonical_query_string);
    }
    let mut builder = Request::builder().method(request.method.as_str()).uri(uri);
    for (name, values) in &request.headers {
        for value in values {
            builder = builder.header(name.as_str(), value.as_slice());
        }
    }
    let length = request.headers.get("content-length").and_then(|values| values.first());
    let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
    let body = PartsBody::new(request.payload, length.unwrap_or(0));
    builder.body(body).map_err(|error| unsendable(&error))
}

/// Reads an answer to its end. One that comes in one piece is not copied.
async fn receive(mut body: Incoming, max: u64) -> Result<Bytes, Failure> {
    let promised = body.size_hint().exact().unwrap_or(0).min(RESERVE_BYTES_MAX);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Failure::Cut {
            why: pool::describe(&error),
            stale: false,
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (first.len() + all.len() + data.len()) as u64 > max {
            return Err(Failure::Damaged(format!("it is longer than {max} bytes")));
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.reserve((promised as usize).max(first.len() + data.len()));
            all.extend_from_slice(&first);
            first = Bytes::new();
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn reply(status: u16, headers: &HeaderMap, bytes: Bytes) -> Reply {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_string());
    Reply {
        status,
        bytes,
        content_length: text("content-length").and_then(|length| length.parse().ok()),
        content_range: text("content-range"),
        crc32c: text("x-amz-checksum-crc32c"),
    }
}

/// What an error's body says. It is `<Error><Code>..</Code><Message>..</Message>...</Error>`, or nothing of the kind
/// where a proxy answers.
fn answered(status: u16, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(body);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (content, _) = rest.split_once(&format!("</{name}>"))?;
        Some(content.trim().to_string())
    };
    Failure::Answered {
        status,
        code: element("Code").unwrap_or_default(),
        message: element("Message").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_code_and_message_are_read() {
        let body = b"<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>";
        let expected = Failure::Answered {
            status: 503,
            code: "SlowDown".to_string(),
            message: "Reduce your rate".to_string(),
        };
        assert_eq!(answered(503, body), expected);
    }

    #[test]
    fn errors_that_s3_did_not_write_have_no_code() {
        for body in [
            &b""[..],
            b"<html>Bad Gateway</html>",
            b"<Code>",
            b"\xff\xfe",
            b"</Code><Code>",
        ] {
            let failure = answered(502, body);
            assert!(
                matches!(&failure, Failure::Answered { code, .. } if code.is_empty()),
                "{failure:?}"
            );
        }
    }
}
