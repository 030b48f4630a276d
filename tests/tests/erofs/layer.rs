//! Layers made by hand: a tree, and the plain bytes its files point to.

use std::collections::BTreeMap;

use lacewing_format::tree::{S_IFDIR, S_IFREG};
use lacewing_format::{
    Body, Chunk, ChunkId, Codec, Device, Digest, Extent, FileBody, Frame, Inode, InodeId, Tables, Time, Tree,
};

const BLOCK: usize = 4096;

/// Chunks in one frame of a layer made here: small, so that there are several frames.
const CHUNKS_PER_FRAME: usize = 3;

/// The root of every tree.
pub(crate) const ROOT: InodeId = InodeId(0);

/// Plain bytes of one blob, and where its chunks are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pack {
    pub(crate) plain: Vec<u8>,
    chunks: Vec<Chunk>,
}

/// A tree under construction.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) tree: Tree,
    pub(crate) packs: Vec<Pack>,
    /// Content of each regular file; holes are zeros.
    pub(crate) contents: BTreeMap<InodeId, Vec<u8>>,
}

/// An inode of root's, of an ordinary time.
pub(crate) fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time {
            secs: 1_700_000_000,
            nanos: 0,
        },
        xattrs: Vec::new(),
        body,
    }
}

/// An empty directory.
pub(crate) fn dir() -> Inode {
    inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()))
}

impl Layer {
    /// A root and nothing else, over as many blobs.
    pub(crate) fn new(packs: usize) -> Self {
        Self {
            tree: Tree { inodes: vec![dir()] },
            packs: vec![Pack::default(); packs],
            contents: BTreeMap::new(),
        }
    }

    /// Adds an inode under a name; a name that is taken stays as it is.
    pub(crate) fn add(&mut self, parent: InodeId, name: &[u8], inode: Inode) -> InodeId {
        let id = InodeId(self.tree.inodes.len() as u32);
        self.tree.inodes.push(inode);
        self.link(parent, name, id);
        id
    }

    /// Adds a name of an inode that is there; a name that is taken stays as it is.
    pub(crate) fn link(&mut self, parent: InodeId, name: &[u8], id: InodeId) {
        let Body::Dir(entries) = &mut self.tree.inodes[parent.0 as usize].body else {
            panic!("{parent:?} is no directory");
        };
        entries.entry(name.to_vec()).or_insert(id);
    }

    /// Adds a regular file whose chunks go to one blob; chunks of zeros become holes.
    pub(crate) fn add_file(
        &mut self,
        parent: InodeId,
        name: &[u8],
        pack: usize,
        chunk_bits: u8,
        content: Vec<u8>,
    ) -> InodeId {
        let extents = content
            .chunks(1 << chunk_bits)
            .map(|chunk| self.packs[pack].store(pack, chunk));
        let body = Body::File(FileBody {
            size: content.len() as u64,
            chunk_bits,
            extents: extents.collect(),
        });
        let id = self.add(parent, name, inode(S_IFREG | 0o644, body));
        self.contents.insert(id, content);
        id
    }

    /// Tables for the packs: raw frames of a few chunks each.
    pub(crate) fn tables(&self) -> Tables {
        let mut tables = Tables {
            devices: Vec::new(),
            frames: Vec::new(),
            chunks: Vec::new(),
            prefetch: Vec::new(),
            recorded: false,
            layer: Digest::of(b"a layer"),
            diff_id: Digest::of(b"its tar"),
        };
        for (number, pack) in self.packs.iter().enumerate() {
            let first_frame = tables.frames.len() as u32;
            let mut offset = 0;
            for chunks in pack.chunks.chunks(CHUNKS_PER_FRAME) {
                let blocks: u32 = chunks.iter().map(Chunk::blocks).sum();
                let len = blocks * BLOCK as u32;
                let first_chunk = tables.chunks.len() as u32;
                tables.frames.push(Frame::new(
                    offset,
                    len,
                    first_chunk,
                    chunks.len() as u32,
                    Codec::Raw,
                ));
                tables.chunks.extend_from_slice(chunks);
                offset += u64::from(len);
            }
            let count = tables.frames.len() as u32 - first_frame;
            let blob = Digest::of(format!("blob {number}").as_bytes());
            let blocks = (pack.plain.len() / BLOCK) as u32;
            tables
                .devices
                .push(Device::new(blob, offset, blocks, first_frame, count));
        }
        tables
    }
}

impl Pack {
    fn store(&mut self, device: usize, chunk: &[u8]) -> Extent {
        if chunk.iter().all(|&byte| byte == 0) {
            return Extent::Hole;
        }
        let block = (self.plain.len() / BLOCK) as u32;
        self.plain.extend_from_slice(chunk);
        self.plain.resize(self.plain.len().next_multiple_of(BLOCK), 0);
        self.chunks
            .push(Chunk::new(block, chunk.len() as u32, ChunkId::of(chunk)));
        Extent::Data {
            device: device as u16,
            block,
        }
    }
}
