//! What is served on `listen`: metrics, health, status. Read-only.
//!
//! The `Host` header is checked, so that a page in somebody's browser cannot read a loopback address
//! by a name of its own (DNS rebinding).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tidelock_core::{Code, Error, Result};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

#[derive(Clone)]
struct Shown {
    engine: Arc<Engine>,
    metrics: PrometheusHandle,
    host: Arc<str>,
}

/// Serves until `stop`; fails at once if the address cannot be had.
pub async fn serve(
    listen: &str,
    engine: Arc<Engine>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|e| {
        Error::setup(Code::Config, format!("cannot listen on {listen}: {e}"))
            .with_hint("choose another address by `listen`, or stop what uses it")
    })?;
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
    Ok(())
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
