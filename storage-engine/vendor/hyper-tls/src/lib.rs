//! Stands in for the crate hyper-tls, which rusoto_core names in the type of its own HTTP client and cannot be built
//! without. That client is never made here (the S3 store brings its transport), so this one connects to nothing; and
//! OpenSSL, which the real crate would bring, stays out of the build. `[patch.crates-io]` in the workspace puts it there.

use hyper::{service::Service, Uri};
use std::{future, marker::PhantomData, task};

/// A connector that refuses.
#[derive(Debug, Clone)]
pub struct HttpsConnector<T>(PhantomData<T>);

impl HttpsConnector<hyper::client::HttpConnector> {
    /// A connector that refuses.
    #[allow(clippy::new_without_default, reason = "the name is the real crate's")]
    pub fn new() -> Self {
        HttpsConnector(PhantomData)
    }
}

impl<T> Service<Uri> for HttpsConnector<T> {
    type Response = tokio::net::TcpStream;
    type Error = &'static str;
    type Future = future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        future::ready(Err("rusoto's own HTTP client is not used here"))
    }
}
