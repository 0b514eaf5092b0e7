//! Measured figures and what rounds make of them.

/// One measured figure.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured. Rows of one case stand together.
    pub case: String,
    /// Which of its figures.
    pub metric: &'static str,
    /// The median of the rounds.
    pub value: f64,
    /// Of the value.
    pub unit: &'static str,
    /// What it is held against, and the ratios of the rounds.
    pub peer: Option<(&'static str, Spread)>,
    /// What else must be known to read it.
    pub note: Option<String>,
    /// What it is to reach.
    pub goal: Option<Goal>,
}

/// What a figure is to reach, and whether it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// In words.
    pub asked: String,
    /// Whether it is met.
    pub met: bool,
}

impl Row {
    /// A figure that is held against nothing.
    pub fn new(
        case: impl Into<String>,
        metric: &'static str,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            case: case.into(),
            metric,
            value,
            unit,
            peer: None,
            note: None,
            goal: None,
        }
    }

    /// The same with what it is to reach.
    pub fn asked(self, asked: impl Into<String>, met: bool) -> Self {
        let asked = asked.into();
        Self {
            goal: Some(Goal { asked, met }),
            ..self
        }
    }

    /// What must be known to read it, and what it is to reach.
    pub(crate) fn remarks(&self) -> Option<String> {
        let goal = self.goal.as_ref().map(|goal| {
            let met = if goal.met { "met" } else { "MISSED" };
            format!("asked for: {}, {met}", goal.asked)
        });
        let parts: Vec<String> = self.note.iter().cloned().chain(goal).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The same, held against `peer`.
    pub fn against(self, peer: &'static str, ratios: Spread) -> Self {
        Self {
            peer: Some((peer, ratios)),
            ..self
        }
    }
}

/// Median, least and greatest of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; the mean of the two middle ones of an even number.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Spread {
    /// Of `values`; not a number where there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self {
            median,
            least: at(0),
            greatest: at(sorted.len().wrapping_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_sorted_values_and_of_none_is_not_a_number() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.least, odd.median, odd.greatest), (1.0, 2.0, 3.0));
        assert_eq!(
            Spread::of(&[4.0, 1.0, 2.0, 3.0]).median.to_bits(),
            2.5_f64.to_bits()
        );
        let none = Spread::of(&[]);
        assert!(none.median.is_nan() && none.least.is_nan() && none.greatest.is_nan());
    }
}
