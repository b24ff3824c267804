//! Connections: how many, for how long, and how they end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::bounded::Bounded;
use super::places::{Answer, Busy, Place, Places};
use super::web_config::WebConfig;

/// Limits for clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of connections. A further one replaces the oldest one that has sent no request or whose password waits to be checked, or
    /// else one whose client is behind with its response. While there is none, it waits.
    pub connections: u32,
    /// Time to send a whole request header, on a kept connection as well.
    pub header: Duration,
    /// Time to read a response, after which a client that does not read, or reads too slowly, is disconnected.
    pub answer: Duration,
    /// A client that reads nothing of its response for this time is behind: it gives way if others need its place or the memory.
    pub patience: Duration,
    /// Time for responses in progress at shutdown.
    pub drain: Duration,
}

/// The limits in use.
pub const LIMITS: Limits = Limits {
    connections: 64,
    header: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    patience: Duration::from_secs(2),
    drain: Duration::from_millis(700),
};

/// Interval at which a place is looked for while there is none.
const AGAIN: Duration = Duration::from_millis(10);

/// Longest request header in bytes.
const LONGEST_HEADER: usize = 16 * 1024;

/// Serves until `shutdown` resolves, then finishes the responses in progress. The web configuration decides whether connections use TLS.
/// `memory_is_wanted` is notified while a response waits for memory.
///
/// # Errors
/// If a listener cannot be used with the runtime.
pub async fn serve(
    listeners: Vec<std::net::TcpListener>,
    router: Router,
    web_config: Option<Arc<WebConfig>>,
    limits: Limits,
    memory_is_wanted: Arc<Notify>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let free = Arc::new(Semaphore::new(limits.connections as usize));
    let places = Arc::new(Places::default());
    let (end, ended) = watch::channel(());
    let mut acceptors = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let acceptor = Acceptor {
            listener: TcpListener::from_std(listener)?,
            router: router.clone(),
            web_config: web_config.clone(),
            limits,
            free: free.clone(),
            places: places.clone(),
            next: None,
            ended: ended.clone(),
        };
        acceptors.push(tokio::spawn(acceptor.run()));
    }
    let give_way = async {
        loop {
            memory_is_wanted.notified().await;
            places.give_up_those_behind();
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = give_way => {}
    }
    end.send_replace(());
    for acceptor in acceptors {
        // A failed acceptor serves no client any more.
        let _ = acceptor.await;
    }
    let all = free.acquire_many(limits.connections);
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        tracing::warn!("connections were still open at shutdown");
    }
    Ok(())
}

struct Acceptor {
    listener: TcpListener,
    router: Router,
    web_config: Option<Arc<WebConfig>>,
    limits: Limits,
    free: Arc<Semaphore>,
    places: Arc<Places>,
    /// Accepted, and waiting for a place.
    next: Option<TcpStream>,
    ended: watch::Receiver<()>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut ended = self.ended.clone();
        tokio::select! {
            never = self.accept() => match never {},
            _ = ended.changed() => {}
        }
        // Clients that have connected by now still get a response.
        while let Ok(permit) = self.free.clone().try_acquire_owned() {
            let stream = match self.next.take() {
                Some(stream) => stream,
                None => match self.listener.accept().now_or_never() {
                    Some(Ok((stream, _))) => stream,
                    _ => return,
                },
            };
            self.serve(stream, permit);
        }
    }

    async fn accept(&mut self) -> Infallible {
        let mut is_failing = false;
        loop {
            if self.next.is_none() {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        if std::mem::take(&mut is_failing) {
                            tracing::info!("connections are accepted again");
                        }
                        self.next = Some(stream);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(
                                %error,
                                "cannot accept connections; if there are too many open files, raise the limit (ulimit -n, LimitNOFILE=)"
                            );
                        }
                        // Without a pause this loop would spin.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                }
            }
            let permit = self.place().await;
            if let Some(stream) = self.next.take() {
                self.serve(stream, permit);
            }
        }
    }

    /// Waits for a free place, and makes others leave theirs if possible.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if self.free.available_permits() == 0 {
                // The other connections read what they were sent before this one goes on.
                tokio::task::yield_now().await;
                self.places.give_one_up();
            }
            let free = self.free.clone().acquire_owned();
            // It is never closed.
            if let Ok(Ok(permit)) = tokio::time::timeout(AGAIN, free).await {
                return permit;
            }
        }
    }

    fn serve(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let place = self.places.take();
        let connection = Connection {
            router: self.router.clone(),
            limits: self.limits,
            ended: self.ended.clone(),
            place: place.clone(),
            _permit: permit,
        };
        let (places, web_config) = (self.places.clone(), self.web_config.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection.begin(stream, web_config) => {}
                () = place.given_up() => {
                    tracing::debug!("closed a connection without a request or a verified password, or of a client that does not read, in favour of others");
                }
            }
            places.leave(&place);
        });
    }
}

struct Connection {
    router: Router,
    limits: Limits,
    ended: watch::Receiver<()>,
    place: Arc<Place>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn begin(self, stream: TcpStream, web_config: Option<Arc<WebConfig>>) {
        let Ok(tls) = web_config.map_or(Ok(None), |config| config.tls()) else {
            return tracing::debug!("closed a connection because TLS cannot be used");
        };
        let vanished = u32::try_from(self.limits.answer.as_millis()).unwrap_or(u32::MAX);
        // The kernel does not retransmit forever to a client that no longer exists.
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, vanished) {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
        // Otherwise the messages of a handshake and the parts of a response would wait for acknowledgements, 40 ms each time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let stream = Bounded::new(
            stream,
            self.limits.answer,
            self.limits.patience,
            self.place.client(),
        );
        let Some(tls) = tls else {
            return self.converse(stream).await;
        };
        match tokio::time::timeout(self.limits.header, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.converse(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake timed out"),
        }
    }

    async fn converse(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (router, place) = (TowerToHyperService::new(self.router.clone()), self.place);
        let answer = |mut request: hyper::Request<Incoming>| {
            let busy = Busy::begin(place.clone());
            request.extensions_mut().insert(place.clone());
            let response = hyper::service::Service::call(&router, request);
            async move {
                let response = response.await?;
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, busy)))
            }
        };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .max_buf_size(LONGEST_HEADER)
            .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
        let mut served = std::pin::pin!(served);
        let outcome = tokio::select! {
            // A request that has arrived is read before the shutdown is noticed. Otherwise an idle connection would be closed.
            biased;
            outcome = served.as_mut() => outcome,
            _ = self.ended.changed() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "connection closed early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_under_way_do_not_keep_it_from_ending_within_a_second() {
        assert!(LIMITS.drain < Duration::from_secs(1));
    }

    #[test]
    fn a_client_has_five_seconds_to_send_a_header() {
        assert_eq!(LIMITS.header, Duration::from_secs(5));
    }
}
