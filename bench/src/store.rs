//! What a broker asks of its object store, from its metrics page (docs/metrics.md).

use crate::client::BenchError;

const SIZES: &str = "kafscale_object_store_put_size_bytes";
const REQUESTS: &str = "kafscale_object_store_requests_total";
const BYTES: &str = "kafscale_object_store_bytes_total";
/// The longest that the page may take, in seconds.
const TIMEOUT_S: u64 = 10;

/// Counters at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counters {
    /// Objects created.
    puts: f64,
    /// Bytes of them.
    put_bytes: f64,
    /// How many of them are at most so large, by rising bound; the last bound is infinite.
    buckets: Vec<(f64, f64)>,
    /// Bytes sent for puts, also for those that failed.
    sent_bytes: f64,
    /// Gets.
    gets: f64,
}

/// The metrics page of a broker, and what it said at the start.
#[derive(Debug)]
pub struct StoreWatch {
    url: String,
    before: Counters,
}

/// What was asked of the store from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreUse {
    /// Objects created.
    pub puts: f64,
    /// Their mean size in bytes; none without objects.
    pub put_mean_bytes: Option<f64>,
    /// The bound in bytes below which 99 of 100 of them are, as fine as the page's buckets; none if they do not say.
    pub put_p99_bytes_at_most: Option<f64>,
    /// Bytes sent for puts, also for those that failed.
    pub sent_bytes: f64,
    /// Gets.
    pub gets: f64,
}

impl StoreWatch {
    /// Reads the page. None if it does not tell of an object store, as that of another broker; it is said on stderr.
    ///
    /// # Errors
    /// If there is no such page.
    pub fn start(url: &str) -> Result<Option<Self>, BenchError> {
        let before = Counters::parse(&page(url)?);
        if before.is_none() {
            eprintln!("{url} has no {SIZES}: nothing will be said of puts");
        }
        Ok(before.map(|before| StoreWatch {
            url: url.to_string(),
            before,
        }))
    }

    /// Reads the page again.
    ///
    /// # Errors
    /// If it is gone.
    pub fn end(&self) -> Result<Option<StoreUse>, BenchError> {
        Ok(Counters::parse(&page(&self.url)?).map(|after| after.since(&self.before)))
    }
}

fn page(url: &str) -> Result<String, BenchError> {
    let url = match url.contains("://") {
        true => url.to_string(),
        false => format!("http://{url}/metrics"),
    };
    let failed = |why: String| BenchError::Unexpected(format!("metrics of {url}: {why}"));
    let response = minreq::get(url.as_str())
        .with_timeout(TIMEOUT_S)
        .send()
        .map_err(|error| failed(error.to_string()))?;
    if response.status_code != 200 {
        return Err(failed(format!("status {}", response.status_code)));
    }
    let text = response.as_str().map_err(|error| failed(error.to_string()))?;
    Ok(text.to_string())
}

impl Counters {
    /// From the text form of Prometheus; none if the page is not of a broker with an object store.
    fn parse(text: &str) -> Option<Counters> {
        let mut counters = Counters::default();
        let mut found = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, Ok(value))) = line
                .rsplit_once(' ')
                .map(|(series, value)| (series, value.parse::<f64>()))
            else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match (name.strip_prefix(SIZES), name) {
                (Some("_count"), _) => {
                    counters.puts += value;
                    found = true;
                }
                (Some("_sum"), _) => counters.put_bytes += value,
                (Some("_bucket"), _) => {
                    if let Some(Ok(bound)) = label(labels, "le").map(str::parse::<f64>) {
                        counters.buckets.push((bound, value));
                    }
                }
                (_, BYTES) if label(labels, "operation") == Some("put") => counters.sent_bytes += value,
                (_, REQUESTS) if label(labels, "operation") == Some("get") => counters.gets += value,
                _ => {}
            }
        }
        found.then_some(counters)
    }

    fn since(&self, before: &Counters) -> StoreUse {
        let puts = self.puts - before.puts;
        let count_before = |bound: f64| {
            before
                .buckets
                .iter()
                .find(|(at, _)| *at == bound)
                .map_or(0.0, |(_, n)| *n)
        };
        let p99 = self
            .buckets
            .iter()
            .find(|(bound, count)| count - count_before(*bound) >= 0.99 * puts);
        StoreUse {
            puts,
            put_mean_bytes: (puts > 0.0).then(|| (self.put_bytes - before.put_bytes) / puts),
            put_p99_bytes_at_most: p99
                .map(|(bound, _)| *bound)
                .filter(|bound| puts > 0.0 && bound.is_finite()),
            sent_bytes: self.sent_bytes - before.sent_bytes,
            gets: self.gets - before.gets,
        }
    }
}

/// The value of a label; none of ours has a quote or a comma in it.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(at, _)| at.trim() == name)
        .map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn text(puts: [u32; 3], sum: u32, sent: u32) -> String {
        let [small, middle, all] = puts;
        format!(
            "# TYPE {SIZES} histogram\n{SIZES}_bucket{{le=\"1024\"}} {small}\n{SIZES}_bucket{{le=\"4096\"}} {middle}\n\
             {SIZES}_bucket{{le=\"+Inf\"}} {all}\n{SIZES}_sum {sum}\n{SIZES}_count {all}\n\
             {BYTES}{{operation=\"get\"}} 77\n{BYTES}{{operation=\"put\"}} {sent}\n{REQUESTS}{{operation=\"get\"}} 3\nother 1\n"
        )
    }

    /// Answers each page to one request; the address.
    fn serve(pages: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for page in pages {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    page.len()
                );
                stream.write_all((head + &page).as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn what_was_put_between_two_pages_is_counted() {
        let address = serve(vec![text([5, 5, 5], 500, 600), text([6, 105, 105], 200_500, 250_600)]);
        let watch = StoreWatch::start(&address).unwrap().unwrap();
        let seen = watch.end().unwrap().unwrap();
        assert_eq!((seen.puts, seen.put_mean_bytes), (100.0, Some(2_000.0)));
        assert_eq!(
            (seen.put_p99_bytes_at_most, seen.sent_bytes, seen.gets),
            (Some(4_096.0), 250_000.0, 0.0)
        );
    }

    #[test]
    fn sizes_beyond_all_buckets_have_no_bound() {
        let counters = Counters::parse(&text([0, 0, 10], 1_000_000, 0)).unwrap();
        assert_eq!(counters.since(&Counters::default()).put_p99_bytes_at_most, None);
        assert_eq!(counters.since(&counters).put_mean_bytes, None);
    }

    #[test]
    fn the_page_of_another_broker_says_nothing_and_no_page_is_an_error() {
        let address = serve(vec![
            "# HELP up\nup 1\nkafka_server_bytes{topic=\"a b\"} 5\n".to_string()
        ]);
        assert!(StoreWatch::start(&format!("http://{address}/metrics"))
            .unwrap()
            .is_none());
        assert!(StoreWatch::start(&address).is_err());
    }
}
