//! Connections to and from all peers: one outwards to each, over which it is told, and those that peers make to tell.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    board::Board,
    dial,
    keys::{OwnKey, PeerKey},
    listen,
    notice::Notice,
    refused::Answer,
};

/// A gateway that is told and believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What operators call it.
    pub name: String,
    /// Where it listens; its own connections come from the same address.
    pub address: SocketAddr,
    /// Its public key.
    pub key: PeerKey,
}

/// A notice that a peer signed and brought, and where the answer goes.
#[derive(Debug)]
pub struct Told {
    /// The peer's place in the configuration.
    pub peer: usize,
    /// The notice.
    pub notice: Notice,
    /// What became of it.
    pub answer: oneshot::Sender<Answer>,
}

/// Everything that [`serve`] needs.
#[derive(Clone)]
pub struct Link {
    /// Where peers are heard; none to tell only.
    pub listen: Option<SocketAddr>,
    /// Whom to tell and to believe.
    pub peers: Arc<Vec<Peer>>,
    /// The gateway's own key.
    pub own: Arc<OwnKey>,
    /// Queues and counts.
    pub board: Arc<Board>,
    /// Where notices go.
    pub told: mpsc::Sender<Told>,
}

/// Keeps all connections until `stop` is true or its sender is gone.
pub async fn serve(link: Link, mut stop: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    for peer in 0..link.peers.len() {
        tasks.spawn(dial::keep_telling(link.clone(), peer));
    }
    if let Some(address) = link.listen {
        tasks.spawn(listen::listen(link, address));
    }
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
    tasks.shutdown().await;
}
