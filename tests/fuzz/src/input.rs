//! Inputs taken apart.

use std::path::PathBuf;

/// Reads numbers and texts off an input; zeros and nothing behind its end.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes after their count, which is one byte.
    pub(crate) fn counted(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.bytes(count.into())
    }
}

/// Applies the changes that an input lists: an offset (3 bytes), a count, and as many bytes.
pub(crate) fn change(bytes: &mut [u8], mut input: &[u8]) {
    while let Some((&[a, b, c, count], rest)) = input.split_first_chunk::<4>() {
        if bytes.is_empty() {
            return;
        }
        let at = u32::from_le_bytes([a, b, c, 0]) as usize % bytes.len();
        let count = usize::from(count % 32).min(rest.len()).min(bytes.len() - at);
        bytes[at..at + count].copy_from_slice(&rest[..count]);
        input = &rest[count..];
    }
}

/// An empty folder of this thread's own, in memory where there is such a place.
pub(crate) fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let thread = std::thread::current().id();
    let dir = base.join(format!("lacewing-fuzz-{}-{thread:?}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder for the run");
    dir
}
