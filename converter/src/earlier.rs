//! Earlier images in the target's repository, whose blobs a new image may point to.

use std::cmp::Reverse;

use lacewing_format::{Index, media_type};
use lacewing_oci::{Access, Client, Error as StoreError, Reference, Store};

use crate::blob::{Blob, from_index};
use crate::limits::MAX_EARLIER_BLOBS;
use crate::manifest::{self, invalid};
use crate::progress::{Event, Progress};
use crate::{ConvertOptions, Error, load};

/// Images that are used without being asked for: versions follow each other, so the nearest hold nearly all there is.
const IMAGES: usize = 4;

/// Tags that are looked at to find them: each costs a request or two.
const TAGS: usize = 12;

/// Collects the blobs of the images that the options name, and of those that stand at the target. `target` is the
/// target's store, if it exists.
pub(crate) async fn blobs(
    client: &Client,
    dst: &Reference,
    target: Option<&Store>,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Vec<Blob>, Error> {
    let mut blobs = Vec::new();
    for reference in &options.dedup_against {
        if !same_repository(reference, dst) {
            let reason = format!("is not in the repository of {dst}, so its blobs cannot be pointed to");
            return Err(invalid(reference.to_string(), reason));
        }
        let store = Store::open(client, reference, Access::Read).await?;
        take(&store, None, false, &mut blobs).await?;
    }
    if let (true, Some(target)) = (options.auto_dedup, target) {
        at_target(dst, target, options.record.is_some(), &mut blobs, progress).await?;
    }
    present(blobs, target).await
}

/// Do two references name the same place where blobs are kept?
fn same_repository(a: &Reference, b: &Reference) -> bool {
    match (a, b) {
        (Reference::Registry(a), Reference::Registry(b)) => a.host == b.host && a.repository == b.repository,
        (Reference::Layout { dir: a, .. }, Reference::Layout { dir: b, .. }) => {
            a == b
                || a.canonicalize()
                    .ok()
                    .zip(b.canonicalize().ok())
                    .is_some_and(|(a, b)| a == b)
        }
        _ => false,
    }
}

/// Adds the blobs of all images that a reference names, or only of those that were made with a record. Tells whether there
/// was one.
///
/// One without has what its start reads among other bytes. An image with a record would store that anew, and who reads the
/// rest of it would fetch both.
async fn take(
    store: &Store,
    reference: Option<&str>,
    recorded: bool,
    blobs: &mut Vec<Blob>,
) -> Result<bool, Error> {
    let images = load::images(store, reference, |_| true).await?;
    let mut found = false;
    for image in &images.images {
        let layers = load::indexes(store, image).await?;
        let indexes = layers.iter().map(|layer| Index::parse(&layer.plain));
        let indexes = indexes.collect::<Result<Vec<_>, _>>()?;
        if !recorded || indexes.iter().any(Index::recorded) {
            found = true;
            indexes.into_iter().for_each(|index| from_index(index, blobs));
        }
    }
    Ok(found)
}

/// Adds what stands under the target's own tag, and under the tags most like it.
async fn at_target(
    dst: &Reference,
    target: &Store,
    recorded: bool,
    blobs: &mut Vec<Blob>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let own = match dst {
        Reference::Registry(reference) => reference.tag.clone(),
        Reference::Layout { tag, .. } => tag.clone(),
        // An archive is written anew: nothing is in it.
        Reference::Archive { .. } => return Ok(()),
    };
    let tags = match target.tags().await {
        Ok(tags) => tags,
        // A registry need not list, and has no list of a repository that does not exist.
        Err(StoreError::NotFound { .. } | StoreError::Forbidden { .. } | StoreError::Invalid { .. }) => {
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let mut found = 0;
    let own_first = own.as_deref().into_iter();
    for tag in own_first
        .chain(alike(&tags, own.as_deref().unwrap_or("")))
        .take(TAGS)
    {
        match take(target, Some(tag), recorded, blobs).await {
            Ok(false) => {}
            Ok(true) => {
                progress.event(Event::Note(format!("dedup against {tag} in {}", target.place())));
                found += 1;
            }
            // Not there (registries that hide what is not public say forbidden), or an image like any other.
            Err(
                Error::Store(
                    StoreError::NotFound { .. } | StoreError::Forbidden { .. } | StoreError::Invalid { .. },
                )
                | Error::NotConverted { .. }
                | Error::Invalid { .. },
            ) => {}
            Err(error @ (Error::Format(_) | Error::Decompress { .. } | Error::Limit { .. })) => {
                progress.event(Event::Note(format!("no dedup against {tag}: {error}")));
            }
            Err(error) => return Err(error),
        }
        if found == IMAGES {
            break;
        }
    }
    Ok(())
}

/// Tags in order of likeness to `own`: the longest common beginning first, then the highest version.
fn alike<'a>(tags: &'a [String], own: &str) -> Vec<&'a str> {
    let common = |tag: &str| tag.bytes().zip(own.bytes()).take_while(|(a, b)| a == b).count();
    let mut tags: Vec<&str> = tags
        .iter()
        .map(String::as_str)
        .filter(|tag| *tag != own)
        .collect();
    tags.sort_by_cached_key(|tag| (Reverse(common(tag)), Reverse(version(tag))));
    tags
}

/// A tag cut into numbers and the rest, so that v10 comes after v9.
fn version(tag: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = tag;
    while !rest.is_empty() {
        let text_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(text_end);
        let digits_end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (digits, after) = after.split_at(digits_end);
        if !text.is_empty() {
            parts.push((0, text.to_owned()));
        }
        if !digits.is_empty() {
            parts.push((digits.parse().unwrap_or(u64::MAX), String::new()));
        }
        rest = after;
    }
    parts
}

/// Drops blobs that the repository no longer holds, and the smallest if there are too many.
async fn present(blobs: Vec<Blob>, target: Option<&Store>) -> Result<Vec<Blob>, Error> {
    let mut present = Vec::new();
    for blob in blobs {
        let descriptor =
            lacewing_oci::describe(manifest::media(media_type::BLOB), &blob.digest, blob.stored_len);
        if match target {
            Some(target) => target.has_blob(&descriptor).await?,
            None => true,
        } {
            present.push(blob);
        }
    }
    if present.len() > MAX_EARLIER_BLOBS {
        let mut lens: Vec<u64> = present.iter().map(|blob| blob.stored_len).collect();
        lens.sort_unstable_by_key(|&len| Reverse(len));
        let least = lens[MAX_EARLIER_BLOBS - 1];
        present.retain(|blob| blob.stored_len >= least);
        present.truncate(MAX_EARLIER_BLOBS);
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_most_alike_come_first() {
        let tags = ["latest", "v2", "v9", "v10", "v10-debug", "1.0"].map(str::to_owned);
        assert_eq!(
            alike(&tags, "v11"),
            ["v10-debug", "v10", "v9", "v2", "1.0", "latest"]
        );
    }
}
