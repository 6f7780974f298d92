//! The Kafscale broker process.

use kafscale_broker::settings::Command;
use kafscale_broker::shutdown::Shutdown;
use kafscale_broker::{logging, memory, server, tools};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let (settings, changed) = match Command::from_process() {
        Ok(Command::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Tool { tool, settings }) => {
            // What a tool says of its own work goes to the standard output: the log is for what is in the way.
            logging::init(settings.log_level.min(log::LevelFilter::Warn));
            return tools::run(tool, *settings);
        }
        Ok(Command::Run { settings, changed }) => (*settings, changed),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    logging::init(settings.log_level);
    log::info!(
        "{} starts, process {}",
        kafscale_broker::settings::version(),
        std::process::id()
    );
    for line in changed {
        log::info!("setting {line}");
    }
    if let Err(error) = memory::give_back_regularly() {
        log::warn!("no thread gives freed memory back to the system: {error}");
    }
    let shutdown = Shutdown::new();
    if let Err(error) = shutdown.on_signals(Duration::from_millis(settings.shutdown_deadline_ms)) {
        log::error!("signals: {error}");
        return ExitCode::FAILURE;
    }
    match server::run(settings, &shutdown) {
        Ok(()) => {
            log::info!("broker has ended: everything accepted is durable and answered");
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
