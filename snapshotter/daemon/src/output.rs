//! What commands print for people: tables, sizes, and an end that is quiet when the reader has gone.

use std::io::{ErrorKind, Write};

use anyhow::Result;

/// Prints to standard output. A reader that went away (`| head`) wants no more, which is no failure.
///
/// # Errors
/// Anything else that writing may meet, a full disk for instance.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// `17`, `4.0 KiB`, `1.2 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["", " KiB", " MiB", " GiB", " TiB"] {
        if value < 1000.0 {
            return if unit.is_empty() {
                format!("{count}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// The first twelve digits of a digest are enough for a person.
pub(crate) fn short(digest: &str) -> String {
    digest
        .strip_prefix("sha256:")
        .unwrap_or(digest)
        .chars()
        .take(12)
        .collect()
}

/// `4 of 10 (40 %)`-like shares without dividing by nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0} %", part as f64 * 100.0 / whole as f64),
    }
}

/// Columns, two spaces apart, the last one as long as it likes.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            all()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a daemon at an address says to a request that it does not fulfil.
pub(crate) fn refusal(address: &std::path::Path, status: &tonic::Status) -> anyhow::Error {
    let at = address.display();
    match status.code() {
        tonic::Code::Unavailable => {
            anyhow::anyhow!("no daemon answers at {at} (another socket: --address)")
        }
        _ => anyhow::anyhow!("the daemon at {at}: {}", status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (4096, "4.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(1, 4), "25 %");
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), String::new()],
        ];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME  N\na     1\nlong\n");
    }
}
