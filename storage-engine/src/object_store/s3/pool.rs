//! Connections to one host: kept open while young, bounded in number, never used again after anything odd.

use super::body::PartsBody;
use super::config::{Bucket, Limits};
use super::endpoint::Endpoint;
use super::net::{self, NetStream};
use super::outcome::Failure;
use futures::channel::oneshot;
use futures::future::select;
use futures_rustls::TlsConnector;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use rustls::pki_types::ServerName;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connections that are not in use.
pub(super) struct Pool {
    endpoint: Endpoint,
    tls: Option<TlsConnector>,
    connect_to: Vec<SocketAddr>,
    limits: Limits,
    idle: RefCell<Vec<Connection>>,
    resolved: RefCell<Option<(Instant, Vec<SocketAddr>)>>,
    /// Which address is next.
    turn: Cell<usize>,
}

/// A connection; closed when this is dropped.
pub(super) struct Connection {
    sender: SendRequest<PartsBody>,
    /// The task that drives the connection ends when this goes.
    _open: oneshot::Sender<()>,
    used: bool,
    idle_since: Instant,
}

/// An answer that has begun.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) connection: Connection,
}

impl Pool {
    pub(super) fn new(bucket: &Bucket, endpoint: Endpoint, tls: Option<TlsConnector>, limits: &Limits) -> Self {
        Pool {
            endpoint,
            tls,
            connect_to: bucket.connect_to.clone(),
            limits: limits.clone(),
            idle: RefCell::default(),
            resolved: RefCell::default(),
            turn: Cell::new(0),
        }
    }

    /// Sends a request and waits until its answer begins. `sent` tells, whatever becomes of this future, whether
    /// something may have left.
    pub(super) async fn send(
        &self,
        mut request: Request<PartsBody>,
        fresh_only: bool,
        sent: &Cell<bool>,
    ) -> Result<Answer, Failure> {
        loop {
            let kept = if fresh_only { None } else { self.kept().await };
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect_in_time().await?,
            };
            let stale = connection.used;
            sent.set(true);
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(Answer { response, connection }),
                Err(mut error) => match error.take_message() {
                    // It was closed before anything was written. A connection that was just made had its chance.
                    Some(unsent) if stale => {
                        sent.set(false);
                        request = unsent;
                    }
                    Some(_) => {
                        sent.set(false);
                        return Err(Failure::NotSent(error.into_error().to_string()));
                    }
                    None => {
                        let why = describe(&error.into_error());
                        return Err(Failure::Cut { why, stale });
                    }
                },
            }
        }
    }

    /// Takes a connection back once its answer was read to the end.
    pub(super) fn keep(&self, mut connection: Connection) {
        let now = Instant::now();
        connection.used = true;
        connection.idle_since = now;
        let mut idle = self.idle.borrow_mut();
        idle.retain(|kept| self.is_usable(kept, now));
        if idle.len() < self.limits.idle_connections_max && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }

    /// The connection that was used last, if it still is one.
    async fn kept(&self) -> Option<Connection> {
        loop {
            // The borrow ends before anything is awaited.
            let mut connection = self.idle.borrow_mut().pop()?;
            if self.is_usable(&connection, Instant::now()) && connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    fn is_usable(&self, connection: &Connection, now: Instant) -> bool {
        !connection.sender.is_closed() && now.duration_since(connection.idle_since) < self.limits.idle_timeout
    }

    async fn connect_in_time(&self) -> Result<Connection, Failure> {
        let limit = self.limits.connect_timeout;
        match net::within(limit, self.connect()).await {
            Some(connected) => connected.map_err(Failure::NotSent),
            None => Err(Failure::NotSent(format!(
                "no connection to {} in {limit:?}",
                self.endpoint.host
            ))),
        }
    }

    /// Tries the host's addresses in turn.
    async fn connect(&self) -> Result<Connection, String> {
        let host = &self.endpoint.host;
        let addresses = self.addresses().await?;
        let first = self.turn.get();
        self.turn.set(first.wrapping_add(1));
        let mut why = format!("{host} has no address");
        for at in 0..addresses.len() {
            let address = addresses[(first.wrapping_add(at)) % addresses.len()];
            match self.connect_to(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => why = format!("connect to {host} ({address}): {error}"),
            }
        }
        // The addresses may have changed.
        *self.resolved.borrow_mut() = None;
        Err(why)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Connection, String> {
        let tcp = net::connect(address).await.map_err(|error| error.to_string())?;
        let stream = match &self.tls {
            None => NetStream::plain(tcp),
            Some(tls) => {
                let host = self.endpoint.host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_string()).map_err(|error| error.to_string())?;
                NetStream::tls(tls.connect(name, tcp).await.map_err(|error| error.to_string())?)
            }
        };
        let (sender, connection) = http1::handshake(stream).await.map_err(|error| error.to_string())?;
        let (open, closed) = oneshot::channel::<()>();
        // To cancel a task would leak it, so it ends by itself when nobody holds the other end.
        net::spawn(async move {
            drop(select(Box::pin(connection), closed).await);
        });
        Ok(Connection {
            sender,
            _open: open,
            used: false,
            idle_since: Instant::now(),
        })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        if !self.connect_to.is_empty() {
            return Ok(self.connect_to.clone());
        }
        let fresh = |at: &Instant| at.elapsed() < self.limits.resolved_for;
        if let Some((_, addresses)) = self.resolved.borrow().as_ref().filter(|(at, _)| fresh(at)) {
            return Ok(addresses.clone());
        }
        let Endpoint { host, port, .. } = &self.endpoint;
        let addresses = net::resolve(host, *port)
            .await
            .map_err(|error| format!("resolve {host}: {error}"))?;
        *self.resolved.borrow_mut() = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

/// hyper's errors tell their cause only when asked.
pub(super) fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// How long `bytes` may take on top of everything else.
pub(super) fn transfer_time(limits: &Limits, bytes: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / limits.bytes_per_second_min.max(1) as f64)
}
