//! Patterns of slot names: those of SQL's LIKE, as runbooks have them. They are matched here and not on the server, so that
//! what is shown, what is asked for and what is done are about one look.

use std::str::FromStr;

use crate::ident::SlotName;

/// A pattern of slot names: `%` stands for any characters, `_` for any one, and a backslash takes what follows it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// `%`
    Any,
    /// `_`
    One,
    This(u8),
}

/// A text that is no pattern of slot names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("nothing follows the last backslash")]
    Escape,
    #[error(
        "no slot can be named so: expected lower-case letters, digits and underscores, with % for any characters and _ for \
         any one (a connection string goes before the action: walgate slots DSN list)"
    )]
    Character,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        let mut parts = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            parts.push(match byte {
                b'%' => Part::Any,
                b'_' => Part::One,
                b'\\' => Part::This(bytes.next().ok_or(PatternError::Escape)?),
                byte => Part::This(byte),
            });
        }
        let is_possible = |part: &Part| match part {
            Part::Any | Part::One => true,
            Part::This(byte) => matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'),
        };
        if parts.is_empty() || !parts.iter().all(is_possible) {
            return Err(PatternError::Character);
        }
        Ok(Pattern { text: text.to_owned(), parts })
    }
}

impl Pattern {
    /// As it was given.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a slot's name is like it.
    pub(super) fn matches(&self, slot: &SlotName) -> bool {
        is_like(&self.parts, slot.as_str().as_bytes())
    }

    /// Whether a slot's name is like it only because `_` stands for any character.
    pub(super) fn matches_loosely(&self, slot: &SlotName) -> bool {
        let strict = |part: &Part| if *part == Part::One { Part::This(b'_') } else { *part };
        let strict: Vec<Part> = self.parts.iter().map(strict).collect();
        self.matches(slot) && !is_like(&strict, slot.as_str().as_bytes())
    }

    /// The pattern in which `_` stands for itself.
    pub(super) fn escaped(&self) -> String {
        let spelled = |part: &Part| match part {
            Part::Any => "%".to_owned(),
            Part::One | Part::This(b'_') => r"\_".to_owned(),
            Part::This(byte) => char::from(*byte).to_string(),
        };
        self.parts.iter().map(spelled).collect()
    }
}

/// Where the last `%` was is enough to go back to: an earlier one could take no more than that one.
fn is_like(parts: &[Part], name: &[u8]) -> bool {
    let (mut parts, mut name) = (parts, name);
    let mut retry = None;
    loop {
        match (parts, name) {
            ([Part::Any, rest @ ..], _) => {
                retry = Some((rest, name));
                parts = rest;
            }
            ([Part::One, rest @ ..], [_, after @ ..]) => (parts, name) = (rest, after),
            ([Part::This(byte), rest @ ..], [first, after @ ..]) if byte == first => (parts, name) = (rest, after),
            ([], []) => return true,
            _ => match retry {
                Some((rest, [_, after @ ..])) => {
                    retry = Some((rest, after));
                    (parts, name) = (rest, after);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_like_a_pattern_as_in_sql() {
        // The server's own answers to the same are compared in tests/slots.
        for (text, name, is_like) in [
            ("zero_0_a", "zero_0_a", true),
            ("zero%", "zero_0_a", true),
            ("%_a", "zero_0_a", true),
            ("%a%a%", "banana", true),
            ("%ab", "aab", true),
            ("%", "x", true),
            ("_", "x", true),
            ("__", "x", false),
            (r"zero\_%", "zeros_0_a", false),
            ("zero_%", "zeros0a", true),
            (r"\zero", "zero", true),
            ("zero", "zero_0_a", false),
        ] {
            assert_eq!(pattern(text).matches(&name.parse().unwrap()), is_like, "{name} LIKE {text}");
        }
    }

    #[test]
    fn an_underscore_that_stood_for_something_else_is_told() {
        let loosely = |text, name: &str| pattern(text).matches_loosely(&name.parse().unwrap());
        assert!(loosely("zero_%", "zeros_0_a"));
        assert!(!loosely("zero_%", "zero_0_a"));
        assert!(!loosely(r"zero\_%", "zero_0_a"));
        assert!(!loosely("zero_%", "other"));
        assert_eq!(pattern(r"zero_\_%").escaped(), r"zero\_\_%");
    }

    #[test]
    fn what_no_slot_is_named_like_is_refused() {
        for text in ["", "Zero%", "zero-0", "host=db", "postgresql://db/app", r"a\-b", "größe"] {
            assert_eq!(text.parse::<Pattern>(), Err(PatternError::Character), "{text}");
        }
        assert_eq!(r"zero\".parse::<Pattern>(), Err(PatternError::Escape));
    }
}
