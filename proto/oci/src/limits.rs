//! Bounds on what comes from outside, each with its reason.

use std::time::Duration;

/// Largest manifest or image index, in bytes: what registries and containerd accept at most (4 MiB).
pub const MAX_MANIFEST: u64 = 4 << 20;

/// Most tags listed of one repository: more than a person or a retention job can use, and some 10 MB of memory.
pub const MAX_TAGS: usize = 100_000;

/// Most pages of a tag list: with pages of at least 100 names this reaches [`MAX_TAGS`]; a server that gives fewer
/// names a page is not worth more requests.
pub const MAX_TAG_PAGES: usize = 1_000;

/// Longest range of one [`crate::Store::read_at`], in bytes: callers merge neighbours up to some MiB; 64 MiB bounds the
/// memory that one answer takes.
pub const MAX_READ: u64 = 64 << 20;

/// Largest answer of a token server, in bytes: tokens of large organisations reach tens of KiB.
pub(crate) const MAX_TOKEN_ANSWER: u64 = 256 << 10;

/// Longest part of an error answer that is read for its message, in bytes.
pub(crate) const MAX_ERROR_ANSWER: u64 = 16 << 10;

/// Longest server message shown, in characters.
pub(crate) const MAX_MESSAGE: usize = 200;

/// Largest `hosts.toml`, CA or key file, in bytes: a full CA bundle is some 250 KiB.
pub(crate) const MAX_CONFIG_FILE: u64 = 4 << 20;

/// Largest output of a credential helper, in bytes: one user name and one token.
pub(crate) const MAX_HELPER_OUTPUT: u64 = 256 << 10;

/// Longest run of a credential helper: cloud helpers do a few requests of their own.
pub(crate) const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Redirects followed for one request: registries use one or two; Go's client stops at ten.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// Longest `WWW-Authenticate` value looked at, in bytes: HTTP servers and proxies cut heads at 8 KiB.
pub(crate) const MAX_CHALLENGE: usize = 8 << 10;

/// Most challenges, and most parameters of one, that are looked at: real answers have one to three of each.
pub(crate) const MAX_CHALLENGE_PARTS: usize = 32;

/// Tokens kept, one per endpoint and scope: a node pulls from hundreds of repositories, not thousands at a time.
pub(crate) const MAX_TOKENS: usize = 1_024;

/// Redirect targets kept, one per endpoint and blob.
pub(crate) const MAX_REDIRECT_CACHE: usize = 4_096;

/// Longest use of a remembered redirect target: signed URLs live from 5 minutes to an hour; one that dies earlier is
/// noticed by its status.
pub(crate) const REDIRECT_LIFE: Duration = Duration::from_secs(600);

/// Token life where the server names none, and the shortest believed (distribution's token specification: 60 s).
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Longest token life believed: a later refusal is noticed anyway, but a bound keeps arithmetic on clocks safe.
pub(crate) const MAX_TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long a user name and password are reused before their source is asked again.
pub(crate) const BASIC_LIFE: Duration = Duration::from_secs(300);

/// A refusal (403) of an authorisation older than this is answered by asking for a new one: some registries (ECR) say
/// 403, not 401, when a log-in has expired.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(60);

/// Longest wait that a server may ask for by `Retry-After`.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Longest wait between two tries.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Failures in a row after which a host is left alone for a while.
pub(crate) const BREAKER_FAILURES: u32 = 3;

/// First and longest time for which a failing host is left alone; the latter is how late its return may be noticed.
pub(crate) const BREAKER_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

/// Progress, in bytes, that starts the retry clock of a stream anew: smaller crumbs would let a server hold a reader for
/// ever, one reconnection at a time.
pub(crate) const PROGRESS: u64 = 64 << 10;

/// Longest wait for a registry's answer once an upload's last byte is sent: it hashes, and on object storage copies, the
/// whole blob before it answers.
pub(crate) const UPLOAD_ANSWER: Duration = Duration::from_secs(300);

/// Part of a file that is read and sent, or read and hashed, at a time, in bytes.
pub(crate) const IO_PART: usize = 256 << 10;

/// Most entries of an OCI archive: an image has at most some hundred blobs; this allows archives of many images.
pub(crate) const MAX_ARCHIVE_ENTRIES: usize = 100_000;

/// Most bytes of headers before a member of an OCI archive, long names and PAX records included. Its names have less than a
/// hundred bytes; this leaves room for whatever else an archiver notes down.
pub(crate) const MAX_ARCHIVE_HEADERS: u64 = 1 << 20;

/// Longest name of a repository with its host (distribution: 255), and of an image in a layout.
pub(crate) const MAX_NAME: usize = 255;

/// Longest tag (OCI distribution: 128).
pub(crate) const MAX_TAG: usize = 128;

/// Longest header of a registry's answer that is passed on to a client: servers and proxies cut heads at 8 KiB.
pub(crate) const MAX_PASSED_HEADER: usize = 8 << 10;

/// Longest address of a file. Signed ones with a session's token have some 1,500 characters.
pub const MAX_URL: usize = 2_000;
