//! Log lines on standard error: time, level, module, text.

use env_logger::{Builder, Env};
use log::LevelFilter;

/// Starts logging at `level`. `RUST_LOG`, where it is set, says it module by module. Calling it again changes nothing.
pub fn init(level: LevelFilter) {
    let mut builder = Builder::from_env(Env::default());
    if std::env::var_os("RUST_LOG").is_none() {
        // glommio tells of each executor's memory at info; that is nobody's concern.
        builder
            .filter_level(level)
            .filter_module("glommio", level.min(LevelFilter::Warn));
    }
    let _ = builder.format_timestamp_millis().try_init();
}
