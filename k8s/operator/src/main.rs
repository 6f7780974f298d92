//! Keeps brokers on Kubernetes as their `KafscaleCluster` says, and topics as their `KafscaleTopic`.

mod crd;
mod desired;
mod etcd;
mod leader;
mod listeners;
mod metrics;
mod nodes;
mod reconcile;
mod settings;
mod status;
mod topic;
mod writes;

use std::process::ExitCode;
use std::sync::Arc;

const COMMANDS: &str = "\
kafscale-operator run               reconciles until SIGTERM
kafscale-operator crds              prints the definitions of the custom resources
kafscale-operator etcd-snapshot     takes a snapshot of etcd and uploads it: what the operator's CronJob runs
kafscale-operator etcd-defragment   defragments etcd, one member after another: likewise
kafscale-operator etcd-restore      fills the empty volume of a member of etcd: likewise, before the member starts
";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    // For all that speaks TLS here. It fails only if there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match std::env::args().nth(1).as_deref() {
        Some("etcd-snapshot") => return tool(etcd::tools::snapshot()),
        Some("etcd-defragment") => return tool(etcd::tools::defragment()),
        Some("etcd-restore") => return tool(etcd::tools::restore()),
        _ => {}
    }
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("crds") => crd::definitions()
            .map(|text| print!("{text}"))
            .map_err(|error| error.to_string()),
        Some("run") => run(),
        Some("--help" | "-h") => {
            print!("{COMMANDS}\n{}", settings::USAGE);
            Ok(())
        }
        _ => Err(format!("{COMMANDS}\n{}", settings::USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command of etcd to its end. Its last line says why it failed: Kubernetes shows it, and the operator reads it.
fn tool(work: impl std::future::Future<Output = Result<(), etcd::tools::ToolError>>) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}

fn run() -> Result<(), String> {
    let settings = settings::read(|name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
    runtime()?.block_on(serve(settings))
}

async fn serve(settings: settings::Settings) -> Result<(), String> {
    let address = &settings.metrics_address;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("listen on {address}: {error}"))?;
    let client = kube::Client::try_default()
        .await
        .map_err(|error| format!("find the API server: {error}"))?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| format!("listen for SIGTERM: {error}"))?;
    let stop = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let leadership = Arc::new(leader::Leadership::default());
    let metrics = Arc::new(metrics::Metrics::new(leadership.clone()));
    let server = tokio::spawn(metrics::serve(listener, metrics.clone()));
    let writes = writes::Writes::new(leadership.clone(), metrics.clone(), settings.stop_after_writes);
    let context = Arc::new(reconcile::Context::new(
        client.clone(),
        desired::Images {
            broker: settings.broker_image,
            etcd: settings.etcd_image,
            operator: settings.operator_image,
        },
        settings.watched_namespace,
        metrics,
        writes,
    ));
    let duration = settings.lease_duration;
    let mut election = leader::Election::new(client, &settings.lease_namespace, identity(), duration, leadership);
    log::info!("metrics on {address}");
    let topics = Arc::new(topic::Context::new(context.clone(), settings.bootstrap));
    let work = || async {
        futures::join!(reconcile::run(context.clone()), topic::run(topics.clone()));
    };
    election.lead(work, stop).await;
    server.abort();
    Ok(())
}

/// What no other process is called, and tells people which pod it is.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_string());
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{host}_{}_{:x}", std::process::id(), since_epoch.as_nanos())
}
