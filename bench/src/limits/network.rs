//! TCP over the loopback: both ends on one core, and each on a core of its own.

use super::{cores, cpu_time, hold_on, Limits};
use crate::client::BenchError;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a write and a read take.
const CHUNK: usize = 256 << 10;
/// A small request, and its answer.
const REQUEST: usize = 64;
/// Requests on their way at once, besides one.
const IN_FLIGHT: usize = 32;

type Server = JoinHandle<Result<u64, BenchError>>;

/// MB/s (10⁶ bytes), core-seconds of both ends per GB, and requests of 64 bytes a second of one connection.
///
/// # Errors
/// If the machine refuses a connection or a core.
pub fn measure(each: Duration, limits: &mut Limits) -> Result<(), BenchError> {
    let cores = cores()?;
    for count in [1, 2] {
        // On a machine with one core there is no second way.
        let Some(server_core) = cores.get(count - 1) else {
            break;
        };
        let name = |what: &str| format!("loopback_{count}_core{}_{what}", if count == 1 { "" } else { "s" });
        let (client, server) = (cores[0], *server_core);
        let (bytes_per_s, core_s_per_gb) = on_core(client, move || bandwidth(server, each))?;
        limits.insert(name("mb_per_s"), bytes_per_s / 1e6);
        limits.insert(name("core_s_per_gb"), core_s_per_gb);
        let one = on_core(client, move || requests_per_s(server, each, 1))?;
        limits.insert(name("requests_per_s"), one);
        let many = on_core(client, move || requests_per_s(server, each, IN_FLIGHT))?;
        limits.insert(name(&format!("{IN_FLIGHT}_in_flight_requests_per_s")), many);
    }
    Ok(())
}

/// Does the work on a thread that is held on a core.
fn on_core<T: Send + 'static>(
    core: usize,
    work: impl FnOnce() -> Result<T, BenchError> + Send + 'static,
) -> Result<T, BenchError> {
    let thread = std::thread::spawn(move || {
        hold_on(core)?;
        work()
    });
    join(thread)
}

fn join<T>(thread: JoinHandle<Result<T, BenchError>>) -> Result<T, BenchError> {
    thread
        .join()
        .map_err(|_| BenchError::Unexpected("a thread panicked".to_string()))?
}

/// A connection to a server on a core of its own.
fn connect(
    core: usize,
    serve: impl FnOnce(TcpStream) -> std::io::Result<u64> + Send + 'static,
) -> Result<(TcpStream, Server), BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for end in [&stream, &accepted] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(Duration::from_secs(30)))?;
    }
    let server = std::thread::spawn(move || {
        hold_on(core)?;
        Ok(serve(accepted)?)
    });
    Ok((stream, server))
}

/// Bytes per second, and CPU seconds of both ends per GB.
fn bandwidth(server_core: usize, time: Duration) -> Result<(f64, f64), BenchError> {
    let (mut stream, server) = connect(server_core, |mut from| {
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    })?;
    let chunk = vec![7; CHUNK];
    let (began, cpu) = (Instant::now(), cpu_time());
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let bytes = join(server)? as f64;
    let (took, used) = (began.elapsed(), cpu_time().saturating_sub(cpu));
    Ok((bytes / took.as_secs_f64(), used.as_secs_f64() / (bytes / 1e9)))
}

/// Requests answered per second, so many of them on their way at once. The server answers each by a write of its own.
fn requests_per_s(server_core: usize, time: Duration, in_flight: usize) -> Result<f64, BenchError> {
    let (mut stream, server) = connect(server_core, |mut stream| {
        let mut request = [0; REQUEST];
        let mut answered = 0;
        loop {
            match stream.read_exact(&mut request) {
                Ok(()) => stream.write_all(&request)?,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(answered),
                Err(error) => return Err(error),
            }
            answered += 1;
        }
    })?;
    let mut buffer = [1; REQUEST];
    let began = Instant::now();
    for _ in 0..in_flight {
        stream.write_all(&buffer)?;
    }
    while began.elapsed() < time {
        stream.read_exact(&mut buffer)?;
        stream.write_all(&buffer)?;
    }
    for _ in 0..in_flight {
        stream.read_exact(&mut buffer)?;
    }
    let took = began.elapsed();
    stream.shutdown(Shutdown::Write)?;
    Ok(join(server)? as f64 / took.as_secs_f64())
}
