//! What pglogical demands of a table in a replication set.

use super::Rule;

pub(super) static RULES: &[Rule] = &[];
