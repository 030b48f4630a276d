//! A repository at a registry: its endpoints in order, and the trying of one after the other.

use std::{sync::Arc, time::Instant};

use reqwest::Response;

use crate::{
    Access, Client, Error, RegistryRef,
    auth::Scope,
    client::Host,
    endpoint::Capabilities,
    fault::Fault,
    hosts,
    retry::{Backoff, random},
};

/// A repository at a registry.
#[derive(Clone)]
pub(crate) struct Repository {
    /// `host/repository`, for errors.
    pub(crate) place: String,
    pub(crate) reference: RegistryRef,
    pub(crate) client: Client,
    pub(crate) hosts: Vec<Arc<Host>>,
    pub(crate) scope: Scope,
    /// Endpoints that ask for time are not waited for: whoever asks is told, and has others to turn to.
    pub(crate) impatient: bool,
}

/// What an operation needs of an endpoint, and what a failure there means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Content named by digest. It is known to exist, so that an endpoint which passes trouble is worth another try
    /// even if the others have not got it.
    Content,
    /// A tag. The last endpoint, the registry itself, has the last word.
    Tag,
    /// Writing.
    Push,
}

impl Need {
    fn met_by(self, capabilities: Capabilities) -> bool {
        match self {
            Need::Content => capabilities.pull,
            Need::Tag => capabilities.resolve,
            Need::Push => capabilities.push,
        }
    }
}

impl Repository {
    pub(crate) async fn open(
        client: &Client,
        reference: &RegistryRef,
        access: Access,
    ) -> Result<Repository, Error> {
        let place = format!("{}/{}", reference.host, reference.repository);
        let (folder, host) = (client.options().hosts_dir.clone(), reference.host.clone());
        let found = tokio::task::spawn_blocking(move || hosts::endpoints(folder.as_deref(), &host)).await;
        let mut endpoints = found.map_err(|error| Error::Invalid {
            what: place.clone(),
            reason: error.to_string(),
        })??;
        endpoints.retain(|endpoint| !endpoint.is_one_of(&client.options().not_through));
        let scope = match access {
            Access::Read => {
                endpoints.retain(|e| e.capabilities.pull || e.capabilities.resolve);
                Scope::pull(&reference.repository)
            }
            Access::Write => {
                // One place to write to, and to read back from: the first that allows it, as containerd chooses.
                endpoints.retain(|e| e.capabilities.push);
                endpoints.truncate(1);
                for endpoint in &mut endpoints {
                    endpoint.capabilities = Capabilities::ALL;
                }
                Scope::push(&reference.repository)
            }
        };
        if endpoints.is_empty() {
            let reason = match access {
                Access::Read => "hosts.toml names no endpoint that may be read",
                Access::Write => "hosts.toml names no endpoint that may be written",
            };
            return Err(Error::Invalid {
                what: place,
                reason: reason.to_owned(),
            });
        }
        let hosts = endpoints
            .into_iter()
            .map(|endpoint| Arc::new(client.host(endpoint)))
            .collect();
        Ok(Repository {
            place,
            reference: reference.clone(),
            client: client.clone(),
            hosts,
            scope,
            impatient: false,
        })
    }

    pub(crate) fn repository(&self) -> &str {
        &self.reference.repository
    }

    pub(crate) fn backoff(&self) -> Backoff {
        let options = self.client.options();
        Backoff::new(options.first_wait, options.retry_for, Instant::now())
    }

    /// Tries the endpoints in order, again and again while that may help.
    pub(crate) async fn attempt<T, F, Fut>(&self, what: &str, need: Need, operation: F) -> Result<T, Error>
    where
        F: Fn(Arc<Host>) -> Fut,
        Fut: Future<Output = Result<T, Fault>>,
    {
        let mut backoff = self.backoff();
        loop {
            match self.round(need, &operation).await {
                Ok(value) => return Ok(value),
                Err(fault) => self.pause(&mut backoff, fault, what).await?,
            }
        }
    }

    /// Tries each endpoint once.
    pub(crate) async fn round<T, F, Fut>(&self, need: Need, operation: &F) -> Result<T, Fault>
    where
        F: Fn(Arc<Host>) -> Fut,
        Fut: Future<Output = Result<T, Fault>>,
    {
        let mut last = Fault::Invalid("hosts.toml names no endpoint that may be asked for it".to_owned());
        let mut passing = None;
        for host in self
            .hosts
            .iter()
            .filter(|host| need.met_by(host.wire.endpoint.capabilities))
        {
            let outcome = if host.admits() {
                let outcome = operation(host.clone()).await;
                host.note(&outcome);
                outcome
            } else {
                let reason = "it failed several times in a row and is left alone for a while".to_owned();
                Err(Fault::Unavailable {
                    reason,
                    retry_after: None,
                    broken: false,
                })
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(Fault::Local(error)) => return Err(Fault::Local(error)),
                Err(fault) => {
                    let host = host.wire.endpoint.authority();
                    tracing::debug!(place = %self.place, %host, ?fault, "endpoint failed");
                    if let Fault::Unavailable {
                        reason,
                        retry_after,
                        broken,
                    } = &fault
                    {
                        let (reason, retry_after) = (format!("{host}: {reason}"), *retry_after);
                        passing = Some(Fault::Unavailable {
                            reason,
                            retry_after,
                            broken: *broken,
                        });
                    }
                    last = fault;
                }
            }
        }
        match passing {
            Some(passing) if last.is_passing() || need == Need::Content => Err(passing),
            _ => Err(last),
        }
    }

    /// Waits before the next try, or gives the fault back as the final error.
    pub(crate) async fn pause(&self, backoff: &mut Backoff, fault: Fault, what: &str) -> Result<(), Error> {
        let Fault::Unavailable { retry_after, .. } = &fault else {
            return Err(fault.into_error(&self.place, what));
        };
        if self.impatient && retry_after.is_some() {
            return Err(fault.into_error(&self.place, what));
        }
        match backoff.next(Instant::now(), *retry_after, random()) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(fault.into_error(&self.place, what)),
        }
        Ok(())
    }
}

/// A header of an answer, if it is there and is text.
pub(crate) fn text_header(response: &Response, name: &str) -> Option<String> {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}
