//! The reading side of `misc/bench`: touches files in one way and prints what it did, in as few
//! instructions of its own as it can, so that CPU time is the file system's.
//!
//! `bench-reader files LIST` opens, reads and closes each path of LIST (one per line), in order.
//! `bench-reader seq FILE` reads FILE in 1 MiB reads.
//! `bench-reader random FILE COUNT SEED` reads COUNT blocks of 4 KiB and prints each one's latency.
//! `bench-reader faults FILE` maps FILE and touches each page in order.
//! `bench-reader relay ADDRESS TARGET MICROS` passes connections on, each byte so much later, until it is killed.

#![allow(
    unsafe_code,
    reason = "mmap of a file that nobody truncates while the benchmark runs"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one large read: what `cp` and most servers use at most.
const LARGE_READ: usize = 1 << 20;
const PAGE: usize = 4096;

fn files(list: &str) -> io::Result<String> {
    let paths = std::fs::read_to_string(list)?;
    let mut buffer = vec![0; LARGE_READ];
    let (mut count, mut bytes) = (0, 0);
    for path in paths.lines() {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => bytes += n,
            }
        }
        count += 1;
    }
    Ok(format!("{{\"files\": {count}, \"bytes\": {bytes}}}"))
}

fn seq(path: &str) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; LARGE_READ];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{{\"bytes\": {bytes}}}")),
            n => bytes += n,
        }
    }
}

fn random(path: &str, count: usize, seed: u64) -> io::Result<String> {
    let file = File::open(path)?;
    let pages = (file.metadata()?.len() / PAGE as u64).max(1);
    let mut buffer = [0; PAGE];
    let mut state = seed | 1;
    let mut micros = Vec::with_capacity(count);
    for _ in 0..count {
        // xorshift64: the same places for each contender
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let start = Instant::now();
        file.read_exact_at(&mut buffer, state % pages * PAGE as u64)?;
        micros.push(start.elapsed().as_micros());
    }
    let mean = micros.iter().sum::<u128>() as f64 / count.max(1) as f64;
    micros.sort_unstable();
    Ok(format!(
        "{{\"mean_us\": {mean:.1}, \"p99_us\": {}}}",
        micros[count * 99 / 100]
    ))
}

fn faults(path: &str) -> io::Result<String> {
    let file = File::open(path)?;
    // SAFETY: the file is part of a read-only image; nobody truncates it while it is mapped.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    let sum = map
        .chunks(PAGE)
        .fold(0u64, |sum, page| sum.wrapping_add(u64::from(page[0])));
    Ok(format!(
        "{{\"pages\": {}, \"sum\": {sum}}}",
        map.len().div_ceil(PAGE)
    ))
}

/// What a timer may oversleep: that much before the time, waiting goes on awake.
const TIMER_SLACK: Duration = Duration::from_micros(70);

fn relay(address: &str, target: &str, delay: Duration) -> io::Result<String> {
    for client in TcpListener::bind(address)?.incoming() {
        let (client, server) = (client?, TcpStream::connect(target)?);
        pass(client.try_clone()?, server.try_clone()?, delay)?;
        pass(server, client, delay)?;
    }
    Ok(String::new())
}

/// Passes one direction on, in threads of its own that end with the connection.
fn pass(mut from: TcpStream, mut to: TcpStream, delay: Duration) -> io::Result<()> {
    to.set_nodelay(true)?;
    let (sender, arrived) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; LARGE_READ];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if sender
                .send((Instant::now() + delay, buffer[..len].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in arrived {
            thread::sleep((due - TIMER_SLACK).saturating_duration_since(Instant::now()));
            while Instant::now() < due {
                thread::yield_now();
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let result = match arguments[..] {
        ["files", list] => files(list)?,
        ["seq", path] => seq(path)?,
        ["random", path, count, seed] => random(path, number(count)? as usize, number(seed)?)?,
        ["faults", path] => faults(path)?,
        ["relay", address, target, micros] => relay(address, target, Duration::from_micros(number(micros)?))?,
        _ => {
            return Err(io::Error::other(
                "usage: bench-reader files|seq|random|faults|relay ...",
            ));
        }
    };
    println!("{result}");
    Ok(())
}
