//! Values of records: as many bytes of them as were asked for are random, so that compression finds what it should.

use fastrand::Rng;

/// Values in a row. A batch takes neighbours, and no two of a batch are the same, unless there is only one.
pub struct Payload {
    bytes: Vec<u8>,
    record_bytes: usize,
    records: usize,
    next: usize,
}

/// Most bytes that are kept ready.
const BYTES_MAX: usize = 64 << 20;

impl Payload {
    /// Enough values for two batches. The first part of each, `random_ratio` of it, is random, the rest is zeros.
    pub fn random(record_bytes: usize, batch_bytes: usize, random_ratio: f64) -> Self {
        let wanted = (2 * batch_bytes.max(record_bytes)).min(BYTES_MAX);
        let records = (wanted / record_bytes.max(1)).max(1);
        let random_bytes = (record_bytes as f64 * random_ratio.clamp(0.0, 1.0)).round() as usize;
        // The same in every run.
        let mut random = Rng::with_seed(7);
        let mut bytes = vec![0; records * record_bytes];
        for value in bytes.chunks_exact_mut(record_bytes.max(1)) {
            random.fill(&mut value[..random_bytes]);
        }
        Payload {
            bytes,
            record_bytes,
            records,
            next: 0,
        }
    }

    /// This one value, again and again.
    pub fn one(value: Vec<u8>) -> Self {
        Payload {
            record_bytes: value.len(),
            bytes: value,
            records: 1,
            next: 0,
        }
    }

    /// The next value.
    pub fn next(&mut self) -> &[u8] {
        let from = self.next * self.record_bytes;
        self.next = (self.next + 1) % self.records;
        &self.bytes[from..from + self.record_bytes]
    }
}

/// Draws numbers below a bound by Zipf's law: number n comes (n + 1)^-skew as often as number 0. A skew of 0 is uniform.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// The sum of the weights up to each number, divided by that of all.
    up_to: Vec<f64>,
    random: Rng,
}

impl Zipf {
    /// Numbers below `bound`, which is at least 1.
    pub fn new(bound: usize, skew: f64, seed: u64) -> Self {
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=bound.max(1))
            .map(|rank| {
                sum += (rank as f64).powf(-skew);
                sum
            })
            .collect();
        up_to.iter_mut().for_each(|weight| *weight /= sum);
        Zipf {
            up_to,
            random: Rng::with_seed(seed),
        }
    }

    /// The next number.
    pub fn draw(&mut self) -> usize {
        let part = self.random.f64();
        self.up_to
            .partition_point(|weight| *weight <= part)
            .min(self.up_to.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::compression::{compress, Compression};

    /// How small a batch of 64 values of 1 KiB becomes.
    fn compressed_part(random_ratio: f64) -> f64 {
        let mut payload = Payload::random(1024, 65_536, random_ratio);
        let batch: Vec<u8> = (0..64).flat_map(|_| payload.next().to_vec()).collect();
        compress(Compression::Zstd, &batch).unwrap().len() as f64 / batch.len() as f64
    }

    #[test]
    fn values_compress_to_the_part_of_them_that_is_random() {
        assert!(compressed_part(1.0) > 0.99);
        assert!((compressed_part(0.25) - 0.25).abs() < 0.03, "{}", compressed_part(0.25));
        assert!(compressed_part(0.0) < 0.01);
    }

    #[test]
    fn a_record_larger_than_a_batch_has_a_value() {
        let mut payload = Payload::random(100_000, 16_384, 1.0);
        assert_eq!(payload.next().len(), 100_000);
        assert_eq!(Payload::random(0, 16_384, 1.0).next().len(), 0);
    }

    #[test]
    fn with_skew_the_first_come_more_often_and_without_all_alike() {
        let counts = |skew| {
            let mut zipf = Zipf::new(4, skew, 1);
            let mut counts = [0u32; 4];
            (0..25_000).for_each(|_| counts[zipf.draw()] += 1);
            counts
        };
        // The weights 1, 1/2, 1/3 and 1/4 are together 25/12.
        for (count, wanted) in counts(1.0).into_iter().zip([12_000, 6_000, 4_000, 3_000]) {
            assert!(count.abs_diff(wanted) < 400, "{count} {wanted}");
        }
        assert!(counts(0.0).into_iter().all(|count| count.abs_diff(6_250) < 300));
    }
}
