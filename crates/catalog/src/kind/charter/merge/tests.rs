#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Documents of five peers, the first two of which are founders.
struct Papers {
    peers: Vec<PeerId>,
    of: BTreeMap<PeerId, Paper>,
}

impl Papers {
    fn new() -> Self {
        let mut peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
        peers.sort_unstable();
        let of = BTreeMap::new();
        Self { peers, of }
    }

    fn says(&mut self, author: usize, field: Field, at: u64, says: &[&str]) {
        let says = says.iter().map(|s| (*s).to_owned()).collect();
        let voided = 0;
        let paper = self.paper(author);
        paper.entries.0.insert(field, Entry { at, says, voided });
    }

    fn paper(&mut self, author: usize) -> &mut Paper {
        let paper = self.of.entry(self.peers[author]).or_default();
        paper.epoch = paper.epoch.max(1);
        paper
    }

    /// Of what `author` says of the role of `peer`: nothing counts up to an epoch.
    fn voids(&mut self, author: usize, peer: usize, epoch: u64) {
        let field = self.role(peer);
        let entry = self.paper(author).entries.0.entry(field).or_default();
        entry.voided = epoch;
    }

    fn appoints(&mut self, author: usize, peer: usize, at: u64) {
        self.says(author, self.role(peer), at, &[ADMIN]);
    }

    fn removes(&mut self, author: usize, peer: usize, at: u64) {
        self.says(author, self.role(peer), at, &[]);
    }

    fn role(&self, peer: usize) -> Field {
        (Section::Roles, self.peers[peer].to_string())
    }

    fn alias(&mut self, author: usize, at: u64, expert: &str) {
        let field = (Section::Aliases, "default".to_owned());
        self.says(author, field, at, &[expert]);
    }

    fn merged(&self) -> Merged {
        merge(&self.peers[..2], u64::MAX, |peer| self.of.get(peer))
    }

    /// The admins by number, by rank.
    fn admins(&self) -> Vec<usize> {
        let merged = self.merged();
        let number = |a: &Admin| self.peers.iter().position(|p| *p == a.peer).unwrap();
        merged.charter.admins.iter().map(number).collect()
    }

    fn stands_for(&self) -> Option<String> {
        let charter = self.merged().charter;
        charter.aliases.get("default").map(|a| a.value.clone())
    }
}

#[test]
fn founders_are_admins_and_those_they_appoint_follow_by_level_and_time() {
    let mut papers = Papers::new();
    assert_eq!(papers.admins(), [0, 1]);
    papers.appoints(1, 3, 2);
    papers.appoints(0, 2, 5);
    papers.appoints(3, 4, 1);
    assert_eq!(papers.admins(), [0, 1, 3, 2, 4]);
    // Whoever falls takes along those whom nobody else appointed.
    papers.removes(0, 3, 6);
    assert_eq!(papers.admins(), [0, 1, 2]);
    papers.appoints(2, 4, 7);
    assert_eq!(papers.admins(), [0, 1, 2, 4]);
}

#[test]
fn of_two_that_remove_each_other_the_senior_stays_whatever_they_count() {
    let mut papers = Papers::new();
    papers.appoints(0, 2, 1);
    papers.appoints(0, 3, 2);
    papers.removes(3, 2, 1);
    papers.removes(2, 3, 900);
    assert_eq!(papers.admins(), [0, 1, 2]);
    papers.removes(2, 0, 1);
    assert_eq!(papers.admins(), [0, 1, 2]);
    papers.removes(0, 2, 3);
    // Nobody is left who removes it.
    assert_eq!(papers.admins(), [0, 1, 3]);
}

#[test]
fn what_a_removed_admin_wrote_counts_only_where_somebody_repeats_it() {
    let mut papers = Papers::new();
    papers.appoints(0, 2, 1);
    papers.alias(2, 2, "theirs");
    papers.appoints(2, 3, 3);
    assert_eq!(papers.stands_for().as_deref(), Some("theirs"));
    papers.removes(0, 2, 4);
    assert_eq!((papers.stands_for(), papers.admins()), (None, vec![0, 1]));
    // Whatever it counts, before or after.
    papers.alias(2, 1, "backdated");
    papers.appoints(2, 4, 900);
    assert_eq!((papers.stands_for(), papers.admins()), (None, vec![0, 1]));
    papers.alias(0, 2, "theirs");
    papers.appoints(0, 3, 3);
    assert_eq!(papers.stands_for().as_deref(), Some("theirs"));
    assert_eq!(papers.admins(), [0, 1, 3]);
}

#[test]
fn a_mesh_is_never_without_an_admin() {
    let mut papers = Papers::new();
    papers.removes(1, 1, 1);
    assert_eq!(papers.admins(), [0]);
    papers.removes(0, 0, 1);
    assert_eq!(papers.admins(), [0]);
    papers.appoints(0, 2, 2);
    assert_eq!(papers.admins(), [2]);
    // Who resigned may be appointed again.
    papers.appoints(2, 1, 3);
    assert_eq!(papers.admins(), [1, 2]);
}

#[test]
fn who_resigned_is_no_admin_again_by_its_own_word() {
    let mut papers = Papers::new();
    papers.appoints(0, 2, 1);
    papers.removes(2, 2, 5);
    papers.appoints(2, 2, 9);
    assert_eq!(papers.admins(), [0, 1]);
    assert!(papers.merged().counted.contains(&papers.peers[2]));
    papers.appoints(1, 2, 10);
    assert_eq!(papers.admins(), [0, 1, 2]);
}

#[test]
fn who_is_admitted_once_more_counts_from_the_next_epoch_that_any_senior_states() {
    let mut papers = Papers::new();
    papers.appoints(0, 2, 1);
    papers.appoints(1, 2, 9);
    papers.alias(2, 5, "theirs");
    papers.voids(0, 2, 3);
    for (epoch, counts) in [(1, false), (3, false), (4, true)] {
        papers.paper(2).epoch = epoch;
        let merged = papers.merged();
        assert_eq!(merged.voided(&papers.peers[2]), 3);
        assert_eq!(papers.stands_for().is_some(), counts, "{epoch}");
        assert_eq!(papers.admins(), [0, 1, 2]);
        // A claimed count is in nobody's way while it is void.
        assert_eq!(merged.last, 9);
    }
    // Nobody voids what a senior says.
    papers.alias(0, 2, "mine");
    papers.alias(2, 1, "theirs");
    papers.appoints(2, 0, 7);
    papers.voids(2, 0, 100);
    assert_eq!(papers.stands_for().as_deref(), Some("mine"));
}

#[test]
fn only_seniors_revoke_an_admin() {
    let mut papers = Papers::new();
    let field = |papers: &Papers, n: usize| (Section::Revoked, papers.peers[n].to_string());
    papers.appoints(0, 2, 1);
    papers.says(2, field(&papers, 0), 5, &["out"]);
    papers.says(2, field(&papers, 4), 5, &["out"]);
    let charter = papers.merged().charter;
    assert!(!charter.is_revoked(&papers.peers[0]) && charter.is_revoked(&papers.peers[4]));
    papers.says(0, field(&papers, 2), 2, &["out"]);
    let charter = papers.merged().charter;
    assert!(charter.is_revoked(&papers.peers[2]) && !charter.is_admin(&papers.peers[2]));
    assert!(!charter.is_revoked(&papers.peers[4]), "its author is out");
    papers.says(1, field(&papers, 2), 3, &[]);
    assert_eq!(papers.admins(), [0, 1, 2]);
}

#[test]
fn the_later_entry_holds_and_of_equals_that_of_the_greater_author() {
    let mut papers = Papers::new();
    papers.alias(0, 3, "zero");
    papers.alias(1, 2, "one");
    assert_eq!(papers.stands_for().as_deref(), Some("zero"));
    papers.alias(1, 3, "one");
    assert_eq!(papers.stands_for().as_deref(), Some("one"));
    // What takes rights away holds against its equal.
    papers.appoints(1, 3, 5);
    papers.removes(0, 3, 5);
    assert_eq!(papers.admins(), [0, 1]);
}

#[derive(Debug, Clone)]
struct Line {
    author: usize,
    section: Section,
    about: usize,
    at: u64,
    says: bool,
}

fn line() -> impl Strategy<Value = Line> {
    let section = prop_oneof![
        4 => Just(Section::Roles),
        2 => Just(Section::Revoked),
        1 => Just(Section::Aliases),
    ];
    (0..5usize, section, 0..5usize, 1..6u64, any::<bool>()).prop_map(
        |(author, section, about, at, says)| Line {
            author,
            section,
            about,
            at,
            says,
        },
    )
}

proptest! {
    /// Whatever anybody writes.
    #[test]
    fn only_documents_of_those_who_count_leave_a_mark(lines in prop::collection::vec(line(), 0..40)) {
        let mut papers = Papers::new();
        for Line { author, section, about, at, says } in lines {
            let field = match section {
                Section::Aliases => (section, format!("alias {about}")),
                _ => (section, papers.peers[about].to_string()),
            };
            let word = if section == Section::Roles { ADMIN } else { "out" };
            let words = [word];
            papers.says(author, field, at, if says { &words } else { &[] });
        }
        let merged = papers.merged();
        let charter = &merged.charter;
        prop_assert!(merged.counted.contains(&papers.peers[0]), "nobody outranks the first founder");
        prop_assert!(!charter.admins.is_empty());
        for author in charter.aliases.values().map(|a| a.by).chain(charter.revoked.values().map(|r| r.by)) {
            prop_assert!(merged.counted.contains(&author));
        }
        for admin in &charter.admins {
            prop_assert!(!charter.is_revoked(&admin.peer));
            if let Some(by) = admin.by {
                prop_assert!(merged.counted.contains(&by));
                let place = |p: &PeerId| merged.counted.iter().position(|c| c == p);
                prop_assert!(place(&by) < place(&admin.peer));
            }
        }
        // What those say who do not count changes nothing.
        let heard = papers.of.clone();
        papers.of.retain(|author, _| merged.counted.contains(author));
        prop_assert_eq!(&papers.merged(), &merged);
        papers.of = heard;
        for (_, paper) in papers.of.iter_mut().filter(|(author, _)| !merged.counted.contains(author)) {
            paper.entries.0.values_mut().for_each(|e| (e.at, e.voided) = (e.at + 900, 9));
        }
        prop_assert_eq!(&papers.merged(), &merged);
    }
}
