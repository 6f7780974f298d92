//! The test server as a process, to be stopped, continued and killed by scripts.

use kafscale_test_s3::{Config, Server};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "kafscale-test-s3 --root DIR [--addr 127.0.0.1:0] [--bucket bucket[,…]] [--access-key test] \
                     [--secret-key secret]";

fn main() -> ExitCode {
    let started = parse(std::env::args().skip(1)).and_then(|config| Server::start(&config).map_err(|e| e.to_string()));
    match started {
        Ok(server) => {
            println!("s3 listening on {}", server.addr());
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Config, String> {
    let mut config = Config::new("");
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--addr" => config.addr = value.parse().map_err(|_| format!("{value:?} is no address"))?,
            "--root" => config.root = value.into(),
            "--bucket" => config.buckets = value.split(',').map(str::to_string).collect(),
            "--access-key" => config.access_key = value,
            "--secret-key" => config.secret_key = value,
            _ => return Err(USAGE.to_string()),
        }
    }
    if config.root.as_os_str().is_empty() {
        return Err(USAGE.to_string());
    }
    Ok(config)
}
