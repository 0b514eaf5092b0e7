//! How many experts a question is worth, by the Tsallis entropy of what is expected of each.
//!
//! Expectations become chances by a softmax; their entropy, divided by its greatest value, is 0 where one expert
//! stands out and 1 where all are alike (Tsallis 1988, "Possible generalization of Boltzmann-Gibbs statistics").
//! Its order is between 1 (Shannon's) and 2 (Gini's), so that a long tail of unlikely experts counts little.

use polymath_types::How;

/// What is known of one expert, for one question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// How good its answer is expected to be, 0 to 1.
    pub expected: f64,
    /// Likeness of question and card: a cosine.
    pub fit: f64,
    /// Graded answers behind the expectation.
    pub evidence: f64,
    /// What an answer costs, in any unit; of equal prices the earlier one counts as cheaper.
    pub price: f64,
    /// It is meant for questions that suit nobody else.
    pub general: bool,
}

/// Who is asked, by their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// This one.
    One(usize),
    /// The one for what suits nobody.
    Generalist(usize),
    /// All of these at once.
    Vote(Vec<usize>),
    /// The cheap ones, and the strong one where they disagree.
    Cascade {
        /// At least two.
        cheap: Vec<usize>,
        /// None of those.
        strong: usize,
    },
    /// Nobody: the question suits none of them.
    Abstain,
}

impl Way {
    /// Its name, for people and machines.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::One(_) => "one",
            Self::Generalist(_) => "generalist",
            Self::Vote(_) => "vote",
            Self::Cascade { .. } => "cascade",
            Self::Abstain => "abstain",
        }
    }
}

/// Its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// A difference of expectations by this much makes the better one e times as likely.
    pub temperature: f64,
    /// Of the entropy, over 1.
    pub order: f64,
    /// Up to this entropy one expert is asked.
    pub low: f64,
    /// From this entropy on nobody stands out: a cascade.
    pub high: f64,
    /// Between them so many vote as together have this chance of being the best.
    pub mass: f64,
    /// Most who vote by the gate's own choice.
    pub most: usize,
    /// A question whose closest card is less like it than this suits nobody, where nothing was learnt either.
    pub least_fit: f64,
    /// Graded answers from which on an expectation counts as learnt.
    pub learnt: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            temperature: 0.05,
            order: 1.5,
            low: 0.2,
            high: 0.8,
            mass: 0.9,
            most: 5,
            least_fit: 0.05,
            learnt: 5.0,
        }
    }
}

/// The Tsallis entropy of chances that sum to 1, divided by its greatest value: 0 to 1.
pub fn entropy(chances: &[f64], order: f64) -> f64 {
    if chances.len() < 2 {
        return 0.0;
    }
    let sum: f64 = chances.iter().map(|p| p.powf(order)).sum();
    let least = (chances.len() as f64).powf(1.0 - order);
    ((1.0 - sum) / (1.0 - least)).clamp(0.0, 1.0)
}

impl Gate {
    /// With what chance each is the best.
    pub fn chances(&self, standings: &[Standing]) -> Vec<f64> {
        let best = standings.iter().map(|s| s.expected);
        let best = best.fold(f64::NEG_INFINITY, f64::max);
        let odds: Vec<f64> = standings
            .iter()
            .map(|s| ((s.expected - best) / self.temperature).exp())
            .collect();
        let total: f64 = odds.iter().sum();
        odds.into_iter().map(|o| o / total).collect()
    }

    /// How unsure it is who is best, 0 to 1.
    pub fn doubt(&self, standings: &[Standing]) -> f64 {
        entropy(&self.chances(standings), self.order)
    }

    /// Who is asked. `standings` come in the order in which the router would ask them, and are not empty;
    /// `calls` is how many experts may be asked at all. Where too few are there or allowed, one is asked.
    pub fn choose(&self, how: How, standings: &[Standing], calls: usize) -> Way {
        let all = standings.len().min(calls);
        match how {
            How::One | How::Plan => Way::One(0),
            How::Vote if all > 1 => Way::Vote((0..all).collect()),
            How::Cascade => self.cascade(standings, calls),
            How::Vote => Way::One(0),
            How::Auto => self.by_doubt(standings, calls),
        }
    }

    fn by_doubt(&self, standings: &[Standing], calls: usize) -> Way {
        let suits = |s: &Standing| s.fit >= self.least_fit || s.evidence >= self.learnt;
        if !standings.iter().any(suits) {
            let general = standings.iter().position(|s| s.general);
            return general.map_or(Way::Abstain, Way::Generalist);
        }
        let chances = self.chances(standings);
        let doubt = entropy(&chances, self.order);
        if doubt <= self.low {
            return Way::One(0);
        }
        if doubt >= self.high {
            return self.cascade(standings, calls.min(3));
        }
        let mut order: Vec<usize> = (0..standings.len()).collect();
        order.sort_by(|a, b| chances[*b].total_cmp(&chances[*a]));
        let mut covered = 0.0;
        let enough = order.iter().take_while(|at| {
            let more = covered < self.mass;
            covered += chances[**at];
            more
        });
        // Two who differ would leave it to the order: so three at least.
        let voters = enough.count().max(3).min(self.most).min(calls);
        order.truncate(voters);
        match order.len() {
            0 | 1 => Way::One(0),
            2 => self.cascade(standings, calls),
            _ => Way::Vote(order),
        }
    }

    /// The strong one is that of whom most is expected; the cheap ones are the cheapest of the others.
    fn cascade(&self, standings: &[Standing], calls: usize) -> Way {
        if standings.len().min(calls) < 3 {
            // Two could only disagree.
            return Way::One(0);
        }
        let expected = |at: &usize| standings[*at].expected;
        let mut order: Vec<usize> = (0..standings.len()).collect();
        order.sort_by(|a, b| expected(b).total_cmp(&expected(a)));
        let strong = order.remove(0);
        order.sort_by(|a, b| {
            let by_price = standings[*a].price.total_cmp(&standings[*b].price);
            by_price.then(a.cmp(b))
        });
        order.truncate(calls - 1);
        Way::Cascade {
            cheap: order,
            strong,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expecting(all: &[f64]) -> Vec<Standing> {
        let standing = |expected: &f64| Standing {
            expected: *expected,
            fit: 0.5,
            evidence: 0.0,
            price: 0.0,
            general: false,
        };
        all.iter().map(standing).collect()
    }

    #[test]
    fn doubt_leads_from_one_over_a_vote_to_a_cascade() {
        let gate = Gate::default();
        let choose = |all: &[f64], calls| gate.choose(How::Auto, &expecting(all), calls);
        let clear = [0.6, 0.3, 0.3, 0.3, 0.3, 0.3];
        assert_eq!(choose(&clear, 8), Way::One(0));
        let torn = [0.6, 0.59, 0.58, 0.3, 0.3, 0.3, 0.3];
        assert_eq!(choose(&torn, 8), Way::Vote(vec![0, 1, 2]));
        let alike = [0.6, 0.61, 0.6, 0.6];
        let cascade = Way::Cascade {
            cheap: vec![0, 2],
            strong: 1,
        };
        assert_eq!(choose(&alike, 8), cascade);
        assert_eq!(choose(&alike, 1), Way::One(0));
        assert_eq!(choose(&[0.6], 8), Way::One(0));
    }

    #[test]
    fn what_suits_nobody_goes_to_the_generalist_or_to_nobody_unless_something_was_learnt() {
        let gate = Gate::default();
        let mut strangers = expecting(&[0.6, 0.6, 0.6]);
        for s in &mut strangers {
            s.fit = 0.01;
        }
        let choose = |s: &[Standing]| gate.choose(How::Auto, s, 8);
        assert_eq!(choose(&strangers), Way::Abstain);
        strangers[2].general = true;
        assert_eq!(choose(&strangers), Way::Generalist(2));
        strangers[1].evidence = 30.0;
        assert_ne!(choose(&strangers), Way::Generalist(2));
        // Who asks for a vote gets one, whatever the fit.
        assert_eq!(gate.choose(How::Vote, &strangers, 2), Way::Vote(vec![0, 1]));
    }

    #[test]
    fn the_cheap_ones_go_first_and_the_strongest_is_kept_for_the_end() {
        let mut all = expecting(&[0.6, 0.9, 0.5, 0.4]);
        for (s, price) in all.iter_mut().zip([5.0, 9.0, 1.0, 0.5]) {
            s.price = price;
        }
        let way = Gate::default().choose(How::Cascade, &all, 3);
        let cheap = vec![3, 2];
        assert_eq!(way, Way::Cascade { cheap, strong: 1 });
        let two = Gate::default().choose(How::Cascade, &all[..2], 3);
        assert_eq!(two, Way::One(0));
    }

    proptest! {
        #[test]
        fn entropy_is_between_none_and_all(all in prop::collection::vec(0.0..1.0, 1..12), order in 1.05..2.0) {
            let gate = Gate { order, ..Gate::default() };
            let doubt = gate.doubt(&expecting(&all));
            prop_assert!((0.0..=1.0).contains(&doubt));
            let alike = vec![all[0]; all.len()];
            if all.len() > 1 {
                prop_assert!((gate.doubt(&expecting(&alike)) - 1.0).abs() < 1e-9);
            }
        }

        #[test]
        fn nobody_is_asked_twice_and_no_more_than_allowed(
            all in prop::collection::vec(0.0..1.0, 1..12), calls in 1usize..10, how in 0usize..5,
        ) {
            let standings = expecting(&all);
            let asked = match Gate::default().choose(How::ALL[how], &standings, calls) {
                Way::One(at) | Way::Generalist(at) => vec![at],
                Way::Vote(all) => all,
                Way::Cascade { mut cheap, strong } => {
                    prop_assert!(cheap.len() > 1);
                    cheap.push(strong);
                    cheap
                }
                Way::Abstain => vec![],
            };
            prop_assert!(asked.len() <= calls);
            let mut once = asked.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), asked.len());
            prop_assert!(asked.iter().all(|at| *at < standings.len()));
        }
    }
}
