//! Names of images, as docker and containerd understand them.

use std::{fmt, path::PathBuf, str::FromStr};

use lacewing_format::Digest;

use crate::Error;

/// Where an image is, as a user writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `[host[:port]/]repository[:tag][@digest]`.
    Registry(RegistryRef),
    /// `oci:DIR[:TAG]`: a folder with an OCI image layout.
    Layout {
        /// The folder.
        dir: PathBuf,
        /// Name of the image in the layout's index; none: the only one there.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an uncompressed tar of an OCI image layout.
    Archive {
        /// The tar file.
        file: PathBuf,
        /// Name of the image in the layout's index; none: the only one there.
        tag: Option<String>,
    },
}

/// An image in a registry, normalised (`docker.io`, `library/`, `latest`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    /// Host as the user names it, with the port if one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub host: String,
    /// Path of the repository: `library/debian`.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest; wins over the tag.
    pub digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Self, Error> {
        unimplemented!()
    }
}

impl FromStr for RegistryRef {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Self, Error> {
        unimplemented!()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}
