use super::*;
use crate::listener::bind_for_shards;
use crate::metrics::{families, serve_snapshots, snapshot_channels, Metrics};
use crate::runtime::glommio::GlommioRuntime;
use std::io::{Read, Write};
use std::net::SocketAddr;

/// Runs a server with one shard, and a client on a thread of its own.
fn with_server<T: Send + 'static>(readiness: Readiness, client: impl FnOnce(SocketAddr) -> T + Send + 'static) -> T {
    let executor = glommio::LocalExecutorBuilder::default()
        .io_memory(1 << 20)
        .make()
        .unwrap();
    executor.run(async move {
        let runtime: Rc<dyn Runtime> = GlommioRuntime::new();
        let (senders, mut receivers) = snapshot_channels(1);
        let metrics = Metrics::new(0);
        metrics.connections_accepted.add(3);
        let add = |into: &mut crate::metrics::Snapshot| {
            let labels = vec![("topic", "a\"b".to_owned()), ("partition", "0".to_owned())];
            into.gauge(&families::HIGH_WATERMARK, labels, 42.0);
        };
        let shard = serve_snapshots(receivers.pop().unwrap(), metrics, runtime.clone(), Box::new(add));
        runtime.spawn("snapshots", Box::pin(shard));

        let server = HttpServer::new(
            Gatherer::new(senders, runtime.clone()),
            None,
            readiness,
            runtime.clone(),
        );
        let bound = bind_for_shards("127.0.0.1:0".parse().unwrap(), 1)
            .unwrap()
            .pop()
            .unwrap();
        let address = bound.local_addr();
        let listener = Rc::new(bound.listen().unwrap());
        runtime.spawn("http server", Box::pin(server.serve(listener.clone())));
        let (done, result) = futures::channel::oneshot::channel();
        std::thread::spawn(move || done.send(client(address)).ok());
        let result = result.await.expect("the client does not panic");
        listener.close();
        result
    })
}

fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn get(address: SocketAddr, path: &str) -> String {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: broker\r\n\r\n"))
}

#[test]
fn metrics_of_all_shards_and_of_the_process_are_on_one_page() {
    let page = with_server(Readiness::default(), |address| get(address, "/metrics?x=1"));
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{page}"
    );
    for line in [
        "kafscale_connections_accepted_total 3",
        "kafscale_partition_high_watermark{topic=\"a\\\"b\",partition=\"0\"} 42",
        "kafscale_build_info{version=\"",
        "# TYPE process_cpu_seconds_total counter",
        "process_resident_memory_bytes ",
        "process_start_time_seconds ",
    ] {
        assert!(page.contains(line), "{line} is missing in {page}");
    }
}

#[test]
fn a_broker_is_ready_only_while_it_serves() {
    let readiness = Readiness::default();
    let set = readiness.clone();
    let answers = with_server(readiness, move |address| {
        let mut answers = vec![get(address, "/readyz")];
        for phase in [Phase::Serving, Phase::Draining] {
            set.set(phase);
            answers.push(get(address, "/readyz"));
        }
        answers.push(get(address, "/healthz"));
        answers
    });
    let statuses: Vec<&str> = answers.iter().map(|answer| &answer[9..12]).collect();
    assert_eq!(statuses, ["503", "200", "503", "200"]);
    assert!(answers[2].ends_with("\r\n\r\ndraining\n"));
}

#[test]
fn what_is_not_served_is_refused() {
    with_server(Readiness::default(), |address| {
        assert!(get(address, "/").starts_with("HTTP/1.1 404"));
        assert!(send(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(send(address, "\0\0\0\x10nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        let head = send(address, "HEAD /healthz HTTP/1.1\r\n\r\n");
        assert!(
            head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    });
}

#[test]
fn a_request_that_never_ends_is_bounded() {
    with_server(Readiness::default(), |address| {
        let start = "GET /metrics HTTP/1.1\r\nX: ";
        let request = format!("{start}{}", "x".repeat(REQUEST_BYTES_MAX - start.len()));
        assert!(send(address, &request).starts_with("HTTP/1.1 431"));
    });
}

#[test]
fn a_request_in_pieces_is_put_together() {
    with_server(Readiness::default(), |address| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        for piece in ["GET /hea", "lthz HTTP/1.1\r\nHo", "st: b\r\n\r\n"] {
            stream.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200"));
    });
}
