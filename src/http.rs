//! What is served on `listen`: metrics, health, status. Read-only.
//!
//! The `Host` header is checked, so that a page in somebody's browser cannot read a loopback address
//! by a name of its own (DNS rebinding).

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router, routing::get};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tidelock_core::{Code, Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::telemetry;

/// Connections at a time: well below the 1,024 descriptors that a process usually has.
const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request, the first or the next, may be on its way.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may last, be it that its client does not read the answer.
const CONNECTION_LIFE: Duration = Duration::from_secs(120);

#[derive(Clone)]
struct Shown {
    engine: Arc<Engine>,
    metrics: PrometheusHandle,
    host: Arc<str>,
}

/// What is served now, and where.
///
/// A change of address has two steps, so that one that fails leaves what is served as it was: the new
/// address is had by [`Http::bind`], then [`Http::swap`] serves there and closes the old one.
pub struct Http {
    engine: Arc<Engine>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
    /// The address in use, and what ends its server.
    current: Mutex<Option<(String, CancellationToken)>>,
}

/// What [`Http::swap`] is to do.
pub enum Bound {
    /// Nothing: the address stays.
    Same,
    /// Serve nothing.
    Nothing,
    /// Serve here.
    Here(String, TcpListener),
}

impl Http {
    /// Serves nothing yet, and nothing any more after `stop`.
    pub fn new(engine: Arc<Engine>, metrics: PrometheusHandle, stop: CancellationToken) -> Http {
        Http { engine, metrics, stop, current: Mutex::new(None) }
    }

    fn current(&self) -> MutexGuard<'_, Option<(String, CancellationToken)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes hold of an address, if it is another than the present one.
    pub async fn bind(&self, listen: Option<&str>) -> Result<Bound> {
        let now = self.current().as_ref().map(|(address, _)| address.clone());
        let Some(listen) = listen else {
            return Ok(if now.is_some() { Bound::Nothing } else { Bound::Same });
        };
        if now.as_deref() == Some(listen) {
            return Ok(Bound::Same);
        }
        let listener = TcpListener::bind(listen).await.map_err(|e| {
            let hint = match &now {
                Some(now) => {
                    format!("{now} is still served; choose another address by `listen`, or restart")
                }
                None => "choose another address by `listen`, or stop what uses it".to_owned(),
            };
            Error::setup(Code::Config, format!("cannot listen on {listen}: {e}")).with_hint(hint)
        })?;
        Ok(Bound::Here(listen.to_owned(), listener))
    }

    /// Serves at the new address and closes the old one; requests under way there are answered.
    /// Tells what was done, if anything.
    pub fn swap(&self, bound: Bound) -> Option<String> {
        let (next, done) = match bound {
            Bound::Same => return None,
            Bound::Nothing => (None, "listens no more".to_owned()),
            Bound::Here(listen, listener) => {
                let stop = self.stop.child_token();
                serve(&listen, listener, self.engine.clone(), self.metrics.clone(), stop.clone());
                let done = format!("listens on {listen}");
                (Some((listen, stop)), done)
            }
        };
        if let Some((_, stop)) = std::mem::replace(&mut *self.current(), next) {
            stop.cancel();
        }
        Some(done)
    }
}

fn serve(
    listen: &str,
    listener: TcpListener,
    engine: Arc<Engine>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let shown = Shown { engine, metrics, host: Arc::from(host) };
    let router = Router::new()
        .route("/", get(|| async { Html(include_str!("http/status.html")) }))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/status", get(status))
        .layer(middleware::from_fn_with_state(shown.clone(), check_host))
        .with_state(shown);
    tokio::spawn(accept(listener, router, stop));
}

/// Accepts connections, so many at a time; the next ones wait in the listener's queue.
async fn accept(listener: TcpListener, router: Router, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = next => next,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, _))) => {
                let answering = answer(stream, router.clone(), stop.clone());
                tokio::spawn(async move {
                    answering.await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                // Out of descriptors, most likely: it passes, and asking at once would only spin.
                tracing::warn!(%error, "http: a connection could not be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // Never: nobody closes the semaphore.
            (Err(_), Ok(_)) => return,
        }
    }
}

/// Answers the requests of one connection, none of which may keep us waiting.
async fn answer(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::time::timeout(CONNECTION_LIFE, async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        }
    });
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "http"),
        Err(_) => tracing::debug!("http: a connection has lasted long enough"),
    }
}

async fn check_host(State(shown): State<Shown>, request: Request, next: Next) -> Response {
    let host =
        request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let bare = name.trim_matches(['[', ']']);
    if bare == "localhost" || bare.parse::<IpAddr>().is_ok() || bare == &*shown.host {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "this name is not served here\n").into_response()
    }
}

async fn metrics_text(State(shown): State<Shown>) -> String {
    telemetry::render(&shown.metrics)
}

async fn ready(State(shown): State<Shown>) -> Response {
    if shown.engine.ready().await {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn status(State(shown): State<Shown>) -> Response {
    Json(shown.engine.status().await).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn send(address: std::net::SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream.write_all(text.as_bytes()).await.expect("send");
        stream
    }

    #[tokio::test]
    async fn requests_that_are_never_finished_hold_up_nobody_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "here" }));
        let serving = tokio::spawn(accept(listener, router, stop.clone()));
        let mut halves = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 20 {
            halves.push(send(address, "GET / HTTP/1.1\r\nHost: localhost\r\n").await);
        }
        let answered = tokio::time::timeout(4 * HEADER_WITHIN, async {
            let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut text = String::new();
            send(address, request).await.read_to_string(&mut text).await.expect("answer");
            for mut half in halves {
                // An answer or none, but an end.
                let _ended = half.read_to_end(&mut Vec::new()).await;
            }
            text
        });
        let text = answered.await.expect("an answer, and the end of the others, in time");
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("here"), "{text}");
        stop.cancel();
        serving.await.expect("no panic");
    }
}
