//! Small files share frames. Which files go together decides how well a frame compresses, and how much of it a reader
//! of one file needs besides: files of one kind in one folder do.

/// Files (or what is new of them) up to this length share frames, padding included; longer ones have their own. At half a
/// frame, there are always two in one: with a bound of 128 KiB images get 2 % larger, with one of 768 KiB no smaller.
pub(crate) const SMALL: usize = FRAME / 2;

/// Most plain bytes in a shared frame, the padding of each file to a block included: a reader writes them to the pack at
/// once. Frames of 256 KiB would be 4 % larger; the decisions in the docs weigh that against reading one small file.
const FRAME: usize = 1 << 20;

/// Bytes, padding included, among which files are put into order. In four shelves, 32 MiB at most.
const SHELF: usize = 8 << 20;

/// A small file's place on the shelf.
#[derive(Clone, Debug)]
pub(crate) struct Small {
    /// Kind, then path.
    key: (Vec<u8>, Vec<u8>),
    start: usize,
    end: usize,
    pub(crate) chunks: Vec<u32>,
}

/// Small files that wait for their like.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    plain: Vec<u8>,
    files: Vec<Small>,
}

impl Shelf {
    /// Takes a file's new bytes, padded.
    ///
    /// Of files that are hardly ever read (`cold`), those made from one source go together: they share most of their
    /// words. Elsewhere a reader of the one seldom reads the other, so that files of one kind go together.
    pub(crate) fn put(&mut self, path: &[u8], cold: bool, plain: &[u8], chunks: Vec<u32>) {
        let start = self.plain.len();
        self.plain.extend_from_slice(plain);
        let key = if cold {
            source(path)
        } else {
            (kind(path).to_vec(), path.to_vec())
        };
        self.files.push(Small {
            key,
            start,
            end: self.plain.len(),
            chunks,
        });
    }

    /// Is there enough to choose from?
    pub(crate) fn is_full(&self) -> bool {
        self.plain.len() >= SHELF
    }

    /// Takes frames of files that belong together: `all`, or without the last one, which may get more.
    pub(crate) fn frames(&mut self, all: bool) -> Vec<Vec<Small>> {
        let mut files = std::mem::take(&mut self.files);
        files.sort_by(|a, b| a.key.cmp(&b.key));
        let mut frames: Vec<Vec<Small>> = Vec::new();
        let mut len = FRAME;
        for file in files {
            len += file.end - file.start;
            if len > FRAME {
                len = file.end - file.start;
                frames.push(Vec::new());
            }
            if let Some(frame) = frames.last_mut() {
                frame.push(file);
            }
        }
        if !all && frames.len() > 1 {
            self.files = frames.pop().unwrap_or_default();
        }
        frames
    }

    /// Appends a frame's bytes.
    pub(crate) fn copy(&self, frame: &[Small], plain: &mut Vec<u8>) {
        for file in frame {
            plain.extend_from_slice(&self.plain[file.start..file.end]);
        }
    }

    /// Drops the bytes of files that were taken.
    pub(crate) fn tidy(&mut self) {
        let mut plain = Vec::new();
        for file in &mut self.files {
            let start = plain.len();
            plain.extend_from_slice(&self.plain[file.start..file.end]);
            (file.start, file.end) = (start, plain.len());
        }
        self.plain.clear();
        self.plain.extend_from_slice(&plain);
    }
}

/// A file's kind, by the end of its name.
fn kind(path: &[u8]) -> &[u8] {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    match name.iter().rposition(|&b| b == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= 8 => &name[dot..],
        _ => b"",
    }
}

/// Folder of a file's source, and its name: `a/__pycache__/b.cpython-311.pyc` is made from `a/b.py`.
fn source(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (folder, name) = path.split_at(path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1));
    (
        folder.strip_suffix(b"__pycache__/").unwrap_or(folder).to_vec(),
        name.to_vec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_kept_together() {
        let mut shelf = Shelf::default();
        for (number, name) in ["/a.py", "/a.pyc", "/b.py", "/b.pyc", "/.hidden"]
            .iter()
            .enumerate()
        {
            shelf.put(name.as_bytes(), false, &[number as u8; 4096], vec![number as u32]);
        }
        let frames = shelf.frames(true);
        let order: Vec<u32> = frames
            .iter()
            .flatten()
            .flat_map(|file| file.chunks.clone())
            .collect();
        assert_eq!(order, [4, 0, 2, 1, 3]);
        let mut plain = Vec::new();
        shelf.copy(&frames[0], &mut plain);
        assert_eq!((plain[0], plain[4096], plain.len()), (4, 0, 5 * 4096));
    }

    #[test]
    fn the_last_frame_waits_for_more() {
        let mut shelf = Shelf::default();
        for number in 0..5 {
            shelf.put(b"/x", false, &[1; 400 << 10], vec![number]);
        }
        assert_eq!(shelf.frames(false).len(), 2);
        shelf.tidy();
        assert_eq!((shelf.files.len(), shelf.plain.len()), (1, 400 << 10));
        assert_eq!(shelf.frames(true).len(), 1);
    }
}
