//! Connections: how many, for how long, and how they end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::bounded::Bounded;
use super::web_config::WebConfig;

/// Bounds on what clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at once; a further one waits in the listener's own queue.
    pub connections: u32,
    /// Time to send a whole request header, on a kept connection as well.
    pub header: Duration,
    /// Time to take an answer, after which a client that does not read, or reads too slowly, is dropped.
    pub answer: Duration,
    /// Time for answers under way when the server is told to end.
    pub drain: Duration,
}

/// The bounds in force.
pub const LIMITS: Limits = Limits {
    connections: 64,
    header: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    drain: Duration::from_millis(700),
};

/// Longest request header in bytes.
const LONGEST_HEADER: usize = 16 * 1024;

/// Serves until `shutdown` resolves, then finishes the answers under way. The web config says whether connections are TLS.
///
/// # Errors
/// When a listener cannot be used with the runtime.
pub async fn serve(
    listeners: Vec<std::net::TcpListener>,
    router: Router,
    web_config: Option<Arc<WebConfig>>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let free = Arc::new(Semaphore::new(limits.connections as usize));
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
            ended: ended.clone(),
        };
        acceptors.push(tokio::spawn(acceptor.run()));
    }
    shutdown.await;
    end.send_replace(());
    for acceptor in acceptors {
        // An acceptor that failed has nobody left to serve.
        let _ = acceptor.await;
    }
    let all = free.acquire_many(limits.connections);
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        tracing::warn!("connections were still open at the end");
    }
    Ok(())
}

struct Acceptor {
    listener: TcpListener,
    router: Router,
    web_config: Option<Arc<WebConfig>>,
    limits: Limits,
    free: Arc<Semaphore>,
    ended: watch::Receiver<()>,
}

impl Acceptor {
    async fn run(self) {
        let mut ended = self.ended.clone();
        tokio::select! {
            never = self.accept() => match never {},
            _ = ended.changed() => {}
        }
        // Who has connected by now has been promised an answer.
        while let Ok(permit) = self.free.clone().try_acquire_owned()
            && let Some(Ok((stream, _))) = self.listener.accept().now_or_never()
        {
            self.serve(stream, permit);
        }
    }

    async fn accept(&self) -> Infallible {
        loop {
            let Ok(permit) = self.free.clone().acquire_owned().await else {
                // It is never closed.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => self.serve(stream, permit),
                Err(error) => {
                    // Out of descriptors, mostly: without a pause this loop would spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let connection = Connection {
            router: self.router.clone(),
            limits: self.limits,
            ended: self.ended.clone(),
            _permit: permit,
        };
        tokio::spawn(connection.begin(stream, self.web_config.clone()));
    }
}

struct Connection {
    router: Router,
    limits: Limits,
    ended: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn begin(self, stream: TcpStream, web_config: Option<Arc<WebConfig>>) {
        let Ok(tls) = web_config.map_or(Ok(None), |config| config.tls()) else {
            return tracing::debug!("a connection was closed: there is no TLS for it");
        };
        let vanished = u32::try_from(self.limits.answer.as_millis()).unwrap_or(u32::MAX);
        // What the kernel has taken is not sent for ever to a client that is no more.
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, vanished) {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
        // A handshake's messages and an answer's parts would wait for each other's acknowledgement, 40 ms each time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let stream = Bounded::new(stream, self.limits.answer);
        let Some(tls) = tls else {
            return self.converse(stream).await;
        };
        match tokio::time::timeout(self.limits.header, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.converse(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn converse(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .max_buf_size(LONGEST_HEADER)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        let mut served = std::pin::pin!(served);
        let outcome = tokio::select! {
            // A request that has arrived is read before the end is seen: an idle connection would be closed.
            biased;
            outcome = served.as_mut() => outcome,
            _ = self.ended.changed() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection ended early");
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
