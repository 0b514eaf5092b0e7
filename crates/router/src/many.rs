//! How many experts answer a question, and how their answers become one.
//!
//! * [`Gate`]: one expert, a vote, a cascade, a generalist or nobody, by how sure the expectations are.
//! * [`tally`]: what a vote says, and what it is worth; [`Escalation`]: when that is too little.
//! * [`short_answer`] and [`groups`]: which answers say the same.
//! * [`beginning`] and [`goes_in_circles`]: when an answer under way is worth asking another.
//! * [`Plan`]: a question in steps, as an expert wrote them down.
//! * [`Purse`]: what all calls of one question may cost together.
//!
//! Nothing here makes a call: texts and vectors are inputs. The daemon and the evaluation use the same code.

mod agreement;
mod gate;
mod partial;
mod plan;
mod purse;
mod vote;

pub use agreement::{Said, groups, medoid, short_answer};
pub use gate::{Gate, Standing, Way, entropy};
pub use partial::{Beginning, beginning, declines, goes_in_circles};
pub use plan::{Plan, PlanBounds, Step, integration, planning};
pub use purse::{Grant, Purse, PurseLimits, Spent};
pub use vote::{Escalation, Tally, settled, tally, usual_sharpness};
