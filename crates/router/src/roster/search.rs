//! Who of a roster fits a query, and who of those is closest.

use polymath_types::{ExpertId, ExpertKind, Index, PeerId, Property, WeightsId};

use super::{
    FIXED_LABELS, Layer, NO_LABELS, OPEN_LABELS, Part, Roster, layer::usable, name_hash, traits,
};
use crate::{
    Request,
    decision::{Reason, Tally},
    filter::{self, Contender, Filtered},
    vectors::Probes,
};

/// A roster as one query sees it.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    roster: &'a Roster,
    probes: Option<&'a Probes>,
    /// Of each place whether it fits, or else why not; part behind part.
    codes: Vec<u8>,
    fits: usize,
}

/// It fits; a reason's code is one more than its number.
const FITS: u8 = 0;

const fn code(reason: Reason) -> u8 {
    reason as u8 + 1
}

/// A part of whose cards fewer than one in so many fit is not gone through as a whole.
const FEW: usize = 8;

/// By the first filter that an expert does not pass.
const REASONS: [Reason; 6] = [
    Reason::Kind,
    Reason::Model,
    Reason::Labels,
    Reason::Context,
    Reason::PeerRequired,
    Reason::PeerExcluded,
];

/// A place: its part, and where it lies there.
type Place = (u32, u32);

impl<'a> Field<'a> {
    /// Applies every filter that needs no look at a replica; who is excluded goes to the tally.
    pub(crate) fn new(
        roster: &'a Roster,
        probes: Option<&'a Probes>,
        request: &Request<'_>,
        index: &Index,
        tally: &mut Tally,
    ) -> (Self, Filtered) {
        let mut field = Self {
            roster,
            probes,
            codes: vec![FITS; roster.len()],
            fits: 0,
        };
        let mut filtered = field.sort_out(request, index);
        field.tell(request, tally);
        if request.query.kind == ExpertKind::Embed {
            field.one_vector_space(request, index, tally);
        }
        field.fits = count(&field.codes, FITS);
        filtered.fitting = field.fits;
        (field, filtered)
    }

    /// Later filters first, so that the first one counts that excludes an expert.
    fn sort_out(&mut self, request: &Request<'_>, index: &Index) -> Filtered {
        let (query, constraints) = (request.query, &request.query.constraints);
        if !constraints.allow.is_empty() {
            self.keep_only(
                offered(index, &constraints.allow),
                code(Reason::PeerExcluded),
            );
        }
        if let Some(peer) = constraints.peer {
            let served = offered(index, std::slice::from_ref(&peer));
            self.keep_only(served, code(Reason::PeerRequired));
        }
        let wanted = filter::tokens_wanted(request);
        // No card states more than fits into a `u32`.
        let (wanted, none) = u32::try_from(wanted).map_or((0, true), |wanted| (wanted, false));
        self.each(|part, codes| {
            for (code_, context) in codes.iter_mut().zip(&part.contexts) {
                let short = *context != 0 && (*context < wanted || none);
                *code_ = if short { code(Reason::Context) } else { *code_ };
            }
        });
        let kind = query.kind;
        let labelled = if query.labels.is_empty() {
            FIXED_LABELS
        } else {
            OPEN_LABELS
        };
        let right = [traits(kind, NO_LABELS), traits(kind, labelled)];
        self.each(|part, codes| {
            for (code_, has) in codes.iter_mut().zip(&part.traits) {
                let wrong = *has != right[0] && *has != right[1];
                *code_ = if wrong { code(Reason::Labels) } else { *code_ };
            }
        });
        let of_kind = index.having(Property::Kind(kind)).len();
        let mut filtered = Filtered {
            of_kind,
            named: of_kind,
            ..Filtered::default()
        };
        if let Some(name) = constraints.model.as_deref() {
            (filtered.named, filtered.other_kind) = self.named(kind, name);
        }
        if of_kind < self.codes.len() {
            let (first, last) = (traits(kind, 0), traits(kind, 3));
            self.each(|part, codes| {
                for (code_, has) in codes.iter_mut().zip(&part.traits) {
                    let other = *has < first || *has > last;
                    *code_ = if other { code(Reason::Kind) } else { *code_ };
                }
            });
        }
        filtered
    }

    /// Excludes whoever has another name. How many of the kind have it, and what another does that has it.
    fn named(&mut self, kind: ExpertKind, name: &str) -> (usize, Option<ExpertKind>) {
        let names = Names::new(name);
        let (mut of_kind, mut other) = (0, None);
        self.each(|part, codes| {
            for (at, code_) in codes.iter_mut().enumerate() {
                if !names.mean(part, at) {
                    *code_ = code(Reason::Model);
                } else if part.cards[at].kind == kind {
                    of_kind += 1;
                } else {
                    other = Some(part.cards[at].kind);
                }
            }
        });
        (of_kind, other)
    }

    fn each(&mut self, mut visit: impl FnMut(&Part, &mut [u8])) {
        let mut rest = &mut self.codes[..];
        for part in &self.roster.parts {
            let (codes, further) = rest.split_at_mut(part.ids.len());
            visit(part, codes);
            rest = further;
        }
    }

    /// Excludes all but these experts.
    fn keep_only<'b>(&mut self, ids: impl Iterator<Item = &'b ExpertId>, why: u8) {
        let mut kept = vec![why; self.codes.len()];
        for id in ids {
            if let Some((part, at)) = self.roster.place(id) {
                let at = self.roster.starts[part] + at;
                kept[at] = self.codes[at];
            }
        }
        self.codes = kept;
    }

    /// Counts the excluded, and tells of as many as the tally takes.
    fn tell(&self, request: &Request<'_>, tally: &mut Tally) {
        let (mut telling, mut off_topic) = (0, 0);
        for reason in REASONS {
            let excluded = count(&self.codes, code(reason));
            tally.count_all(reason, excluded);
            if reason.off_topic() {
                off_topic += excluded;
            } else {
                telling += excluded;
            }
        }
        let mut left = tally.room(telling, off_topic);
        let mut rest = &self.codes[..];
        for part in &self.roster.parts {
            if left == (0, 0) {
                break;
            }
            let (codes, further) = rest.split_at(part.ids.len());
            rest = further;
            for (at, excluded) in codes.iter().enumerate().filter(|(_, c)| **c != FITS) {
                let Some(reason) = REASONS.into_iter().find(|r| code(*r) == *excluded) else {
                    continue;
                };
                let list = if reason.off_topic() {
                    &mut left.1
                } else {
                    &mut left.0
                };
                if *list > 0 {
                    *list -= 1;
                    let (id, card) = (part.ids[at], &part.cards[at]);
                    tally.tell((id, card), None, reason, || {
                        filter::detail(reason, card, request)
                    });
                }
            }
        }
    }

    /// See [`filter::vector_space`].
    fn one_vector_space(&mut self, request: &Request<'_>, index: &Index, tally: &mut Tally) {
        let names = request.query.constraints.model.as_deref().map(Names::new);
        let mut served: Vec<(WeightsId, usize)> = Vec::new();
        self.each(|part, _| {
            for at in 0..part.ids.len() {
                let meant = names.as_ref().is_none_or(|names| names.mean(part, at));
                if part.cards[at].kind == ExpertKind::Embed && meant {
                    let replicas = index.expert(&part.ids[at]).map_or(0, |e| e.replicas.len());
                    served.push((part.weights[at], replicas));
                }
            }
        });
        let chosen = filter::vector_space(served.into_iter());
        let reason = Reason::VectorSpace;
        self.each(|part, codes| {
            for (at, code_) in codes.iter_mut().enumerate().filter(|(_, c)| **c == FITS) {
                if Some(part.weights[at]) != chosen {
                    *code_ = code(reason);
                    let card = &part.cards[at];
                    tally.add((part.ids[at], card), None, reason, || {
                        filter::detail(reason, card, request)
                    });
                }
            }
        });
    }

    fn layer(&self) -> Option<&'a Layer> {
        self.roster.layers.last()
    }

    /// The `wanted` closest of those that fit, by their mean vectors; of equals those of lower ids. In no
    /// particular order.
    pub(crate) fn closest(&self, wanted: usize) -> Vec<Contender<'a>> {
        let layer = self.layer().filter(|_| self.fits > wanted);
        self.select(wanted, layer, |code, _| code == FITS)
    }

    /// All that fit, the closest first.
    pub(crate) fn all(&self) -> Vec<Contender<'a>> {
        self.select(usize::MAX, self.layer(), |code, _| code == FITS)
    }

    /// The closest of all of a kind, fit or not.
    pub(crate) fn closest_of(&self, kind: ExpertKind, wanted: usize) -> Vec<Contender<'a>> {
        let (first, last) = (traits(kind, 0), traits(kind, 3));
        self.select(wanted, self.layer(), |_, has| (first..=last).contains(&has))
    }

    fn select(
        &self,
        wanted: usize,
        layer: Option<&Layer>,
        takes: impl Fn(u8, u8) -> bool,
    ) -> Vec<Contender<'a>> {
        let mut top = Top::new(wanted);
        let mut values = Vec::new();
        let mut rest = &self.codes[..];
        for (number, part) in self.roster.parts.iter().enumerate() {
            let (codes, further) = rest.split_at(part.ids.len());
            rest = further;
            let both = || codes.iter().zip(&part.traits).enumerate();
            let taken = both().filter(|(_, (code, has))| takes(**code, **has));
            let some = taken.clone().count();
            if some == 0 {
                continue;
            }
            values.clear();
            match layer {
                // Side by side they cost little each, so that some may be for nothing.
                Some(layer) if some * FEW >= part.ids.len() => {
                    layer.closeness(number, self.probes, &mut values);
                }
                Some(layer) => {
                    values.resize(part.ids.len(), 0.0);
                    for (at, _) in taken {
                        values[at] = layer.closeness_of(number, at, self.probes);
                    }
                }
                None => {}
            }
            values.resize(part.ids.len(), 0.0);
            for ((at, (code, has)), value) in both().zip(&values) {
                if *value > top.least && takes(*code, *has) {
                    top.push(*value, (number as u32, at as u32));
                }
            }
        }
        let contender = |(part, at): Place| {
            let (number, at) = (part as usize, at as usize);
            let part = &self.roster.parts[number];
            Contender {
                id: part.ids[at],
                descriptor: self.layer().and_then(|l| l.descriptor(number, at)),
            }
        };
        top.into_best().into_iter().map(contender).collect()
    }
}

/// How often a code occurs.
fn count(codes: &[u8], wanted: u8) -> usize {
    // As many as a byte can count.
    let some = |codes: &[u8]| codes.iter().map(|c| u8::from(*c == wanted)).sum::<u8>();
    codes
        .chunks(255)
        .map(|codes| usize::from(some(codes)))
        .sum()
}

/// Experts that these peers offer.
fn offered<'a>(index: &'a Index, peers: &'a [PeerId]) -> impl Iterator<Item = &'a ExpertId> {
    let offers = peers.iter().filter_map(|peer| index.peers().get(peer));
    offers.flat_map(|offer| &offer.experts)
}

/// A name that is looked for, with what tells quickly that an expert has another.
struct Names<'a> {
    name: &'a str,
    hash: u64,
    /// The first byte of the ids that it may be the beginning of.
    first: Option<u8>,
}

impl<'a> Names<'a> {
    fn new(name: &'a str) -> Self {
        let digits = name.get(..2).filter(|_| name.len() >= 8);
        Self {
            name,
            hash: name_hash(name),
            first: digits.and_then(|two| u8::from_str_radix(two, 16).ok()),
        }
    }

    fn mean(&self, part: &Part, at: usize) -> bool {
        let begins = self.first == Some(part.ids[at].as_bytes()[0]);
        let likely = part.names[at] == self.hash || part.models[at] == self.hash || begins;
        likely && Index::is_name(&part.ids[at], &part.cards[at], self.name)
    }
}

/// The highest of many values, the earlier of equals.
struct Top {
    wanted: usize,
    kept: Vec<(f32, Place)>,
    /// What a later value must exceed.
    least: f32,
}

impl Top {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            kept: Vec::with_capacity(wanted.saturating_mul(2).min(1024)),
            least: f32::NEG_INFINITY,
        }
    }

    fn push(&mut self, value: f32, place: Place) {
        debug_assert_eq!(value.to_bits(), usable(value).to_bits());
        self.kept.push((value, place));
        if self.kept.len() >= self.wanted.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let better = |a: &(f32, Place), b: &(f32, Place)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if self.kept.len() > self.wanted {
            self.kept.select_nth_unstable_by(self.wanted, better);
            self.kept.truncate(self.wanted);
        }
        if self.kept.len() == self.wanted {
            let values = self.kept.iter().map(|(value, _)| *value);
            self.least = values.fold(f32::INFINITY, f32::min);
        }
    }

    fn into_best(mut self) -> Vec<Place> {
        self.cut();
        let better = |a: &(f32, Place), b: &(f32, Place)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        self.kept.sort_unstable_by(better);
        self.kept.into_iter().map(|(_, place)| place).collect()
    }
}
