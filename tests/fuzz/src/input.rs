//! Inputs taken apart.

use std::path::Path;

use tempfile::TempDir;

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

thread_local! {
    /// A folder of this thread's own, in memory where there is such a place.
    static FOLDER: TempDir = {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        TempDir::with_prefix_in("lacewing-fuzz-", base).expect("a folder for the run")
    };
}

/// Lends the thread's folder. Who leaves files there clears them away.
pub(crate) fn scratch<T>(run: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| run(folder.path()))
}
