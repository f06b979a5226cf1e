//! The names PostgreSQL gives to things: OIDs, transaction ids, slots, tables.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// An object identifier of the system catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Oid(pub u32);

/// A transaction id, 32 bits as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Xid(pub u32);

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a replication slot: 1 to 63 of `a-z`, `0-9` and `_` (`ReplicationSlotValidateName` in
/// PostgreSQL's `slot.c`). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SlotName(Arc<str>);

/// A text that cannot name a replication slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a slot name: expected 1 to 63 lower-case letters, digits and underscores")]
pub struct SlotNameError;

impl SlotName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<SlotName, SlotNameError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(SlotName(text.into()))
        } else {
            Err(SlotNameError)
        }
    }
}

impl<'de> Deserialize<'de> for SlotName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SlotName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table with its schema. Prints and serializes as SQL needs it: `public.orders`, `public."Order"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema.
    pub schema: Box<str>,
    /// The table.
    pub name: Box<str>,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", Identifier(&self.schema), Identifier(&self.name))
    }
}

impl Serialize for TableName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Prints a name as an SQL identifier, quoted only where SQL needs it (the rule of `quote_ident`).
#[derive(Clone, Copy, Debug)]
pub struct Identifier<'a>(pub &'a str);

impl fmt::Display for Identifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identifier(name) = *self;
        let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
            && RESERVED.binary_search(&name).is_err();
        if plain { f.write_str(name) } else { write!(f, "\"{}\"", name.replace('"', "\"\"")) }
    }
}

/// Prints a text as an SQL literal, whatever is in it and whatever `standard_conforming_strings` says.
#[derive(Clone, Copy, Debug)]
pub struct Literal<'a>(pub &'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A literal with backslashes begins with a space, so that it can stand right behind a word.
        f.write_str(postgres_protocol::escape::escape_literal(self.0).trim_start())
    }
}

/// Keywords that cannot stand for a name everywhere: on PostgreSQL 18,
/// `SELECT word FROM pg_get_keywords() WHERE catcode <> 'U' ORDER BY word COLLATE "C"`.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "between",
    "bigint", "binary", "bit", "boolean", "both", "case", "cast", "char", "character", "check", "coalesce", "collate",
    "collation", "column", "concurrently", "constraint", "create", "cross", "current_catalog", "current_date",
    "current_role", "current_schema", "current_time", "current_timestamp", "current_user", "dec", "decimal",
    "default", "deferrable", "desc", "distinct", "do", "else", "end", "except", "exists", "extract", "false", "fetch",
    "float", "for", "foreign", "freeze", "from", "full", "grant", "greatest", "group", "grouping", "having", "ilike",
    "in", "initially", "inner", "inout", "int", "integer", "intersect", "interval", "into", "is", "isnull", "join",
    "json", "json_array", "json_arrayagg", "json_exists", "json_object", "json_objectagg", "json_query",
    "json_scalar", "json_serialize", "json_table", "json_value", "lateral", "leading", "least", "left", "like",
    "limit", "localtime", "localtimestamp", "merge_action", "national", "natural", "nchar", "none", "normalize",
    "not", "notnull", "null", "nullif", "numeric", "offset", "on", "only", "or", "order", "out", "outer", "overlaps",
    "overlay", "placing", "position", "precision", "primary", "real", "references", "returning", "right", "row",
    "select", "session_user", "setof", "similar", "smallint", "some", "substring", "symmetric", "system_user",
    "table", "tablesample", "then", "time", "timestamp", "to", "trailing", "treat", "trim", "true", "union", "unique",
    "user", "using", "values", "varchar", "variadic", "verbose", "when", "where", "window", "with", "xmlattributes",
    "xmlconcat", "xmlelement", "xmlexists", "xmlforest", "xmlnamespaces", "xmlparse", "xmlpi", "xmlroot",
    "xmlserialize", "xmltable",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted_where_sql_needs_it() {
        for (name, sql) in [
            ("orders", "orders"),
            ("_a1", "_a1"),
            ("Orders", "\"Orders\""),
            ("1st", "\"1st\""),
            ("order", "\"order\""),
            ("zone", "zone"),
            ("a b", "\"a b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("größe", "\"größe\""),
            ("", "\"\""),
        ] {
            assert_eq!(Identifier(name).to_string(), sql);
        }
    }

    #[test]
    fn the_keyword_list_is_sorted_for_binary_search() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn a_slot_name_is_what_the_server_would_accept() {
        assert_eq!("zero_0_a".parse::<SlotName>().unwrap().to_string(), "zero_0_a");
        for text in ["", "Zero", "a-b", "a b", &"a".repeat(64)] {
            assert_eq!(text.parse::<SlotName>(), Err(SlotNameError), "{text:?}");
        }
    }
}
