//! HTTP for the sources: small requests to instance metadata, container endpoints and STS, each with a deadline.

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use reqsign_core::{Error, HttpSend, Result};
use std::sync::Arc;
use std::time::Duration;

/// Metadata services are next door and answer at once, or are not there; STS takes a second.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer's bytes at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;

type Connected<C> = Client<C, Full<Bytes>>;

#[derive(Debug)]
enum Inner {
    /// Plain HTTP and HTTPS.
    Both(Connected<HttpsConnector<HttpConnector>>),
    /// The system trusts no authority, so that only plain HTTP works.
    Plain(Connected<HttpConnector>, String),
}

#[derive(Debug)]
pub(crate) struct HttpClient {
    inner: Inner,
    /// Stands in for every host of STS.
    sts: Option<String>,
}

impl HttpClient {
    pub(crate) fn new(sts: Option<String>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
        let builder = Client::builder(TokioExecutor::new());
        let inner = match roots {
            Ok(roots) => Inner::Both(builder.build(roots.https_or_http().enable_http1().build())),
            Err(error) => Inner::Plain(builder.build(HttpConnector::new()), error.to_string()),
        };
        HttpClient { inner, sts }
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>> {
        if let Some(sts) = &self.sts {
            redirect(request.uri_mut(), sts)?;
        }
        let host = request.uri().host().unwrap_or("").to_string();
        let failed = |error: String| Error::unexpected(format!("{host}: {error}")).set_retryable(true);
        let request = request.map(Full::new);
        let answer = match &self.inner {
            Inner::Both(client) => client.request(request).await,
            Inner::Plain(client, _) if request.uri().scheme() == Some(&Scheme::HTTP) => client.request(request).await,
            Inner::Plain(_, why) => return Err(failed(why.clone())),
        };
        let (parts, body) = answer.map_err(|error| failed(describe(&error)))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}

impl HttpSend for HttpClient {
    async fn http_send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let host = request.uri().host().unwrap_or("").to_string();
        match tokio::time::timeout(TIMEOUT, self.send(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::unexpected(format!(
                "{host}: no answer within {} s",
                TIMEOUT.as_secs()
            ))),
        }
    }
}

/// The first cause says the most: "connection refused" behind "client error (Connect)".
fn describe(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Sends what is for STS to `endpoint`, which is what `AWS_ENDPOINT_URL_STS` is for in the SDKs.
fn redirect(uri: &mut Uri, endpoint: &str) -> Result<()> {
    let host = uri.host().unwrap_or("");
    if !(host.starts_with("sts.") && host.contains(".amazonaws.com")) {
        return Ok(());
    }
    let illegal = |error: String| Error::config_invalid(format!("AWS_ENDPOINT_URL_STS {endpoint:?}: {error}"));
    let parsed: Uri = endpoint
        .parse()
        .map_err(|error: http::uri::InvalidUri| illegal(error.to_string()))?;
    let authority: Authority = parsed
        .authority()
        .cloned()
        .ok_or_else(|| illegal("no host".to_string()))?;
    let scheme = parsed
        .scheme()
        .cloned()
        .ok_or_else(|| illegal("neither http nor https".to_string()))?;
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    *uri = Uri::from_parts(parts).map_err(|error| illegal(error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sts_is_redirected() {
        for (uri, expected) in [
            ("https://sts.amazonaws.com/", "http://127.0.0.1:9/"),
            ("https://sts.eu-west-1.amazonaws.com/", "http://127.0.0.1:9/"),
            (
                "http://169.254.169.254/latest/api/token",
                "http://169.254.169.254/latest/api/token",
            ),
        ] {
            let mut uri: Uri = uri.parse().unwrap();
            redirect(&mut uri, "http://127.0.0.1:9").unwrap();
            assert_eq!(uri.to_string(), expected);
        }
        let mut uri: Uri = "https://sts.amazonaws.com/".parse().unwrap();
        assert!(redirect(&mut uri, "127.0.0.1").is_err());
    }
}
