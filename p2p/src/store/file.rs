//! A piece as a file: its bytes and a seal.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::piece::PieceId;

/// Behind the bytes of a piece on disk: the beginning of their BLAKE3. Only what an earlier process wrote whole is
/// believed, and a disk that forgets is no reason for others to take this node for a liar.
const SEAL: usize = 16;

/// Writes a piece and its seal.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.write_all(&seal(bytes))
}

fn seal(bytes: &[u8]) -> [u8; SEAL] {
    let mut seal = [0; SEAL];
    seal.copy_from_slice(&blake3::hash(bytes).as_bytes()[..SEAL]);
    seal
}

/// The piece in a file, if it is whole.
pub(super) fn unsealed(file: Vec<u8>, len: usize) -> Option<Bytes> {
    let (bytes, found) = file.split_at_checked(len)?;
    (found == seal(bytes)).then(|| Bytes::from(file).slice(..len))
}

/// A file that an earlier process left.
pub(super) struct Left {
    pub(super) piece: PieceId,
    /// Since it was written.
    pub(super) idle: Duration,
}

impl Left {
    /// `None`: it is no piece, or was not written to its end.
    pub(super) fn of(entry: &std::fs::DirEntry) -> Option<Left> {
        let name = entry.file_name().into_string().ok()?;
        let mut parts = name.split('-');
        let piece = PieceId {
            blob: format!("sha256:{}", parts.next()?).parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            len: parts.next()?.parse().ok()?,
        };
        let data = entry.metadata().ok()?;
        let whole = data.len() == u64::from(piece.len).checked_add(SEAL as u64)?;
        // A clock that was put back: as if written now.
        let idle = data.modified().ok()?.elapsed().unwrap_or_default();
        let known = whole && data.is_file() && piece.len > 0 && name == file_name(&piece);
        known.then_some(Left { piece, idle })
    }
}

pub(super) fn file_name(piece: &PieceId) -> String {
    format!("{}-{}-{}", piece.blob.hex(), piece.offset, piece.len)
}
