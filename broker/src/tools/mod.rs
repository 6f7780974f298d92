//! The operator's commands: they work on the stores that the settings name, and serve nobody.
//!
//! What a command found goes to the standard output, one JSON object a line. It ends with 0 if all is well, with 1 if it
//! found problems, with 2 if it could not do its work.

mod accept_loss;
mod bad_batches;
mod command;
mod describe;
mod inspect;
mod objects;
mod output;
mod rebuild;
mod reconcile;
mod segments;
mod verify;

pub use command::{Loss, Tool, What, TOOLS_HELP};

use crate::assembly::{Assembly, Tuning};
use crate::cluster::reconciler::ReconcileError;
use crate::executors::{self, ExecutorOptions};
use crate::metrics::Metrics;
use crate::runtime::glommio::GlommioRuntime;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::Shard;
use crate::stores::{MetastoreHandle, Objects, ObjectsOnly, Stores, StoresError};
use kafscale_metastore::keys::BrokerRecord;
use kafscale_metastore::operation::OperationError;
use kafscale_metastore::{Metastore, MetastoreError};
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};
use output::Output;
use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A store cannot be opened.
    #[error(transparent)]
    Open(#[from] StoresError),
    /// The object store did not do as asked.
    #[error("object store: {0}")]
    Store(#[from] StoreError),
    /// The metastore did not do as asked.
    #[error("metastore: {0}")]
    Metastore(#[from] MetastoreError),
    /// A record of the metastore cannot be read or written.
    #[error("metastore: {0}")]
    Operation(#[from] OperationError),
    /// The reconciler could not finish.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    /// The standard output is closed.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
    /// It must not be done, or makes no sense; a sentence for the user.
    #[error("{0}")]
    Refused(String),
}

/// What a command works on.
pub(crate) struct Workplace {
    settings: Settings,
    runtime: Rc<dyn Runtime>,
    store: Rc<dyn ObjectStore>,
    metastore: Option<Rc<dyn Metastore>>,
}

impl Workplace {
    fn namespace(&self) -> &str {
        &self.settings.namespace
    }

    /// Whether brokers may use the objects meanwhile; a directory is locked.
    fn is_shared(&self) -> bool {
        self.settings.s3.is_some()
    }

    fn metastore(&self) -> Result<&dyn Metastore, ToolError> {
        self.metastore
            .as_deref()
            .ok_or_else(|| ToolError::Refused("this needs the metastore".to_string()))
    }

    /// A shard that owns nothing and serves nobody: what ends a dead broker's stream is a shard's.
    fn idle_shard(&self) -> Result<Rc<Shard>, ToolError> {
        let metastore = self.metastore.clone();
        let metastore = metastore.ok_or_else(|| ToolError::Refused("this needs the metastore".to_string()))?;
        let nobody = BrokerRecord {
            broker_id: self.settings.broker_id,
            incarnation: 0,
            host: String::new(),
            port: 0,
            rack: None,
            shards: 1,
            shard_ports: Vec::new(),
        };
        let settings = Arc::new(self.settings.clone());
        let (assembly, _) = Assembly::new(settings, Tuning::default(), nobody, String::new());
        Ok(assembly.idle_shard(self.runtime.clone(), self.store.clone(), metastore, Metrics::new(0)))
    }
}

/// The stores, as long as the command runs.
enum Opened {
    Both(Stores),
    Objects(ObjectsOnly),
}

impl Opened {
    fn open(tool: &Tool, settings: &Settings) -> Result<Opened, ToolError> {
        if settings.use_memory_s3 {
            let why = "use_memory_s3 keeps records in the broker's memory: there is nothing to work on";
            return Err(ToolError::Refused(why.to_string()));
        }
        let needs_directory = settings.s3.is_none() || settings.etcd.is_none();
        let without_metastore = matches!(
            tool,
            Tool::Verify {
                without_metastore: true
            }
        );
        if needs_directory && !without_metastore && !settings.data_dir.is_dir() {
            // The broker would make it; who looks at something wants to know that it is not there.
            let path = settings.data_dir.display();
            return Err(ToolError::Refused(format!("there is no data directory {path}")));
        }
        Ok(match without_metastore {
            true => Opened::Objects(ObjectsOnly::open(settings)?),
            false => Opened::Both(Stores::open(settings)?),
        })
    }

    fn handles(&self) -> (Objects, Option<MetastoreHandle>) {
        match self {
            Opened::Both(stores) => (stores.objects.clone(), Some(stores.metastore.clone())),
            Opened::Objects(stores) => (stores.objects.clone(), None),
        }
    }
}

/// Where a check leaves its lines for its caller.
#[derive(Clone, Default)]
struct Lines(Rc<RefCell<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Does what `verify` does, on stores that the caller has opened. Returns the lines that name a problem.
///
/// # Errors
/// If a store does not do as asked.
pub async fn find_problems(
    settings: Settings,
    runtime: Rc<dyn Runtime>,
    store: Rc<dyn ObjectStore>,
    metastore: Rc<dyn Metastore>,
) -> Result<Vec<String>, ToolError> {
    let place = Workplace {
        settings,
        runtime,
        store,
        metastore: Some(metastore),
    };
    let lines = Lines::default();
    let mut output = Output::new(lines.clone());
    verify::run(&place, &mut output).await?;
    output.flush()?;
    let text = String::from_utf8_lossy(&lines.0.take()).into_owned();
    let problems = text.lines().filter(|line| line.contains("\"problem\":"));
    Ok(problems.map(str::to_string).collect())
}

/// Runs a command to its end.
pub fn run(tool: Tool, settings: Settings) -> ExitCode {
    match work(tool, settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// `true` if no problem was found.
fn work(tool: Tool, settings: Settings) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let opened = Opened::open(&tool, &settings)?;
    let (objects, metastore) = opened.handles();
    let sound = Arc::new(AtomicBool::new(false));
    let result = sound.clone();
    let options = ExecutorOptions {
        shards: 1,
        preempt_timer: Duration::from_micros(settings.preempt_timer_us),
        spin: Duration::ZERO,
    };
    let main = move |_| async move {
        let place = Workplace {
            runtime: GlommioRuntime::new(),
            store: objects.for_shard()?,
            metastore: metastore.as_ref().map(MetastoreHandle::for_shard),
            settings,
        };
        let mut output = Output::new(std::io::stdout());
        let done = match tool {
            Tool::Inspect(what) => inspect::run(&place, what, &mut output).await,
            Tool::Verify { .. } => verify::run(&place, &mut output).await,
            Tool::Reconcile { dry_run } => reconcile::run(&place, dry_run, &mut output).await,
            Tool::AcceptLoss { what, execute } => match what {
                Loss::Slot(stream, slot) => accept_loss::run(&place, stream, slot, execute, &mut output).await,
                Loss::Producers(topic, partition) => {
                    accept_loss::producers(&place, &topic, partition, execute, &mut output).await
                }
            },
            Tool::Rebuild => rebuild::run(&place, &mut output).await,
        };
        output.flush()?;
        done?;
        result.store(output.problems() == 0, Ordering::Release);
        Ok(())
    };
    executors::start(options, main)?.join(|| {})?;
    Ok(sound.load(Ordering::Acquire))
}
