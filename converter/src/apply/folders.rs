//! The folders that entries lie in: found, or made like those of the layers below.

use lacewing_format::InodeId;

use super::applier::{Applier, new_dir, path_refused, refused};
use super::attributes;
use super::path::{PathError, ROOT, child, lstat, root_path};
use crate::Error;
use crate::tar::Entry;

impl Applier<'_> {
    /// Resolves an entry's folder and makes it if it is not there.
    pub(super) fn folder(&mut self, entry: &Entry, name: &[u8]) -> Result<(Vec<u8>, InodeId), Error> {
        if let Some((raw, path, id)) = &self.last_dir
            && raw == name
        {
            return Ok((path.clone(), *id));
        }
        let path = root_path(&self.tree, name).map_err(path_refused(entry))?;
        let id = self.make_folders(entry, &path)?;
        self.last_dir = Some((name.to_vec(), path.clone(), id));
        Ok((path, id))
    }

    /// Makes the folders of a resolved path that are missing.
    fn make_folders(&mut self, entry: &Entry, path: &[u8]) -> Result<InodeId, Error> {
        let mut here = ROOT;
        let mut at = 0;
        for part in path.split(|&b| b == b'/') {
            at += part.len() + 1;
            if part.is_empty() {
                continue;
            }
            if part.len() > lacewing_format::limits::MAX_NAME {
                return Err(refused(entry, PathError::NameTooLong.reason()));
            }
            here = match child(&self.tree, here, part) {
                Some(id) if attributes::is_dir(self.inode(id)) => id,
                Some(_) => return Err(refused(entry, "a part of its path is not a directory")),
                None => self.make_folder(entry, here, part, &path[..at - 1])?,
            };
        }
        Ok(here)
    }

    /// Makes one folder that no entry describes, like the one below it if there is one.
    fn make_folder(
        &mut self,
        entry: &Entry,
        dir: InodeId,
        name: &[u8],
        path: &[u8],
    ) -> Result<InodeId, Error> {
        self.stands_alone = false;
        let id = self.add(entry, dir, name, new_dir())?;
        self.implied.insert(id);
        for lower in self.lowers {
            let lower_path = root_path(lower, path).map_err(path_refused(entry))?;
            let Some(found) = lstat(lower, &lower_path).map_err(path_refused(entry))? else {
                continue;
            };
            let found = &lower.inodes[found.0 as usize];
            if attributes::is_dir(found) {
                let inode = self.inode_mut(id);
                attributes::chown(inode, found.uid, found.gid);
                attributes::chmod(inode, found.mode);
                inode.mtime = inode.mtime.max(found.mtime);
                for (name, value) in found
                    .xattrs
                    .iter()
                    .filter(|(name, _)| !name.starts_with(b"trusted."))
                {
                    if attributes::xattr(inode, name).is_none() {
                        attributes::put(inode, name, value.clone());
                    }
                }
            }
            break;
        }
        Ok(id)
    }
}
