//! How far the sequences of two databases are. Replication does not carry them: a target that is behind hands out values
//! that the source has handed out before.
//!
//! "Behind" is by the value that comes next, in the direction in which the source counts. A sequence is only ever moved
//! forward: whoever has taken values of the target's meanwhile keeps them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::ident::{Literal, TableName};

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sequence {
    /// Its name.
    pub name: TableName,
    /// How it counts.
    pub definition: Definition,
    /// How far it is; none where the role may not read it, or a standby cannot.
    pub position: Option<Position>,
}

/// How a sequence counts (`pg_sequence`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// The type of its values.
    pub data_type: String,
    /// `seqincrement`: below zero where it counts down.
    pub increment: i64,
    /// `seqmin`
    pub min: i64,
    /// `seqmax`
    pub max: i64,
    /// `seqcycle`: begins anew at its end.
    pub cycle: bool,
}

/// How far a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// `last_value`
    pub last_value: i64,
    /// Whether that was handed out.
    pub is_called: bool,
}

/// How a sequence of the target stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Its name.
    pub sequence: TableName,
    /// How it stands.
    pub standing: Standing,
    /// The value that comes next on the source, as text: it may lie behind the last one there can be.
    pub source_next: Option<String>,
    /// The same on the target.
    pub target_next: Option<String>,
    /// How it counts there, where that is not as on the source.
    pub differs: Option<String>,
    /// What brings it up.
    #[serde(serialize_with = "as_text")]
    pub mend: Option<Setval>,
}

/// How a sequence of the target stands to the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// At or past the source's.
    Level,
    /// It would hand out values that the source has handed out, or is about to.
    Behind,
    /// It is not on the target.
    Missing,
    /// It counts the other way, or cannot reach the source's position.
    Different,
    /// One of the two could not be read.
    Unknown,
}

/// Moves a sequence of the target forward. Prints as a statement that leaves alone a sequence that is past already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setval {
    sequence: TableName,
    to: Position,
    /// The value that comes next on the source.
    next: i128,
    /// The target's increment.
    increment: i64,
}

impl Sequence {
    /// The value that comes next, were there no end.
    pub fn next(&self) -> Option<i128> {
        let step = |position: Position| if position.is_called { i128::from(self.definition.increment) } else { 0 };
        self.position.map(|position| i128::from(position.last_value) + step(position))
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Definition { data_type, increment, min, max, cycle } = self;
        let cycle = if *cycle { ", cycles" } else { "" };
        write!(f, "{data_type}, by {increment}, from {min} to {max}{cycle}")
    }
}

/// The position is read in the statement that moves it, and a sequence is not locked by either: between the two lies nothing
/// but the server's own next step.
impl fmt::Display for Setval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setval { sequence, to, next, increment } = self;
        let name = sequence.to_string();
        let (value, is_called) = (to.last_value, to.is_called);
        let before = if *increment > 0 { '<' } else { '>' };
        write!(
            f,
            "SELECT pg_catalog.setval({}, {value}, {is_called}) FROM {name} \
             WHERE last_value::pg_catalog.numeric + CASE WHEN is_called THEN {increment} ELSE 0 END {before} {next}",
            Literal(&name)
        )
    }
}

fn as_text<S: serde::Serializer>(mend: &Option<Setval>, serializer: S) -> Result<S::Ok, S::Error> {
    mend.as_ref().map(Setval::to_string).serialize(serializer)
}

/// How the target's sequences stand to the source's, by name. What only the target has does not matter.
pub fn compare(source: &[Sequence], target: &[Sequence]) -> Vec<Compared> {
    let there: BTreeMap<&TableName, &Sequence> = target.iter().map(|sequence| (&sequence.name, sequence)).collect();
    let mut compared: Vec<Compared> =
        source.iter().map(|sequence| judge(sequence, there.get(&sequence.name).copied())).collect();
    compared.sort_by(|a, b| a.sequence.cmp(&b.sequence));
    compared
}

fn judge(source: &Sequence, target: Option<&Sequence>) -> Compared {
    let next = |sequence: Option<&Sequence>| sequence.and_then(Sequence::next);
    let differs = target.filter(|target| target.definition != source.definition);
    let compared = |standing, mend| Compared {
        sequence: source.name.clone(),
        standing,
        source_next: next(Some(source)).map(|next| next.to_string()),
        target_next: next(target).map(|next| next.to_string()),
        differs: differs
            .map(|target| format!("{} on the source, {} on the target", source.definition, target.definition)),
        mend,
    };
    let Some(target) = target else { return compared(Standing::Missing, None) };
    let (Some(position), Some(wanted), Some(is)) = (source.position, source.next(), target.next()) else {
        return compared(Standing::Unknown, None);
    };
    let (own, other) = (&source.definition, &target.definition);
    if (own.increment > 0) != (other.increment > 0) {
        return compared(Standing::Different, None);
    }
    if if own.increment > 0 { is >= wanted } else { is <= wanted } {
        return compared(Standing::Level, None);
    }
    // By another increment the same last value would not lead to the same next one.
    let to = match i64::try_from(wanted) {
        Ok(next) if own.increment != other.increment => Position { last_value: next, is_called: false },
        _ => position,
    };
    if !(other.min..=other.max).contains(&to.last_value) {
        return compared(Standing::Different, None);
    }
    let mend = Setval { sequence: source.name.clone(), to, next: wanted, increment: other.increment };
    compared(Standing::Behind, Some(mend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(last_value: i64, is_called: bool, increment: i64) -> Sequence {
        let name = TableName { schema: "public".into(), name: "s".into() };
        let definition =
            Definition { data_type: "bigint".into(), increment, min: i64::MIN, max: i64::MAX, cycle: false };
        Sequence { name, definition, position: Some(Position { last_value, is_called }) }
    }

    fn standing(source: &Sequence, target: &Sequence) -> Standing {
        compare(std::slice::from_ref(source), std::slice::from_ref(target))[0].standing
    }

    #[test]
    fn who_is_behind_is_told_by_the_next_value_in_the_direction_of_the_increment() {
        for (source, target, expected) in [
            (sequence(5, true, 1), sequence(5, true, 1), Standing::Level),
            (sequence(5, true, 1), sequence(6, false, 1), Standing::Level),
            (sequence(5, true, 1), sequence(5, false, 1), Standing::Behind),
            (sequence(5, true, 1), sequence(9, true, 1), Standing::Level),
            (sequence(-5, true, -1), sequence(-4, true, -1), Standing::Behind),
            (sequence(-5, true, -1), sequence(-9, true, -1), Standing::Level),
            (sequence(5, true, 1), sequence(5, true, -1), Standing::Different),
            (sequence(100, true, 10), sequence(105, true, 1), Standing::Behind),
            (sequence(i64::MAX, true, 1), sequence(i64::MAX, true, 1), Standing::Level),
            (sequence(i64::MAX, true, 1), sequence(i64::MAX, false, 1), Standing::Behind),
        ] {
            assert_eq!(standing(&source, &target), expected, "{source:?} {target:?}");
        }
        let unread = Sequence { position: None, ..sequence(1, true, 1) };
        assert_eq!(standing(&unread, &sequence(1, true, 1)), Standing::Unknown);
        assert_eq!(standing(&sequence(1, true, 1), &unread), Standing::Unknown);
        assert_eq!(compare(&[unread], &[])[0].standing, Standing::Missing);
    }

    #[test]
    fn what_brings_a_sequence_up_leads_to_the_same_next_value() {
        for (source, target) in [
            (sequence(5, true, 1), sequence(1, false, 1)),
            (sequence(100, true, 10), sequence(1, true, 1)),
            (sequence(-7, true, -2), sequence(-1, true, -5)),
        ] {
            let compared = compare(std::slice::from_ref(&source), std::slice::from_ref(&target));
            let to = compared[0].mend.as_ref().unwrap().to;
            let moved = Sequence { position: Some(to), ..target };
            assert_eq!(moved.next(), source.next());
        }
    }

    #[test]
    fn a_position_that_the_target_cannot_hold_is_no_setval() {
        let mut target = sequence(1, true, 1);
        target.definition.max = 4;
        let compared = compare(&[sequence(5, true, 1)], &[target]);
        assert_eq!((compared[0].standing, &compared[0].mend), (Standing::Different, &None));
        assert!(compared[0].differs.as_ref().unwrap().contains("to 4 on the target"));
    }
}
