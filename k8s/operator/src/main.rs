//! Keeps brokers on Kubernetes as their `KafscaleCluster` says.

mod crd;
mod desired;
mod metrics;
mod reconcile;
mod status;

use std::process::ExitCode;
use std::sync::Arc;

const USAGE: &str = "kafscale-operator run    reconciles until SIGTERM
kafscale-operator crds   prints the definitions of the custom resources

KAFSCALE_OPERATOR_BROKER_IMAGE   image of the brokers where a cluster names none (needed by run)
KAFSCALE_OPERATOR_METRICS_ADDR   where /metrics and /healthz are served (0.0.0.0:8080)
RUST_LOG                         which lines are logged (info)";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("crds") => crd::definitions()
            .map(|text| print!("{text}"))
            .map_err(|error| error.to_string()),
        Some("run") => run(),
        _ => Err(USAGE.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let image = std::env::var("KAFSCALE_OPERATOR_BROKER_IMAGE")
        .map_err(|_| "set KAFSCALE_OPERATOR_BROKER_IMAGE".to_string())?;
    let address = std::env::var("KAFSCALE_OPERATOR_METRICS_ADDR").unwrap_or_else(|_| "0.0.0.0:8080".to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(&address)
            .await
            .map_err(|error| format!("listen on {address}: {error}"))?;
        let client = kube::Client::try_default()
            .await
            .map_err(|error| format!("find the API server: {error}"))?;
        let metrics = Arc::new(metrics::Metrics::default());
        let server = tokio::spawn(metrics::serve(listener, metrics.clone()));
        log::info!("reconciling; metrics on {address}");
        reconcile::run(client, image, metrics).await;
        server.abort();
        Ok(())
    })
}
