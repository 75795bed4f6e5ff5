//! What is served on `listen`: metrics, health, status. Read-only.
//!
//! The `Host` header is checked, so that a page in somebody's browser cannot read a loopback address
//! by a name of its own (DNS rebinding).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tidelock_core::{Code, Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

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
    tokio::spawn(async move {
        let serving = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = serving.await {
            tracing::error!(%error, "http");
        }
    });
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
    shown.metrics.run_upkeep();
    shown.metrics.render()
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
