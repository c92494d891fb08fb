//! `doppelfs metrics`: numbers as Prometheus reads them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore};

use super::run::Outcome;
use super::show::{ask_all, collect_status};
use crate::control::{self, Reply, Request, Service};
use crate::metrics::{CONTENT_TYPE, encode, gather};
use crate::stats::{Snapshot, TargetNumbers};
use crate::supervisor::Ready;
use crate::types::SetName;

/// A client may take so long to say what it wants.
const HEADER_PATIENCE: Duration = Duration::from_secs(2);

/// And so long for all of it; a worker that does not answer is waited for meanwhile.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// Connections at one time.
const CONNECTION_COUNT_MAX: usize = 64;

/// Longest head of a request.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Everything that the sets and targets of this host say of themselves, as text.
fn collect(run_dir: &Path) -> anyhow::Result<String> {
    let report = collect_status(run_dir, None)?;
    let up = report.sets.iter().filter(|set| set.worker_pid != 0);
    let sets = up.filter_map(|set| SetName::new(&set.name).ok());
    let sets = sets.map(Service::Set).collect();
    let asked = ask_all(run_dir, sets, &Request::Stats, control::ANSWER_PATIENCE);
    let snapshots = asked.into_iter().filter_map(|asked| match asked.said {
        Ok(Reply::Stats(snapshot)) => Some(*snapshot),
        Ok(_) | Err(_) => None,
    });
    let snapshots: Vec<Snapshot> = snapshots.collect();
    let services = control::list_services(run_dir)?.into_iter();
    let targets: Vec<Service> = services
        .filter(|service| matches!(service, Service::Target(_)))
        .collect();
    let asked = ask_all(run_dir, targets, &Request::Stats, control::ANSWER_PATIENCE);
    let numbers = asked.into_iter().filter_map(|asked| match asked.said {
        Ok(Reply::TargetStats(numbers)) => Some(*numbers),
        // It ends just now, or was reported as one that does not answer.
        Ok(_) | Err(_) => None,
    });
    let numbers: Vec<TargetNumbers> = numbers.collect();
    Ok(encode(gather(&report, &snapshots, &numbers)))
}

/// Prints them once.
pub(super) fn print(run_dir: &Path) -> anyhow::Result<Outcome> {
    std::io::stdout().write_all(collect(run_dir)?.as_bytes())?;
    Ok(Outcome::Yes)
}

/// Where it listens unless told otherwise.
const LISTEN_DEFAULT: &str = "127.0.0.1:7421";

/// What each request needs.
#[derive(Debug, Clone)]
struct Exporter {
    run_dir: PathBuf,
    /// What was collected last, and when; held while somebody collects, so that many who ask cost as much as one.
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

/// What was collected is good for so long.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Serves them over HTTP until it is told to end.
pub(super) fn serve(run_dir: &Path, listen: Option<SocketAddr>) -> anyhow::Result<Outcome> {
    let address = match listen {
        Some(address) => address,
        None => LISTEN_DEFAULT.parse().context("the default address")?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}; name another with --listen"))?;
        let address = listener.local_addr().context("where it listens")?;
        let exporter = Exporter {
            run_dir: run_dir.to_owned(),
            last: Arc::default(),
        };
        let routes = Router::new()
            .route("/metrics", get(scrape))
            .route(
                "/",
                get(|| async { "doppelfs: the numbers are at /metrics\n" }),
            )
            .with_state(exporter);
        Ready::on_stdout().serving(&format!(
            "doppelfs metrics: serving on http://{address}/metrics"
        ));
        tokio::select! {
            () = accept(listener, routes) => Ok(()),
            told = told_to_end() => told.context("signals"),
        }
    })?;
    Ok(Outcome::Yes)
}

/// Serves each connection once, so many at a time.
async fn accept(listener: TcpListener, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEADER_PATIENCE)
                .keep_alive(false)
                .max_buf_size(REQUEST_BYTES_MAX);
            let served = http.serve_connection(TokioIo::new(socket), service);
            // Whoever goes, or takes nothing, has no other answer to expect.
            let _ = tokio::time::timeout(CLIENT_PATIENCE, served).await;
            drop(place);
        });
    }
}

async fn told_to_end() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn scrape(State(exporter): State<Exporter>) -> Response {
    let mut last = Arc::clone(&exporter.last).lock_owned().await;
    // The lock goes along: it is held until the work is done, also when whoever asked has gone.
    let asked = tokio::task::spawn_blocking(move || {
        if let Some((at, text)) = &*last
            && at.elapsed() < GOOD_FOR
        {
            return Ok(text.clone());
        }
        let text = collect(&exporter.run_dir)?;
        *last = Some((Instant::now(), text.clone()));
        anyhow::Ok(text)
    });
    let asked = asked.await;
    match asked {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "ending\n").into_response(),
    }
}
