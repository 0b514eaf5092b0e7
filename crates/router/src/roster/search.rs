//! Who of a roster fits a query, and who of those is closest.

use polymath_types::{ExpertId, ExpertKind, Index, WeightsId};

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
    /// Of each place whether it fits, or else why not; part by part.
    codes: Vec<Vec<u8>>,
    fits: usize,
}

/// It fits; a reason's code is one more than its number.
const FITS: u8 = 0;

const fn code(reason: Reason) -> u8 {
    reason as u8 + 1
}

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
            codes: roster.parts.iter().map(|p| vec![FITS; p.ids.len()]).collect(),
            fits: 0,
        };
        let mut filtered = field.sort_out(request, index);
        field.tell(request, tally);
        if request.query.kind == ExpertKind::Embed {
            field.one_vector_space(request, index, tally);
        }
        field.fits = field.count(FITS);
        filtered.fitting = field.fits;
        (field, filtered)
    }

    /// Later filters first: the first that excludes an expert is the one that counts.
    fn sort_out(&mut self, request: &Request<'_>, index: &Index) -> Filtered {
        let (query, constraints) = (request.query, &request.query.constraints);
        let mut filtered = Filtered::default();
        if !constraints.allow.is_empty() {
            self.keep_only(offered(index, &constraints.allow), code(Reason::PeerExcluded));
        }
        if let Some(peer) = constraints.peer {
            let served = offered(index, std::slice::from_ref(&peer));
            self.keep_only(served, code(Reason::PeerRequired));
        }
        let wanted = filter::tokens_wanted(request);
        if wanted > 0 {
            self.each(|part, codes| {
                for (code_, context) in codes.iter_mut().zip(&part.contexts) {
                    let short = *context != 0 && u64::from(*context) < wanted;
                    *code_ = if short { code(Reason::Context) } else { *code_ };
                }
            });
        }
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
        let range = traits(kind, 0)..=traits(kind, 3);
        if let Some(name) = constraints.model.as_deref() {
            let names = Names::new(name);
            let mut other = None;
            let mut named = 0;
            self.each(|part, codes| {
                for (at, code_) in codes.iter_mut().enumerate() {
                    if !names.mean(part, at) {
                        *code_ = code(Reason::Model);
                    } else if range.contains(&part.traits[at]) {
                        named += 1;
                    } else {
                        other = Some(part.cards[at].kind);
                    }
                }
            });
            (filtered.named, filtered.other_kind) = (named, other);
        }
        let mut of_kind = 0;
        self.each(|part, codes| {
            for (code_, has) in codes.iter_mut().zip(&part.traits) {
                let other = *has < *range.start() || *has > *range.end();
                *code_ = if other { code(Reason::Kind) } else { *code_ };
            }
            of_kind += part.traits.iter().filter(|has| range.contains(has)).count();
        });
        filtered.of_kind = of_kind;
        if constraints.model.is_none() {
            filtered.named = of_kind;
        }
        let mut longest = 0;
        self.each(|part, codes| {
            for (code_, context) in codes.iter().zip(&part.contexts) {
                let counts = *code_ == code(Reason::Context);
                longest = longest.max(if counts { *context } else { 0 });
            }
        });
        filtered.longest_context = longest;
        filtered
    }

    fn each(&mut self, mut visit: impl FnMut(&Part, &mut [u8])) {
        for (part, codes) in self.roster.parts.iter().zip(&mut self.codes) {
            visit(part, codes);
        }
    }

    /// Excludes all but these experts.
    fn keep_only<'b>(&mut self, ids: impl Iterator<Item = &'b ExpertId>, why: u8) {
        let mut kept: Vec<Vec<u8>> = self.codes.iter().map(|c| vec![why; c.len()]).collect();
        for id in ids {
            let part = usize::from(id.as_bytes()[0]);
            let found = self.roster.parts.get(part);
            if let Some(at) = found.and_then(|p| p.ids.binary_search(id).ok()) {
                kept[part][at] = self.codes[part][at];
            }
        }
        self.codes = kept;
    }

    fn count(&self, wanted: u8) -> usize {
        let in_part = |codes: &Vec<u8>| codes.iter().filter(|c| **c == wanted).count();
        self.codes.iter().map(in_part).sum()
    }

    /// Counts the excluded, and tells of as many as the tally takes.
    fn tell(&self, request: &Request<'_>, tally: &mut Tally) {
        let reasons = [
            Reason::Kind,
            Reason::Model,
            Reason::Labels,
            Reason::Context,
            Reason::PeerRequired,
            Reason::PeerExcluded,
        ];
        let counts = reasons.map(|reason| (reason, self.count(code(reason))));
        let mut left: usize = counts.iter().map(|(_, n)| n).sum();
        for (reason, n) in counts {
            tally.count_all(reason, n);
        }
        let parts = self.roster.parts.iter().zip(&self.codes);
        for (part, codes) in parts {
            if left == 0 {
                break;
            }
            for (at, excluded) in codes.iter().enumerate().filter(|(_, c)| **c != FITS) {
                left -= 1;
                let Some(reason) = reasons.into_iter().find(|r| code(*r) == *excluded) else {
                    continue;
                };
                let (id, card) = (part.ids[at], &part.cards[at]);
                tally.tell((id, card), None, reason, || {
                    filter::detail(reason, card, request)
                });
            }
            // Whoever else is excluded is counted already.
            if tally.is_full() {
                break;
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

    /// The `wanted` closest of those that fit, by their mean vectors; of equals those of lower ids.
    pub(crate) fn closest(&self, wanted: usize) -> Vec<Contender<'a>> {
        let fits = |part: usize, at: usize| self.codes[part][at] == FITS;
        let all = self.fits <= wanted;
        self.select(wanted, all, &fits)
    }

    /// The same of all of a kind, fit or not.
    pub(crate) fn closest_of(&self, kind: ExpertKind, wanted: usize) -> Vec<Contender<'a>> {
        let of_kind = |part: usize, at: usize| self.roster.parts[part].cards[at].kind == kind;
        self.select(wanted, false, &of_kind)
    }

    fn select(
        &self,
        wanted: usize,
        all: bool,
        takes: &dyn Fn(usize, usize) -> bool,
    ) -> Vec<Contender<'a>> {
        let mut top = Top::new(wanted);
        let mut values = Vec::new();
        for (number, part) in self.roster.parts.iter().enumerate() {
            match self.layer().filter(|_| !all) {
                Some(layer) => layer.closeness(number, self.probes, &mut values),
                None => values.clear(),
            }
            for at in 0..part.ids.len() {
                let value = values.get(at).copied().unwrap_or(0.0);
                if top.admits(value) && takes(number, at) {
                    top.push(value, (number as u32, at as u32));
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

/// Experts that these peers offer.
fn offered<'a>(
    index: &'a Index,
    peers: &'a [polymath_types::PeerId],
) -> impl Iterator<Item = &'a ExpertId> {
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

    #[inline]
    fn admits(&self, value: f32) -> bool {
        value > self.least
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
