//! Slots to be created: their names, kinds and options, in the syntax of each version.

use std::hash::{BuildHasher as _, RandomState};

use super::Quoted;
use crate::ident::SlotName;
use crate::source::look::OWN_SLOTS;

/// A slot to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSlot {
    /// Its name.
    pub name: SlotName,
    /// Whether it goes with the session.
    pub temporary: bool,
    /// What it is for.
    pub kind: NewSlotKind,
}

/// What a slot is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewSlotKind {
    /// Physical replication.
    Physical {
        /// Whether to keep WAL from now on and not only once it is used.
        reserve_wal: bool,
    },
    /// Logical decoding.
    Logical {
        /// The output plugin.
        plugin: String,
        /// What to do with the snapshot of the slot's beginning.
        snapshot: Snapshot,
        /// Whether to decode prepared transactions when they are prepared (PostgreSQL 15 and later).
        two_phase: bool,
    },
}

/// What becomes of a new slot's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Other sessions may import it until the next command here.
    Export,
    /// The transaction open in this session uses it.
    Use,
    /// None is made.
    Nothing,
}

impl NewSlot {
    /// The command in the syntax of the server's version: options are a list in parentheses from 15 on, bare keywords
    /// before (`repl_gram.y`).
    pub(super) fn command(&self, major: Option<u32>) -> String {
        let (kind, options) = match &self.kind {
            NewSlotKind::Physical { reserve_wal } => {
                ("PHYSICAL".to_owned(), if *reserve_wal { vec![("RESERVE_WAL", "RESERVE_WAL")] } else { Vec::new() })
            }
            NewSlotKind::Logical { plugin, snapshot, two_phase } => {
                let mut options = vec![match snapshot {
                    Snapshot::Export => ("EXPORT_SNAPSHOT", "SNAPSHOT 'export'"),
                    Snapshot::Use => ("USE_SNAPSHOT", "SNAPSHOT 'use'"),
                    Snapshot::Nothing => ("NOEXPORT_SNAPSHOT", "SNAPSHOT 'nothing'"),
                }];
                if *two_phase {
                    options.push(("TWO_PHASE", "TWO_PHASE"));
                }
                (format!("LOGICAL {}", Quoted(plugin)), options)
            }
        };
        let temporary = if self.temporary { " TEMPORARY" } else { "" };
        let listed = major.is_none_or(|major| major >= 15);
        let words: Vec<&str> = options.iter().map(|(bare, in_list)| if listed { *in_list } else { *bare }).collect();
        let options = match (words.is_empty(), listed) {
            (true, _) => String::new(),
            (false, true) => format!(" ({})", words.join(", ")),
            (false, false) => format!(" {}", words.join(" ")),
        };
        format!("CREATE_REPLICATION_SLOT {}{temporary} {kind}{options}", Quoted(self.name.as_str()))
    }
}

/// A name for a slot of walgate's own, which no other process has. Its id is not enough: every container has a process 1.
pub fn own_slot_name(purpose: &str) -> SlotName {
    let random = RandomState::new().hash_one(std::process::id());
    let name = format!("{OWN_SLOTS}{purpose}_{random:016x}");
    name.parse().expect("lower-case letters, digits and underscores, and few of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_created_in_the_syntax_of_the_servers_version() {
        let logical = |snapshot, two_phase| NewSlot {
            name: "s_1".parse().unwrap(),
            temporary: true,
            kind: NewSlotKind::Logical { plugin: "pgoutput".into(), snapshot, two_phase },
        };
        let physical = |reserve_wal| NewSlot {
            name: "s_1".parse().unwrap(),
            temporary: false,
            kind: NewSlotKind::Physical { reserve_wal },
        };
        for (slot, major, expected) in [
            (logical(Snapshot::Nothing, false), 14, r#""s_1" TEMPORARY LOGICAL "pgoutput" NOEXPORT_SNAPSHOT"#),
            (
                logical(Snapshot::Export, true),
                15,
                r#""s_1" TEMPORARY LOGICAL "pgoutput" (SNAPSHOT 'export', TWO_PHASE)"#,
            ),
            (physical(true), 14, r#""s_1" PHYSICAL RESERVE_WAL"#),
            (physical(true), 18, r#""s_1" PHYSICAL (RESERVE_WAL)"#),
            (physical(false), 18, r#""s_1" PHYSICAL"#),
        ] {
            assert_eq!(slot.command(Some(major)), format!("CREATE_REPLICATION_SLOT {expected}"));
        }
    }

    #[test]
    fn slot_names_are_walgates_and_differ() {
        let (one, other) = (own_slot_name("tail"), own_slot_name("tail"));
        assert!(one.as_str().starts_with("walgate_tail_") && one != other, "{one} {other}");
    }
}
