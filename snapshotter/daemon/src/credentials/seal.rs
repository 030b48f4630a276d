//! Credentials on disk, sealed: ChaCha20-Poly1305 under a key that is made (HKDF-SHA256) from the content of a file.
//!
//! The file may be any with 32 random bytes, or what systemd's `LoadCredentialEncrypted=` puts below
//! `/run/credentials`. It should not lie on the disk that it protects.
//!
//! Layout: [`MAGIC`], 12 bytes of nonce, the sealed bytes with their tag. The nonce is random: 2^32 writes under one key are safe.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};

/// Says what the file is, and in which version.
const MAGIC: &[u8; 16] = b"lacewing sealed\x01";
/// The name below the root.
const NAME: &str = "credentials.sealed";
/// A key's file: at least as long as the key that is made from it.
const KEY_BYTES: std::ops::RangeInclusive<u64> = 32..=4096;
/// Credentials of a thousand repositories take some MiB at most.
const MAX_FILE: u64 = 16 << 20;

/// A file and the key to it.
pub(super) struct Seal {
    path: PathBuf,
    key: LessSafeKey,
}

impl Seal {
    /// The sealed file below `root`, under the key of `key_file`.
    ///
    /// # Errors
    /// The key cannot be read, is too short, or others may read it too.
    pub(super) fn open(root: &Path, key_file: &Path) -> Result<Seal> {
        let name = || format!("registry.seal_key_file {}", key_file.display());
        let file = File::open(key_file).with_context(name)?;
        let metadata = file.metadata().with_context(name)?;
        if !metadata.is_file() || !KEY_BYTES.contains(&metadata.len()) {
            bail!(
                "{}: a file of {} to {} random bytes is expected",
                name(),
                KEY_BYTES.start(),
                KEY_BYTES.end()
            );
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            bail!("{}: others may use it too; chmod 600 it", name());
        }
        let mut secret = Vec::new();
        file.take(*KEY_BYTES.end())
            .read_to_end(&mut secret)
            .with_context(name)?;
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, MAGIC);
        let made = salt.extract(&secret);
        let key = made.expand(&[b"credentials"], &CHACHA20_POLY1305);
        let key = key.map_err(|_| anyhow::anyhow!("{}: no key can be made from it", name()))?;
        Ok(Seal {
            path: root.join(NAME),
            key: LessSafeKey::new(UnboundKey::from(key)),
        })
    }

    /// Replaces what is kept. Readable by root alone, whole or not at all after a crash.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn write(&self, mut plain: Vec<u8>) -> std::io::Result<()> {
        let failed = |_| std::io::Error::other("sealing failed");
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(unique, Aad::from(MAGIC), &mut plain)
            .map_err(failed)?;
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        for part in [&MAGIC[..], &nonce, &plain] {
            file.write_all(part)?;
        }
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }

    /// What was kept last; None if nothing was.
    ///
    /// # Errors
    /// It was sealed under another key, or is damaged, or the disk's.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>> {
        let name = || self.path.display().to_string();
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(name),
        };
        let mut sealed = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut sealed).with_context(name)?;
        let opened = || {
            let (nonce, mut bytes) = sealed
                .strip_prefix(MAGIC)?
                .split_at_checked(NONCE_LEN)
                .map(|(nonce, rest)| (nonce, rest.to_vec()))?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let len = self
                .key
                .open_in_place(nonce, Aad::from(MAGIC), &mut bytes)
                .ok()?
                .len();
            bytes.truncate(len);
            Some(bytes)
        };
        match opened() {
            Some(plain) => Ok(Some(plain)),
            None => bail!("{}: sealed under another key, or damaged", name()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(dir: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn what_was_sealed_opens_under_its_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let one = Seal::open(dir.path(), &key(dir.path(), "one", &[1; 32], 0o600)).unwrap();
        let two = Seal::open(dir.path(), &key(dir.path(), "two", &[2; 32], 0o400)).unwrap();
        assert_eq!(one.read().unwrap(), None);
        one.write(b"hunter2".to_vec()).unwrap();
        let file = dir.path().join(NAME);
        let first = std::fs::read(&file).unwrap();
        assert!(!first.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(one.read().unwrap().unwrap(), b"hunter2");
        assert!(two.read().unwrap_err().to_string().contains("another key"));
        one.write(b"hunter2".to_vec()).unwrap();
        assert_ne!(std::fs::read(&file).unwrap(), first, "a nonce twice");
    }

    #[test]
    fn every_changed_or_missing_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::open(dir.path(), &key(dir.path(), "key", &[7; 64], 0o600)).unwrap();
        seal.write(b"some credentials".to_vec()).unwrap();
        let file = dir.path().join(NAME);
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&file, &bad).unwrap();
            assert!(seal.read().is_err(), "byte {at}");
            std::fs::write(&file, &good[..at]).unwrap();
            assert!(seal.read().is_err(), "{at} bytes");
        }
    }

    #[test]
    fn keys_that_protect_nothing_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (content, mode, reason) in [
            (vec![1; 31], 0o600, "random bytes"),
            (vec![1; 5000], 0o600, "random bytes"),
            (vec![1; 32], 0o644, "chmod 600"),
        ] {
            let path = key(dir.path(), "key", &content, mode);
            let error = Seal::open(dir.path(), &path).err().unwrap();
            assert!(error.to_string().contains(reason), "{error}");
            std::fs::remove_file(path).unwrap();
        }
        assert!(Seal::open(dir.path(), Path::new("/nowhere")).is_err());
    }
}
