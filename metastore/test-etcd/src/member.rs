//! One etcd process.

use crate::{free_port, Options};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Lines of the log that are shown when it went wrong.
const LOG_LINES: usize = 30;

#[derive(Debug)]
pub(crate) struct Member {
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for health and metrics, without TLS.
    pub metrics_address: String,
    args: Vec<String>,
    log_file: PathBuf,
    process: Option<Child>,
}

impl Member {
    /// The members of a cluster, none of which runs yet.
    pub fn all(options: &Options, directory: &Path, token: &str) -> Vec<Member> {
        let hosts: Vec<_> = (0..options.members.max(1))
            .map(|index| match options.addresses.len() {
                0 => "127.0.0.1",
                count => options.addresses[index % count].as_str(),
            })
            .collect();
        let peers: Vec<_> = hosts
            .iter()
            .map(|host| format!("http://{host}:{}", free_port(host)))
            .collect();
        let named: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(index, url)| format!("m{index}={url}"))
            .collect();
        let cluster = named.join(",");
        let member = |(index, host): (usize, &&str)| {
            let client_address = format!("{host}:{}", free_port(host));
            let metrics_address = format!("{host}:{}", free_port(host));
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            let client_url = format!("{scheme}://{client_address}");
            let data = directory.join(format!("m{index}")).display().to_string();
            let metrics_url = format!("http://{metrics_address}");
            let name = format!("m{index}");
            let settings = [
                ("--name", name.as_str()),
                ("--data-dir", &data),
                ("--listen-client-urls", &client_url),
                ("--advertise-client-urls", &client_url),
                ("--listen-metrics-urls", &metrics_url),
                ("--listen-peer-urls", &peers[index]),
                ("--initial-advertise-peer-urls", &peers[index]),
                ("--initial-cluster", &cluster),
                ("--initial-cluster-state", "new"),
                ("--initial-cluster-token", token),
                // Elections within a second: tests wait for them.
                ("--heartbeat-interval", "50"),
                ("--election-timeout", "500"),
            ];
            let mut args: Vec<_> = settings
                .iter()
                .flat_map(|(name, value)| [(*name).to_string(), (*value).to_string()])
                .collect();
            args.extend(tls_args(options));
            args.extend(options.args.iter().cloned());
            Member {
                client_address,
                metrics_address,
                args,
                log_file: directory.join(format!("m{index}.log")),
                process: None,
            }
        };
        hosts.iter().enumerate().map(member).collect()
    }

    pub fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_file)
            .expect("the cluster's directory can be written");
        let errors = log.try_clone().expect("a file can be opened twice");
        let process = Command::new("etcd")
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("start etcd: {error}; `ci/install.sh test` installs it"));
        self.process = Some(process);
    }

    /// Whether it was started and not killed.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.process {
            Some(process) => process.try_wait().map_or(true, |status| status.is_some()),
            None => true,
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("only a running member gets signals");
        let sent = Command::new("kill")
            .args([format!("-{name}"), process.id().to_string()])
            .status()
            .expect("every system has kill");
        assert!(sent.success(), "kill -{name} {}", process.id());
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(&self.log_file).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

fn tls_args(options: &Options) -> Vec<String> {
    let Some(tls) = &options.tls else {
        return Vec::new();
    };
    let mut args = vec![
        "--cert-file".to_string(),
        tls.cert_file.display().to_string(),
        "--key-file".to_string(),
        tls.key_file.display().to_string(),
    ];
    if let Some(ca) = &tls.client_ca_file {
        args.extend([
            "--client-cert-auth".to_string(),
            "--trusted-ca-file".to_string(),
            ca.display().to_string(),
        ]);
    }
    args
}
