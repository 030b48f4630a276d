//! Connections of clients, as many at once as a service has places for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;

/// After an accept that failed, for want of descriptors for instance.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers each connection that `next` brings in a task of its own, at most `most` at once; further ones wait in the backlog.
/// Goes on for ever: a failed accept is tried again.
pub(crate) async fn each<S, N, A>(most: usize, mut next: impl FnMut() -> N, answer: impl Fn(S) -> A)
where
    N: Future<Output = io::Result<S>>,
    A: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most));
    // Nobody closes it.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match next().await {
            Ok(stream) => {
                let answered = answer(stream);
                tokio::spawn(async move {
                    let _place = place;
                    answered.await;
                });
            }
            Err(error) => {
                debug!("accepting: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::mpsc;

    use super::*;

    /// The third connection is accepted when the first ends, and an accept that fails ends nothing.
    #[tokio::test]
    async fn at_most_so_many_at_once() {
        let (begun, mut begins) = mpsc::unbounded_channel();
        let connections = Mutex::new(vec![3, 0, 2, 1]);
        let ends: Vec<Arc<Semaphore>> = (0..4).map(|_| Arc::new(Semaphore::new(0))).collect();
        let may_end = ends.clone();
        tokio::spawn(async move {
            let next = async || match connections.lock().ok().and_then(|mut left| left.pop()) {
                Some(0) => Err(io::Error::other("no descriptors")),
                Some(number) => Ok(number),
                None => std::future::pending().await,
            };
            each(2, next, |number: usize| {
                let (begun, end) = (begun.clone(), ends[number].clone());
                async move {
                    let _ = begun.send(number);
                    let _ = end.acquire().await;
                }
            })
            .await;
        });
        assert_eq!(begins.recv().await, Some(1));
        assert_eq!(begins.recv().await, Some(2));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(begins.try_recv().is_err(), "both places are taken");
        may_end[1].add_permits(1);
        assert_eq!(begins.recv().await, Some(3));
    }
}
