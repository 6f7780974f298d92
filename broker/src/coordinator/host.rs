//! The coordinator in its broker: started with the broker's settings, told when topics may be gone, ended with the broker.

use super::service::{CoordinatorInbox, CoordinatorService, ServiceConfig, ServiceEnd, ServiceParts};
use super::GroupConfig;
use crate::cluster::image::ClusterImage;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::Shard;
use kafscale_metastore::Metastore;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Requests to the coordinator before their connections wait.
pub const GROUP_REQUESTS_MAX: usize = 1_024;

/// How often the coordinator looks whether the cluster has changed, and with it the topics.
const TOPICS_INTERVAL: Duration = Duration::from_secs(1);

/// After how many such intervals it looks for deleted topics whatever has changed: a commit may come after its topic went.
const TOPICS_ANYWAY: u32 = 600;

/// The running coordinator of a broker, on the broker's first shard.
pub struct CoordinatorHost {
    service: Rc<CoordinatorService>,
    ended: async_channel::Receiver<ServiceEnd>,
}

impl CoordinatorHost {
    /// Starts the coordinator beside `shard`.
    pub fn start(
        shard: &Rc<Shard>,
        runtime: &Rc<dyn Runtime>,
        metastore: Rc<dyn Metastore>,
        config: ServiceConfig,
        inbox: CoordinatorInbox,
    ) -> Self {
        let named = shard.clone();
        let parts = ServiceParts {
            runtime: runtime.clone(),
            metastore,
            // The lanes fence. A lease that lapsed while the machine slept costs nothing as long as nobody took over.
            fences: Vec::new(),
            image: Box::new(move || named.image()),
        };
        let service = CoordinatorService::new(parts, config, inbox);
        let (tell, ended) = async_channel::bounded(1);
        let running = service.clone();
        runtime.spawn(
            "groups",
            Box::pin(async move {
                let end = running.run().await;
                let _ = tell.try_send(end); // The broker may have gone.
            }),
        );
        let (shard, sleeper, watched) = (shard.clone(), runtime.clone(), service.clone());
        runtime.spawn(
            "deleted-topics",
            Box::pin(async move { watch_topics(&shard, &*sleeper, &watched).await }),
        );
        CoordinatorHost { service, ended }
    }

    /// Takes no more requests: what was accepted is stored, who waits for other members hears that this is no
    /// coordinator any more, and that is the end.
    pub fn stop(&self) {
        self.service.stop();
    }

    /// Completes once the groups are loaded and served.
    pub async fn loaded(&self) {
        self.service.loaded().await;
    }

    /// Completes with the reason once the coordinator has ended; once.
    pub async fn ended(&self) -> ServiceEnd {
        self.ended.recv().await.unwrap_or(ServiceEnd::Stopped)
    }
}

/// The coordinator's part of the settings.
pub fn service_config(settings: &Settings) -> ServiceConfig {
    ServiceConfig {
        groups: GroupConfig {
            session_timeout_min_ms: settings.group_min_session_timeout_ms,
            session_timeout_max_ms: settings.group_max_session_timeout_ms,
            initial_rebalance_delay_ms: settings.group_initial_rebalance_delay_ms,
            offsets_retention_ms: (settings.offsets_retention_minutes as i64).saturating_mul(60_000),
            consumer_session_timeout_ms: settings.group_consumer_session_timeout_ms,
            consumer_heartbeat_interval_ms: settings.group_consumer_heartbeat_interval_ms,
            ..GroupConfig::default()
        },
        ..ServiceConfig::default()
    }
}

async fn watch_topics(shard: &Shard, runtime: &dyn Runtime, service: &CoordinatorService) {
    let mut seen: Option<Arc<ClusterImage>> = None;
    let mut looks = 0u32;
    service.loaded().await;
    while !service.has_ended() {
        runtime.sleep(TOPICS_INTERVAL).await;
        let image = shard.image();
        looks = looks.wrapping_add(1);
        let changed = seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &image));
        if !changed && !looks.is_multiple_of(TOPICS_ANYWAY) {
            continue;
        }
        match service.forget_deleted_topics(|id| image.names.contains_key(&id)).await {
            Ok(()) => seen = Some(image),
            Err(error) => log::warn!("look for deleted topics with offsets: {error}; trying again"),
        }
    }
}
