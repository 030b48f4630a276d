//! Manifests, image indexes and configs as documents: what we do not know in them stays as it is.

mod converted;
mod document;
mod image_config;
mod media;
mod members;
mod platform;
#[cfg(test)]
mod tests;

pub(crate) use self::converted::{accelerator, annotate, image_index, make_native, name_host, plain};
pub(crate) use self::document::{bytes, describe, invalid, parse};
pub(crate) use self::image_config::{ConfigFacts, config_facts};
pub(crate) use self::media::{EMPTY, INDEX, MANIFEST, media};
pub(crate) use self::members::{config, descriptor, is_index, layers, members};
pub(crate) use self::platform::{platform_matches, platform_name, this_platform};
