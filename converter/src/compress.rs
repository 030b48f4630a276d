//! Plain frames become stored ones: which zstd parameters, and when a frame is stored as it is.
//!
//! Levels 3 and 5 have parameters of their own, measured on a quarter of the frames of a Python image (124 MB, half of it
//! shared libraries), one thread: level 3 compresses 381 MB/s instead of 366 and gets as small with tables that fit the
//! nearest caches; level 5 gets 1 % smaller and 4 % faster with 16 tries for every match instead of 4 to 32.

use lacewing_format::Codec;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, Strategy, compress_bound};

use crate::Error;
use crate::error::io;

/// Part of its plain length that a frame must save to be stored compressed. Below, decoding costs more than it saves.
const MIN_SAVING: usize = 32;

/// Level of frames that deserve more time, if the level asked for is lower.
const THOROUGH: i32 = 9;

/// How much time a frame deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// That of the level asked for.
    Usual,
    /// More: of a later version of an image only little is new, and it is stored and sent for as long as that version is
    /// used.
    Thorough,
}

/// Compresses frames, one after the other.
pub(crate) struct FrameCompressor {
    level: i32,
    usual: Option<Compressor<'static>>,
    thorough: Option<Compressor<'static>>,
    stored: Vec<u8>,
}

impl FrameCompressor {
    /// Compresses at `level`.
    pub(crate) fn new(level: i32) -> Self {
        Self {
            level,
            usual: None,
            thorough: None,
            stored: Vec::new(),
        }
    }

    /// The stored form of a frame.
    ///
    /// # Errors
    /// Those of zstd: no memory.
    pub(crate) fn frame<'a>(
        &'a mut self,
        plain: &'a [u8],
        effort: Effort,
    ) -> Result<(Codec, &'a [u8]), Error> {
        let (compressor, level) = match effort {
            Effort::Usual => (&mut self.usual, self.level),
            Effort::Thorough => (&mut self.thorough, self.level.max(THOROUGH)),
        };
        let compressor = match compressor {
            Some(compressor) => compressor,
            none => none.insert(make(level).map_err(io("zstd"))?),
        };
        self.stored.clear();
        self.stored.reserve(compress_bound(plain.len()));
        compressor
            .compress_to_buffer(plain, &mut self.stored)
            .map_err(io("zstd"))?;
        let saves = self.stored.len() + plain.len() / MIN_SAVING < plain.len();
        Ok(if saves {
            (Codec::Zstd, &self.stored)
        } else {
            (Codec::Raw, plain)
        })
    }
}

fn make(level: i32) -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    let tuned: &[CParameter] = match level {
        3 => &[
            CParameter::Strategy(Strategy::ZSTD_dfast),
            CParameter::HashLog(17),
            CParameter::ChainLog(16),
            CParameter::MinMatch(5),
        ],
        5 => &[
            CParameter::Strategy(Strategy::ZSTD_greedy),
            CParameter::HashLog(18),
            CParameter::SearchLog(4),
            CParameter::MinMatch(5),
        ],
        // 2 % smaller for a tenth of the speed.
        THOROUGH => &[CParameter::MinMatch(4)],
        _ => &[],
    };
    for parameter in tuned {
        compressor.set_parameter(*parameter)?;
    }
    Ok(compressor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Text that no two matches away repeats.
    fn text() -> Vec<u8> {
        let word = |n: u32| format!("{} ", blake3::hash(&(n % 977).to_le_bytes()).to_hex());
        (0..4000).flat_map(|n| word(n * n).into_bytes()).collect()
    }

    #[test]
    fn frames_come_back_at_every_level_and_effort() {
        let text = text();
        for level in 1..=19 {
            let mut compressor = FrameCompressor::new(level);
            for effort in [Effort::Usual, Effort::Thorough] {
                let (codec, stored) = compressor.frame(&text, effort).unwrap();
                assert_eq!(codec, Codec::Zstd, "{level}");
                assert_eq!(
                    zstd::bulk::decompress(stored, text.len()).unwrap(),
                    text,
                    "{level}"
                );
            }
        }
    }

    #[test]
    fn more_effort_is_never_less_than_the_level_asked_for() {
        let text = text();
        let len = |level, effort| {
            let mut compressor = FrameCompressor::new(level);
            compressor.frame(&text, effort).unwrap().1.len()
        };
        assert!(len(3, Effort::Thorough) < len(3, Effort::Usual));
        assert_eq!(len(15, Effort::Thorough), len(15, Effort::Usual));
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut compressor = FrameCompressor::new(5);
        let (codec, stored) = compressor.frame(&noise, Effort::Usual).unwrap();
        assert_eq!((codec, stored), (Codec::Raw, noise.as_slice()));
    }
}
