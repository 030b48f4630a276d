//! What came of a run.

/// Figures of a run; times in seconds unless said otherwise. Nodes that crashed or are slow are left out of the times of
/// the others; slow nodes have their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Start to completion of each healthy user, sorted.
    pub completion: Vec<f64>,
    /// Start of each healthy daemon to the end of its program's start-up set, sorted.
    pub startup: Vec<f64>,
    /// The same as `completion` for slow users.
    pub slow_completion: Vec<f64>,
    /// Users that are alive and did not complete.
    pub unfinished: usize,
    /// Pieces or requests that some swarm still holds at the end.
    pub left_over: usize,
    /// Times a want ended in an error.
    pub failures: usize,
    /// Bytes that left the registry, in images.
    pub copies: f64,
    /// What the registry was asked for, in images: what was called off half-way counts in full.
    pub fetches: f64,
    /// Largest and mean upload of live nodes, in images.
    pub upload_max: f64,
    /// See `upload_max`.
    pub upload_mean: f64,
    /// Bytes that moved over any link, by the bytes that users wanted.
    pub moved: f64,
    /// Bytes that crossed from zone to zone, in images.
    pub between_zones: f64,
    /// Blocking reads in milliseconds, sorted.
    pub latency: Vec<f64>,
    /// Second requests because the first was slow.
    pub hedged: u64,
    /// Requests redirected.
    pub redirected: u64,
    /// Pieces that came although they were here.
    pub wasted: u64,
    /// Pieces with wrong bytes that were found.
    pub corrupt_found: u64,
    /// Most different peers that one node asked.
    pub most_parents: usize,
    /// Events of the run.
    pub events: u64,
    /// Hash over all that happened, in order: the same for the same seed.
    pub fingerprint: u64,
}

/// The value below which the fraction `q` of `sorted` is; NaN if there are none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl Outcome {
    /// Completion of healthy users.
    pub fn completion(&self, q: f64) -> f64 {
        quantile(&self.completion, q)
    }

    /// Start-up of healthy daemons.
    pub fn startup(&self, q: f64) -> f64 {
        quantile(&self.startup, q)
    }

    /// Latency of their blocking reads, in milliseconds.
    pub fn latency(&self, q: f64) -> f64 {
        quantile(&self.latency, q)
    }

    /// How uneven the upload is.
    pub fn upload_ratio(&self) -> f64 {
        self.upload_max / self.upload_mean
    }
}
