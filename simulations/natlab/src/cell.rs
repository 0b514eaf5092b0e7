//! The cells of the matrix, and which of them are run.

use std::{fmt, str::FromStr};

use crate::{
    nat::Access,
    theory::{Reach, Transports, reach},
};

/// Who asks whom, over which transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) transports: Transports,
    pub(crate) asks: Access,
    pub(crate) answers: Access,
}

impl Cell {
    /// The best path that theory allows.
    pub(crate) fn expected(self) -> Reach {
        reach(self.asks, self.answers, self.transports)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{}/{}/{}",
            self.asks, self.answers, self.transports
        ))
    }
}

/// A pattern of cells: `ASKS/ANSWERS/TRANSPORTS`, each a name or `*`.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    asks: Option<Access>,
    answers: Option<Access>,
    transports: Option<Transports>,
}

impl Pattern {
    pub(crate) fn covers(&self, cell: Cell) -> bool {
        self.asks.is_none_or(|a| a == cell.asks)
            && self.answers.is_none_or(|a| a == cell.answers)
            && self.transports.is_none_or(|t| t == cell.transports)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        let (Some(asks), Some(answers), Some(transports), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format!(
                "{text:?} is not ASKS/ANSWERS/TRANSPORTS, such as symmetric/*/quic"
            ));
        };
        fn part<T: FromStr<Err = String>>(text: &str) -> Result<Option<T>, String> {
            if text == "*" {
                Ok(None)
            } else {
                text.parse().map(Some)
            }
        }
        Ok(Self {
            asks: part(asks)?,
            answers: part(answers)?,
            transports: part(transports)?,
        })
    }
}

/// The whole matrix: every pair, over every choice of transports, each side asking.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for transports in Transports::ALL {
        for asks in Access::ALL {
            for answers in Access::ALL {
                cells.push(Cell {
                    transports,
                    asks,
                    answers,
                });
            }
        }
    }
    cells
}

/// The short set of `--quick`: one cell for each way that things can go.
pub(crate) fn telling() -> Vec<Cell> {
    use Access::{AddressRestricted, Cgnat, PortRestricted, Public, Symmetric, Tcp443, UdpBlocked};
    [
        (Public, Public, Transports::Both),
        (PortRestricted, PortRestricted, Transports::Tcp),
        (PortRestricted, PortRestricted, Transports::Quic),
        (AddressRestricted, Cgnat, Transports::Both),
        (Symmetric, Public, Transports::Quic),
        (Symmetric, Symmetric, Transports::Both),
        (UdpBlocked, PortRestricted, Transports::Both),
        (UdpBlocked, PortRestricted, Transports::Quic),
        (Tcp443, PortRestricted, Transports::Both),
    ]
    .map(|(asks, answers, transports)| Cell {
        transports,
        asks,
        answers,
    })
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_every_pair_from_both_sides() {
        let cells = all();
        assert_eq!(cells.len(), 3 * 8 * 8);
        let mut pairs: Vec<_> = cells
            .iter()
            .map(|c| (c.asks.min(c.answers), c.asks.max(c.answers)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), 36);
    }

    #[test]
    fn the_short_set_shows_every_reach() {
        for reach in [Reach::Direct, Reach::Punch, Reach::Relay, Reach::Nothing] {
            assert!(telling().iter().any(|c| c.expected() == reach), "{reach}");
        }
    }

    #[test]
    fn patterns_name_parts_of_the_matrix() {
        let count = |text: &str| {
            let pattern: Pattern = text.parse().unwrap();
            all().into_iter().filter(|c| pattern.covers(*c)).count()
        };
        assert_eq!(count("*/*/*"), 192);
        assert_eq!(count("symmetric/*/quic"), 8);
        assert_eq!(count("public/cgnat/both"), 1);
        assert!("public/cgnat".parse::<Pattern>().is_err());
        assert!("public/cgnat/sctp".parse::<Pattern>().is_err());
    }
}
