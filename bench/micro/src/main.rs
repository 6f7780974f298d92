//! Does a piece of the hot path a number of times, for an instruction counter to watch: `make bench-check`.
//!
//! `kafscale-instructions` alone lists the pieces, `kafscale-instructions NAME TIMES` does one of them.

use kafscale_bench_micro::cases;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, times) = match &arguments[..] {
        [] => {
            cases().iter().for_each(|(name, _, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        [name, times] => (name, times.parse::<u32>()),
        _ => return usage(),
    };
    let (Ok(times), Some((_, _, mut work))) = (times, cases().into_iter().find(|(at, _, _)| at == name)) else {
        return usage();
    };
    for _ in 0..times {
        work();
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("kafscale-instructions [NAME TIMES]");
    ExitCode::FAILURE
}
