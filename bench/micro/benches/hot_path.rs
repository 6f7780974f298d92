//! Pieces of the hot path by the clock: `cargo bench -p kafscale-bench-micro`. Their instructions: `make bench-check`.

use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("hot_path");
    for (name, bytes, mut work) in kafscale_bench_micro::cases() {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| bencher.iter(&mut work));
    }
    group.finish();
    criterion.final_summary();
}
