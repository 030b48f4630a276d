//! A blob of a store, read by a thread that may block.

use std::fs::File;
use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use lacewing_oci::{Descriptor, Store};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::Error;

/// Parts of a body on the way: some hundred KiB at what transports hand out.
const PARTS: usize = 16;

/// Bytes of a blob as `Read`. The store's verdict on the digest comes as an error at the end.
pub(crate) struct BlobReader {
    parts: mpsc::Receiver<Result<Bytes, lacewing_oci::Error>>,
    part: Bytes,
    ended: bool,
    copy: Option<File>,
    read: u64,
    on_read: Box<dyn FnMut(u64) + Send>,
}

impl BlobReader {
    /// Opens a blob. `copy` gets all bytes, too; `on_read` is told how many have been read so far. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn open(
        runtime: &Handle,
        store: &Store,
        descriptor: &Descriptor,
        copy: Option<File>,
        on_read: Box<dyn FnMut(u64) + Send>,
    ) -> Result<Self, Error> {
        let mut blob = runtime.block_on(store.blob(descriptor))?;
        let (send, parts) = mpsc::channel(PARTS);
        runtime.spawn(async move {
            while let Some(part) = blob.next().await {
                let failed = part.is_err();
                let empty = part.as_ref().is_ok_and(Bytes::is_empty);
                if !empty && (send.send(part).await.is_err() || failed) {
                    return;
                }
            }
            // The end. A task that is dropped before, with its runtime, leaves a stream without one.
            drop(send.send(Ok(Bytes::new())).await);
        });
        Ok(Self {
            parts,
            part: Bytes::new(),
            ended: false,
            copy,
            read: 0,
            on_read,
        })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.part.is_empty() && !self.ended {
            match self.parts.blocking_recv() {
                None => return Err(std::io::Error::other(Error::Stopped)),
                Some(Ok(part)) if part.is_empty() => self.ended = true,
                Some(Err(error)) => return Err(std::io::Error::other(Error::Store(error))),
                Some(Ok(part)) => {
                    if let Some(copy) = &mut self.copy {
                        copy.write_all(&part)?;
                    }
                    self.read += part.len() as u64;
                    (self.on_read)(self.read);
                    self.part = part;
                }
            }
        }
        let len = buffer.len().min(self.part.len());
        self.part.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}
