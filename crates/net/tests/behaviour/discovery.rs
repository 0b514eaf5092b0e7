//! Members find each other on the local network without being told.

use polymath_net::{Net, NetEvent};

use crate::support::{Mesh, is_member, soon, until};

const ANYWHERE: &str = "/ip4/0.0.0.0/tcp/0";

async fn discovering(mesh: &Mesh) -> Net {
    let mut config = mesh.config(&[ANYWHERE]);
    config.local_discovery = true;
    Net::start(config).await.unwrap()
}

#[tokio::test]
async fn members_on_one_network_find_each_other_and_neighbours_are_left_alone() {
    let (ours, theirs) = (Mesh::new("ours"), Mesh::new("theirs"));
    let (a, b, c) = (
        discovering(&ours).await,
        discovering(&ours).await,
        discovering(&theirs).await,
    );
    let (a_id, b_id) = (a.local_peer(), b.local_peer());
    let mut told = [(a.events(), b_id), (b.events(), a_id)];
    until("members to find each other", async || {
        is_member(&a, b.local_peer()) && is_member(&b, a.local_peer())
    })
    .await;
    // Whoever dialled knows how it found the other.
    until("the meeting to be told of", async || {
        told.iter_mut().any(|(events, peer)| {
            let wanted = NetEvent::MetLocally { peer: *peer };
            std::iter::from_fn(|| events.try_recv().ok()).any(|event| event == wanted)
        })
    })
    .await;
    until("the neighbour to be heard and ignored", async || {
        a.counters().local_announcements_ignored > 0 && c.counters().local_announcements_ignored > 0
    })
    .await;
    assert!(c.peers().is_empty());
    assert!(a.peers().iter().all(|p| p.peer == b.local_peer()));
    for node in [a, b, c] {
        soon("shutdown", node.shutdown()).await;
    }
}
