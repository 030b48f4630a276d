//! Who answers the kernel: servers on connections, one for bytes and one for each kind of trees.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::{Engine, lock_of};
use crate::connection::Connection;
use crate::error::{IoContext, Result};
use crate::fuse::Server;
use crate::mounted::place;
use crate::options::{Feature, Way};
use crate::serving::Serving;
use crate::trees::fuse::{TreeKind, TreeServer};
use crate::wire;

impl Engine {
    /// Answers the kernel's requests on `connection` until it ends or is stopped. The connection
    /// must be the one that is mounted on [`Engine::data_dir`].
    pub fn serve(&self, connection: Connection) -> Result<Serving> {
        self.drop_stale_mounts()?;
        let (volumes, fetcher) = (self.volumes.clone(), self.fetcher.clone());
        let server = Arc::new(Server::new(connection, volumes, fetcher, self.tally.clone())?);
        let serving = self.start(&server)?;
        *lock_of(&self.server) = Arc::downgrade(&server);
        Ok(serving)
    }

    /// Answers the kernel's requests for trees on `connection` until it ends or is stopped. The connection must be the
    /// one that is mounted on [`crate::tree_dir`]. Layers are shown there if that is the engine's [`Engine::way`];
    /// those that an earlier process showed there are served in any case.
    pub fn serve_trees(&self, kind: TreeKind, connection: Connection) -> Result<Serving> {
        let (volumes, fetcher) = (self.volumes.clone(), self.fetcher.clone());
        let mut server = Server::new(connection, volumes, fetcher, self.tally.clone())?;
        server.trees = Some(TreeServer::new(self.forest.clone(), kind));
        let server = Arc::new(server);
        let serving = self.start(&server)?;
        let mut servers = lock_of(&self.tree_servers);
        servers.retain(|(other, _)| *other != kind);
        servers.push((kind, Arc::downgrade(&server)));
        Ok(serving)
    }

    fn start(&self, server: &Arc<Server>) -> Result<Serving> {
        // Before the first request is read: what comes again is what the last process left.
        if !self.options.deny.contains(&Feature::Resend) {
            wire::resend(&server.shared.fd).at("ask for requests again on", "/dev/fuse")?;
        }
        Serving::start(Arc::clone(server), self.options.threads)
    }

    /// Takes away mounts whose devices belong to a connection that is no more: nothing would ever
    /// answer their reads.
    fn drop_stale_mounts(&self) -> Result<()> {
        let data = Engine::data_dir(&self.options.root);
        let device = place(&data).map_or(0, |place| place.device).to_string();
        let note = self.options.root.join("connection");
        if std::fs::read_to_string(&note).is_ok_and(|noted| noted == device) {
            return Ok(());
        }
        for point in self.points()?.iter().filter(|point| !point.direct) {
            self.trees.hide(&self.path_of(point))?;
        }
        std::fs::write(&note, device).at("write", &note)
    }

    /// Whether somebody answers for layers that are shown in the engine's way.
    pub(super) fn serving(&self) -> bool {
        let serves = |server: &Weak<Server>| {
            let server = server.upgrade();
            server.is_some_and(|server| !server.stopped.load(Ordering::Acquire))
        };
        match self.way {
            Way::Fuse => {
                let servers = lock_of(&self.tree_servers);
                servers.iter().filter(|(_, server)| serves(server)).count() == TreeKind::ALL.len()
            }
            Way::Kernel | Way::Auto => serves(&lock_of(&self.server)),
        }
    }
}
