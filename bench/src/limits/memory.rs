//! Copies in memory, and checksums of it, on one core.

use super::Limits;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// More than the caches of most processors hold.
const LARGE: usize = 256 << 20;
/// What a batch has, about.
const SMALL: usize = 64 << 10;

/// Bandwidths in GB/s (10⁹ bytes): of memory that no cache holds, and of checksums of such memory and of 64 KiB in the cache.
pub fn measure(each: Duration, limits: &mut Limits) {
    let from = vec![1u8; LARGE];
    let mut to = vec![2u8; LARGE];
    let copied = gb_per_s(LARGE, each, || black_box(&mut to).copy_from_slice(black_box(&from)));
    limits.insert("memory_copy_gb_per_s".to_string(), copied);
    let summed = gb_per_s(LARGE, each, || {
        black_box(crc32c::crc32c(black_box(&from)));
    });
    limits.insert("crc32c_gb_per_s".to_string(), summed);
    let summed = gb_per_s(SMALL, each, || {
        black_box(crc32c::crc32c(black_box(&from[..SMALL])));
    });
    limits.insert("crc32c_64_kib_cached_gb_per_s".to_string(), summed);
}

/// Does it again and again until the time is over, at least once.
fn gb_per_s(bytes: usize, time: Duration, mut work: impl FnMut()) -> f64 {
    work();
    let began = Instant::now();
    let mut times = 0u64;
    while times == 0 || began.elapsed() < time {
        work();
        times += 1;
    }
    (times * bytes as u64) as f64 / 1e9 / began.elapsed().as_secs_f64()
}
