//! Memory that bytes can be read into straight from the disk.

use lacewing_format::limits::BLOCK;

use crate::wire::OUT_HEADER;

/// Bytes of which the first lies on a block's boundary, used again and again. The memory only
/// grows: clearing it would cost as much as filling it.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Room for `len` bytes, with what is left from before in them.
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        let message = self.message(len);
        &mut message[OUT_HEADER..]
    }

    /// The same with room for an answer's header before it.
    pub(crate) fn message(&mut self, len: usize) -> &mut [u8] {
        let message = OUT_HEADER + len;
        if self.memory.len() < message + BLOCK {
            // Not by growing: what is there need not be copied.
            self.memory = vec![0; message + BLOCK];
        }
        self.start = self.memory[OUT_HEADER..].as_ptr().align_offset(BLOCK);
        self.len = message;
        &mut self.memory[self.start..self.start + message]
    }

    /// The bytes that there was room for last.
    pub(crate) fn bytes(&self) -> &[u8] {
        let message = &self.memory[self.start..self.start + self.len];
        message.get(OUT_HEADER..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_on_a_boundary_whatever_their_count() {
        let mut buffer = AlignedBuffer::default();
        assert_eq!(buffer.bytes(), []);
        for len in [0, 1, 4096, 1 << 20, 5000] {
            assert_eq!(buffer.message(len).len(), OUT_HEADER + len);
            buffer.room(len).fill(7);
            assert_eq!(buffer.bytes(), vec![7; len]);
            assert_eq!(buffer.bytes().as_ptr().addr() % BLOCK, 0);
        }
    }
}
