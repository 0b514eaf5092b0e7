//! Records verified from their bytes, and carried to another node in a file.

use polymath_catalog::{
    CatalogLimits, Damage, FileError, Inspected, Refusal, from_file, inspect, to_file,
};
use polymath_types::MeshId;

use crate::{
    driver::{Disk, MESH, Mesh, Node, key},
    forks::{parted, written},
};

fn settled() -> Mesh {
    let mut mesh = Mesh::of(3);
    mesh.offer(0, &["chef"]);
    mesh.offer(0, &["chef", "coder"]);
    mesh.offer(1, &["poet"]);
    mesh.connect(0, 1);
    mesh.settle();
    mesh
}

fn inspected(disk: &Disk) -> Vec<Inspected> {
    let all = disk.iter().map(|(n, b)| inspect(n, b, &MESH));
    all.map(Result::unwrap).collect()
}

/// Takes the file; how many of it were refused.
fn import(node: &mut Node, file: &[u8]) -> u64 {
    let actions = node.catalog.import(from_file(file, &MESH).unwrap());
    node.perform(actions);
    node.catalog.counters().refusals().map(|(_, n)| n).sum()
}

#[test]
fn whole_records_hold_and_tell_how_an_offer_came_about() {
    let mesh = settled();
    let me = mesh.nodes[0].id();
    let histories = inspected(&mesh.nodes[1].disk);
    let history = histories.iter().find_map(|i| match i {
        Inspected::Offer(h) if h.author == me => Some(h),
        _ => None,
    });
    let experts: Vec<usize> = history
        .unwrap()
        .steps
        .iter()
        .map(|s| s.offer.experts.len())
        .collect();
    assert_eq!(experts, [1, 2]);
    assert_eq!(history.unwrap().offer(), mesh.index(1).peers().get(&me));
}

#[test]
fn a_record_that_was_altered_with_a_right_checksum_is_found() {
    let mesh = settled();
    for (name, bytes) in &mesh.nodes[1].disk {
        for at in (40..bytes.len()).step_by(3) {
            let mut altered = bytes.clone();
            altered[at] ^= 4;
            let sum = *blake3::hash(&altered[40..]).as_bytes();
            altered[8..40].copy_from_slice(&sum);
            assert!(inspect(name, &altered, &MESH).is_err(), "{name}, byte {at}");
        }
    }
    let (name, bytes) = mesh.nodes[1]
        .disk
        .iter()
        .find(|(n, _)| n.starts_with("offer"))
        .unwrap();
    assert!(matches!(
        inspect(name, &bytes[1..], &MESH),
        Err(Damage::Record(_))
    ));
}

#[test]
fn a_file_brings_a_catalog_to_a_node_that_never_met_the_others() {
    let mut mesh = settled();
    let file = to_file(&MESH, &inspected(&mesh.nodes[1].disk));
    assert_eq!(import(&mut mesh.nodes[2], &file), 0);
    assert_eq!(mesh.index(2), mesh.index(0));
    mesh.nodes[2].restart(CatalogLimits::default());
    assert_eq!(mesh.index(2), mesh.index(0));
    assert_eq!(mesh.nodes[2].disk, mesh.nodes[1].disk);
}

#[test]
fn nothing_in_a_file_is_believed() {
    let mesh = settled();
    let file = to_file(&MESH, &inspected(&mesh.nodes[1].disk));
    let other = MeshId::from_bytes([8; 32]);
    assert_eq!(from_file(&file, &other), Err(FileError::Mesh));
    for cut in 1..file.len() {
        let mut node = Node::open(key(9), CatalogLimits::default(), Disk::new()).0;
        if let Ok(frames) = from_file(&file[..cut], &MESH) {
            node.catalog.import(frames);
        }
    }
    for at in (40..file.len()).step_by(7) {
        let mut altered = file.clone();
        altered[at] ^= 1;
        let mut node = Node::open(key(9), CatalogLimits::default(), Disk::new()).0;
        let Ok(frames) = from_file(&altered, &MESH) else {
            continue;
        };
        let actions = node.catalog.import(frames);
        node.perform(actions);
        let whole = mesh.index(1);
        for (author, offer) in node.catalog.index().peers().iter() {
            let true_one = &whole.peers()[author];
            assert!(
                offer.sequence < true_one.sequence || offer == true_one,
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_file_brings_the_proof_that_an_author_contradicts_itself_and_no_more_of_it() {
    let long = written(&["chef"], &[&["chef", "coder"], &["coder"], &["poet"]]);
    let short = written(&["chef"], &[&["thief"]]);
    let author = key(99).peer_id();
    let mesh = parted(long, short, 2);
    for from in 0..2 {
        let name = format!("offer-{author}");
        let stored = &mesh.nodes[from].disk[&name];
        let Inspected::Offer(history) = inspect(&name, stored, &MESH).unwrap() else {
            panic!("no offer");
        };
        assert!(history.offer().is_none(), "nothing of it is used");
        let proof = history.contradiction.clone().unwrap();
        assert_eq!((proof.epoch, proof.sequence), (1, 2));
        let file = to_file(&MESH, &[Inspected::Offer(history)]);
        let mut reader = Node::open(key(9), CatalogLimits::default(), Disk::new()).0;
        assert_eq!(import(&mut reader, &file), 1);
        let counters = reader.catalog.counters();
        assert_eq!(counters.refused(Refusal::Equivocation), 1);
        assert!(!reader.catalog.index().peers().contains_key(&author));
        // It is kept, and sums up like everybody else's.
        reader.restart(CatalogLimits::default());
        assert!(!reader.catalog.index().peers().contains_key(&author));
        let again = inspect(&name, &reader.disk[&name], &MESH).unwrap();
        assert_eq!(import(&mut reader, &to_file(&MESH, &[again])), 0);
    }
}

#[test]
fn a_proof_that_nobody_signed_is_damage() {
    let mesh = parted(written(&["chef"], &[]), written(&["thief"], &[]), 2);
    let name = format!("offer-{}", key(99).peer_id());
    let stored = &mesh.nodes[0].disk[&name];
    inspect(&name, stored, &MESH).unwrap();
    for at in (40..stored.len()).step_by(3) {
        let mut altered = stored.clone();
        altered[at] ^= 4;
        let sum = *blake3::hash(&altered[40..]).as_bytes();
        altered[8..40].copy_from_slice(&sum);
        assert!(inspect(&name, &altered, &MESH).is_err(), "byte {at}");
    }
}
