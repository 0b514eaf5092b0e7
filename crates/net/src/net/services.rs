//! What a node does for its members and they for it, unasked by callers: telling where they are, and
//! dialling each other back.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Gone, Net};
use crate::{
    config::Role,
    dialback::{self, Expected, Unconfirmed},
    error::{OpenError, OpenRefusal},
    manager::{Command, Shared},
    peers::{Membership, PeerInfo},
    report::Scope,
    shut_out,
    streams::{MeshStream, OpenRequest},
    whereabouts,
};

/// Between looks at whether an address is to be dialled back.
const PROBE_PAUSE: Duration = Duration::from_millis(500);
/// Members listened to at once; more wait in the bounded queue.
const TELLERS: usize = 64;
/// A member must have told where it is by then.
const TELLING: Duration = Duration::from_secs(10);

/// A handle that does not keep the swarm running.
#[derive(Clone)]
pub(crate) struct WeakNet {
    shared: Arc<Shared>,
    commands: mpsc::WeakSender<Command>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl WeakNet {
    pub(crate) fn upgrade(&self) -> Option<Net> {
        Some(Net {
            shared: self.shared.clone(),
            commands: self.commands.upgrade()?,
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        })
    }
}

impl Net {
    /// Takes in where members say they are.
    pub(super) fn listen_to_members(&self) {
        let name = self.shared.names.stream(whereabouts::NAME);
        let Some(Ok(mut incoming)) = name.map(|n| self.shared.registry.register(n)) else {
            return;
        };
        let (commands, tasks) = (self.commands.downgrade(), self.tasks.clone());
        self.tasks.spawn(async move {
            let room = Arc::new(Semaphore::new(TELLERS));
            while let Ok(permit) = room.clone().acquire_owned().await {
                let Some(stream) = incoming.next().await else {
                    return;
                };
                let commands = commands.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    let peer = stream.peer();
                    let heard = timeout(TELLING, whereabouts::receive(stream)).await;
                    if let (Ok(Ok(message)), Some(commands)) = (heard, commands.upgrade()) {
                        let _ = commands.send(Command::Told { peer, message }).await;
                    }
                });
            }
        });
    }

    /// Takes note when a member turns this node away as one that is shut out.
    pub(super) fn hear_of_being_shut_out(&self) {
        let name = self.shared.names.stream(shut_out::NAME);
        let Some(Ok(mut incoming)) = name.map(|n| self.shared.registry.register(n)) else {
            return;
        };
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            while let Some(stream) = incoming.next().await {
                let by = stream.peer();
                // Whoever has let this node in says nothing of the kind.
                let member = |p: &PeerInfo| p.membership == Membership::Member;
                if !shared.peers().get(&by).is_some_and(member) {
                    tracing::debug!(%by, "this node is turned away as one that is shut out");
                    shared.verdict.told_by(by);
                }
            }
        });
    }

    /// Has this node's addresses dialled back, and does so for others while it can.
    pub(super) fn have_addresses_tested(&self, role: Role) {
        if role == Role::Client {
            return;
        }
        let expected = Arc::new(Expected::default());
        if let Ok(incoming) = self.shared.registry.register(dialback::BACK) {
            let (expected, tasks) = (expected.clone(), self.tasks.clone());
            self.tasks
                .spawn(dialback::receive_all(incoming, expected, tasks));
        }
        // Neither may keep the swarm alive once the last handle is gone.
        let (asker, server) = (self.weak(), self.weak());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            while stop.run_until_cancelled(sleep(PROBE_PAUSE)).await.is_some() {
                let Some(net) = asker.upgrade() else { return };
                if stop
                    .run_until_cancelled(net.probe(&expected))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        });
        let (mut serving, stop) = (self.shared.serving.subscribe(), self.stop.clone());
        self.tasks.spawn(async move {
            loop {
                let wanted = async { serving.wait_for(|s| *s).await.is_ok() };
                if stop.run_until_cancelled(wanted).await != Some(true) {
                    return;
                }
                let Some(net) = server.upgrade() else { return };
                let Ok(incoming) = net.shared.registry.register(dialback::REQUEST) else {
                    return;
                };
                let tasks = net.tasks.clone();
                let serve = dialback::serve(incoming, server.clone(), tasks);
                drop(net);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = serve => return,
                    _ = serving.wait_for(|s| !*s) => {}
                }
            }
        });
    }

    /// Has one address dialled back, if one is due and somebody would.
    async fn probe(&self, expected: &Expected) {
        let next = self.ask(|reply| Command::NextProbe { reply }).await;
        let Ok(Some((server, address))) = next else {
            return;
        };
        let outcome = match self.request_stream(server, dialback::REQUEST, false).await {
            Ok(stream) => dialback::ask(stream, &address, expected).await,
            Err(refusal) => Err(Unconfirmed::NoVerdict(format!("{refusal:?}"))),
        };
        let told = Command::Probed {
            server,
            address,
            outcome,
        };
        let _ = self.commands.send(told).await;
    }

    /// Dials `address` of a connected peer once more; the stream is on that very connection, which is
    /// closed soon after the stream.
    pub(crate) async fn dial_back(
        &self,
        peer: PeerId,
        address: Multiaddr,
    ) -> Result<MeshStream, OpenError> {
        let link = self
            .ask(|reply| Command::DialBack {
                peer,
                address,
                reply,
            })
            .await
            .map_err(|Gone| OpenError::Stopped)??;
        let (reply, opened) = oneshot::channel();
        let request = OpenRequest {
            protocol: dialback::BACK,
            reply,
        };
        self.commands
            .send(Command::OpenOn { link, request })
            .await
            .map_err(|_| OpenError::Stopped)?;
        match opened.await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(OpenRefusal::Final(error))) => Err(error),
            _ => Err(OpenError::ConnectionLost {
                peer,
                reason: "it closed".into(),
            }),
        }
    }

    pub(crate) fn scope(&self, address: &Multiaddr) -> Scope {
        self.shared.reach().scope(address)
    }

    pub(crate) fn count_dial_back(&self, granted: bool) {
        let counters = &self.shared.counters;
        if granted {
            counters.dial_backs.up();
        } else {
            counters.dial_backs_refused.up();
        }
    }

    pub(crate) fn weak(&self) -> WeakNet {
        WeakNet {
            shared: self.shared.clone(),
            commands: self.commands.downgrade(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        }
    }
}
