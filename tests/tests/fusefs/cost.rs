//! What reading costs. Not tests: they print figures, for profiles and for comparison.
//!
//! `cargo test --release -p lacewing-tests --test fusefs -- --ignored --nocapture cost`
//!
//! `LACEWING_COST_TREE` names the directory whose files are read (default /usr/lib, 500 MB of it).
//! "server" is the CPU time of this process, in which engine and source live; "reader" that of a
//! child process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::{Cut, Layer, layer, noise};

/// As the converter cuts, all of it compressed.
const ZSTD: Cut = Cut {
    chunk_bits: 18,
    frame: 256 << 10,
    raw: false,
    recorded: false,
};

use crate::node::{Node, node, quiet, read_at};

/// CPU seconds of this process, in user and in system mode.
fn cpu() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [11, 12].map(|at| fields[at].parse::<f64>().unwrap() / 100.0)
}

/// Resident bytes of this process: anonymous, of files.
fn rss() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or("?").to_owned()
    };
    format!(
        "{} kB (anonymous {}, files {})",
        line("VmRSS:"),
        line("RssAnon:"),
        line("RssFile:")
    )
}

fn drop_caches() {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Reads files in the given order in another process; returns wall and CPU seconds of it.
fn read_elsewhere(list: &Path) -> (f64, f64) {
    let start = Instant::now();
    let script = "import sys,os,resource\n\
        for n in open(sys.argv[1]).read().split('\\n'):\n\
        \x20 if not n: continue\n\
        \x20 fd=os.open(n,os.O_RDONLY)\n\
        \x20 while os.read(fd,1<<20): pass\n\
        \x20 os.close(fd)\n\
        r=resource.getrusage(resource.RUSAGE_SELF); print(r.ru_utime+r.ru_stime)";
    let out = Command::new("python3")
        .args(["-c", script])
        .arg(list)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let cpu: f64 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
    (start.elapsed().as_secs_f64(), cpu)
}

fn collect(dir: &Path, room: &mut usize, into: &mut Vec<(String, Vec<u8>)>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            collect(&path, room, into);
        } else if meta.is_file()
            && meta.len() > 0
            && (meta.len() as usize) < *room
            && let Ok(bytes) = std::fs::read(&path)
        {
            *room -= bytes.len();
            into.push((format!("{:06}", into.len()), bytes));
        }
    }
}

fn real_tree() -> Layer {
    let dir = std::env::var("LACEWING_COST_TREE").unwrap_or("/usr/lib".into());
    let mut files = vec![];
    collect(Path::new(&dir), &mut (500 << 20), &mut files);
    let mut layer = layer(files, ZSTD);
    let len: usize = layer.files.iter().map(|(_, bytes)| bytes.len()).sum();
    println!(
        "{} files, {len} bytes, stored {}",
        layer.files.len(),
        layer.blob.len()
    );
    for (_, bytes) in &mut layer.files {
        *bytes = vec![];
    }
    layer
}

fn measure(node: &Node, what: &str, list: &Path) {
    let before = cpu();
    let counters = node.engine().counters();
    let (wall, reader) = read_elsewhere(list);
    let after = node.engine().counters();
    let [user, system] = cpu();
    println!(
        "{what}: wall {wall:.2} s, server {:.2} s user + {:.2} s system, reader {reader:.2} s, READs {}, misses {}, source reads {}, decoded {}",
        user - before[0],
        system - before[1],
        after.reads - counters.reads,
        after.misses - counters.misses,
        after.source_reads - counters.source_reads,
        after.decoded_bytes - counters.decoded_bytes,
    );
}

#[test]
#[ignore = "prints figures"]
fn cost_of_small_and_large_files() {
    let Some(node) = node(quiet) else { return };
    let tree = real_tree();
    let start = Instant::now();
    node.source.put(tree.blob_digest, tree.blob.clone());
    let id = node.engine().add_layer(&tree.index, tree.digest).unwrap();
    println!(
        "add_layer: {:?} for {} bytes stored",
        start.elapsed(),
        tree.index.len()
    );
    let start = Instant::now();
    let path = node.engine().show(id).unwrap().path;
    println!(
        "show: {:?}; features {:?}",
        start.elapsed(),
        node.engine().features()
    );
    let list = node.root.path().join("list");
    let names: Vec<String> = tree
        .files
        .iter()
        .map(|(name, _)| path.join(name).display().to_string())
        .collect();
    std::fs::write(&list, names.join("\n")).unwrap();
    drop(tree);
    measure(&node, "all files, nothing local", &list);
    drop_caches();
    measure(&node, "all files, all local, incomplete mount, cold", &list);
    measure(&node, "again, warm", &list);
    drop_caches();
    let direct = node.engine().show(id).unwrap();
    println!("complete: {}", direct.direct);
    let names: Vec<String> = names.iter().map(|name| name.replace("/l/1/", "/l/1c/")).collect();
    std::fs::write(&list, names.join("\n")).unwrap();
    measure(&node, "all files, direct mount, cold", &list);
    println!("memory of the process, blob in memory included: {}", rss());
}

#[test]
#[ignore = "prints figures"]
fn cost_of_one_large_file() {
    let Some(node) = node(quiet) else { return };
    let len = 512 << 20;
    let large = layer(vec![("file".into(), noise(1, len))], ZSTD);
    let path = node.show(&large).join("file");
    let list = node.root.path().join("list");
    std::fs::write(&list, path.display().to_string()).unwrap();
    drop(large);
    measure(&node, "512 MiB file, nothing local", &list);
    for _ in 0..3 {
        drop_caches();
        measure(&node, "512 MiB file, all local, incomplete mount, cold", &list);
    }
}

#[test]
#[ignore = "prints figures"]
fn cost_of_random_reads() {
    let Some(node) = node(quiet) else { return };
    let len = 200 << 20;
    let large = layer(vec![("file".into(), noise(1, len))], ZSTD);
    let path = node.show(&large).join("file");
    node.source.delay(Duration::from_micros(200));
    let mut at = 1_u64;
    let start = Instant::now();
    for _ in 0..200 {
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let offset = ((at >> 33) % (len as u64 - 4096)) & !4095;
        read_at(&path, offset, 4096).unwrap();
    }
    let mean = start.elapsed() / 200;
    println!("200 random reads: mean {mean:?}, {:?}", node.engine().counters());
}

const INDEXES: &str = "LACEWING_COST_INDEXES";

/// Twenty images of 50,000 files each, mounted by a process of its own, one of them walked.
#[test]
#[ignore = "prints figures"]
fn cost_of_many_layers() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..20 {
        let files = (0..50_000).map(|n| (format!("{number}-file-{n:05}"), noise(n + number * 50_000, 1500)));
        let layer = layer(files.collect(), ZSTD);
        std::fs::write(dir.path().join(format!("{number:02}.index")), &layer.index).unwrap();
        std::fs::write(dir.path().join(layer.blob_digest.hex()), &layer.blob).unwrap();
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cost::many_layers_child", "--ignored", "--nocapture"])
        .env(INDEXES, dir.path())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "started by the one above"]
fn many_layers_child() {
    let Ok(dir) = std::env::var(INDEXES) else { return };
    let Some(mut node) = node(quiet) else { return };
    node.stop();
    let runtime = node.runtime.handle().clone();
    let source = std::sync::Arc::new(crate::source::Files {
        dir: dir.clone().into(),
        delay: Duration::ZERO,
    });
    let mut options = lacewing_fusefs::Options::new(node.root.path(), source, runtime);
    options.background = false;
    let engine = lacewing_fusefs::Engine::open(options).unwrap();
    node.serving = Some(engine.serve(node.connection.try_clone().unwrap()).unwrap());
    println!("before: {}", rss());
    let mut shown = vec![];
    for number in 0..20 {
        let index = std::fs::read(format!("{dir}/{number:02}.index")).unwrap();
        let start = Instant::now();
        let id = engine
            .add_layer(&index, lacewing_format::Digest::of(&index))
            .unwrap();
        let added = start.elapsed();
        let start = Instant::now();
        shown.push(engine.show(id).unwrap().path);
        println!(
            "layer {number}: add {added:?}, show {:?}, {}",
            start.elapsed(),
            rss()
        );
    }
    let start = Instant::now();
    let out = Command::new("find").arg(&shown[7]).arg("-ls").output().unwrap();
    println!(
        "walk: {:?}, {} lines, {}",
        start.elapsed(),
        out.stdout.split(|b| *b == b'\n').count(),
        rss()
    );
    let list = node.root.path().join("list");
    let names: Vec<String> = (0..50_000)
        .map(|n| format!("{}/7-file-{n:05}", shown[7].display()))
        .collect();
    std::fs::write(&list, names.join("\n")).unwrap();
    let (wall, _) = read_elsewhere(&list);
    println!("all files of it read: {wall:.2} s, {}", rss());
    let start = Instant::now();
    engine.status();
    println!("status: {:?}, {}", start.elapsed(), rss());
    node.serving.take().unwrap().stop();
    drop(engine);
    let start = Instant::now();
    node.start(quiet);
    println!("opened again: {:?}, {}", start.elapsed(), rss());
}
