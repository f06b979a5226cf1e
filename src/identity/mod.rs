//! Which published tables will break somebody, and how, and the SQL that mends each: pure functions over a snapshot of the
//! catalog.
//!
//! `source` reads the [`Catalog`], and asks the [`questions`] that only the values of a table answer. [`audit`] judges both by
//! the rules of the [`Scope`]. Nothing here knows a socket or a clock, and nothing here changes a server: `walgate check`
//! runs what a [`Mend`] says.

pub mod catalog;
mod finding;
mod key;
mod mend;
mod publish;
mod rules;
mod standing;

pub use catalog::Catalog;
pub use finding::{Audit, Finding, Severity};
pub use key::{Evidence, Question, Survey};
pub use mend::{Mend, Run, Step, block, in_comment};
pub use publish::Published;
pub use rules::{Rule, RuleSet, Scope, all, audit, is_zero_publication, questions};
pub use standing::{Changes, Standing};
