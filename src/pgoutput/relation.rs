//! Tables and data types as the stream describes them, and what is remembered of them.

use std::collections::BTreeMap;

use super::message::row_of;
use super::transaction::chunk_xid;
use crate::ident::{Oid, Xid};
use crate::wire::{Cursor, DecodeError};

/// What of an old row the server writes to the WAL (`REPLICA IDENTITY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

impl ReplicaIdentity {
    /// The meaning of `pg_class.relreplident`.
    pub fn from_byte(byte: u8) -> Option<ReplicaIdentity> {
        match byte {
            b'd' => Some(ReplicaIdentity::Default),
            b'n' => Some(ReplicaIdentity::Nothing),
            b'f' => Some(ReplicaIdentity::Full),
            b'i' => Some(ReplicaIdentity::Index),
            _ => None,
        }
    }

    /// The word that `ALTER TABLE … REPLICA IDENTITY` uses, in small letters.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplicaIdentity::Default => "default",
            ReplicaIdentity::Nothing => "nothing",
            ReplicaIdentity::Full => "full",
            ReplicaIdentity::Index => "index",
        }
    }
}

/// A Relation message: a table, described before its first change and again when it is altered.
#[derive(Clone, Debug)]
pub struct RelationMessage<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// The table's OID, which the row messages refer to.
    pub relation: Oid,
    /// Its schema.
    pub schema: &'a [u8],
    /// Its name.
    pub name: &'a [u8],
    /// What of old rows is sent.
    pub identity: ReplicaIdentity,
    /// Its published columns.
    pub columns: ColumnDefs<'a>,
}

impl<'a> RelationMessage<'a> {
    pub(super) fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<RelationMessage<'a>, DecodeError> {
        let (xid, relation) = row_of(&mut cursor, in_stream)?;
        let (schema, name) = qualified_name(&mut cursor, "relation schema", "relation name")?;
        let identity = cursor.code("replica identity", ReplicaIdentity::from_byte)?;
        let columns = ColumnDefs { left: cursor.count("column count")?, cursor };
        Ok(RelationMessage { xid, relation, schema, name, identity, columns })
    }
}

/// One column in a Relation message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnDef<'a> {
    /// Whether it is part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a [u8],
    /// Its data type.
    pub type_oid: Oid,
    /// Its type modifier (`atttypmod`), −1 for none.
    pub type_modifier: i32,
}

/// Walks the columns of a Relation message. After an error it ends.
#[derive(Clone, Debug)]
pub struct ColumnDefs<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for ColumnDefs<'a> {
    type Item = Result<ColumnDef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Result<ColumnDef<'a>, DecodeError>> {
        let result = match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.column()
            }
            None => match self.cursor.clone().finish("Relation") {
                Ok(()) => return None,
                Err(error) => Err(error),
            },
        };
        if result.is_err() {
            self.left = 0;
            self.cursor.take_rest();
        }
        Some(result)
    }
}

impl<'a> ColumnDefs<'a> {
    fn column(&mut self) -> Result<ColumnDef<'a>, DecodeError> {
        // Bit 0 marks the key; PostgreSQL's subscriber ignores the others.
        let key = self.cursor.u8("column flags")? & 1 != 0;
        Ok(ColumnDef {
            key,
            name: self.cursor.cstr("column name")?,
            type_oid: Oid(self.cursor.u32("column type OID")?),
            type_modifier: self.cursor.i32("column type modifier")?,
        })
    }
}

/// A Type message: the name of a data type that is not built in, sent before the first Relation that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeMessage<'a> {
    /// The transaction, inside streamed chunks only.
    pub xid: Option<Xid>,
    /// The type's OID.
    pub type_oid: Oid,
    /// Schema of the type; for a domain, of its base type.
    pub schema: &'a [u8],
    /// Name of the type; for a domain, of its base type.
    pub name: &'a [u8],
}

impl<'a> TypeMessage<'a> {
    pub(super) fn parse(mut cursor: Cursor<'a>, in_stream: bool) -> Result<TypeMessage<'a>, DecodeError> {
        let xid = chunk_xid(&mut cursor, in_stream)?;
        let type_oid = Oid(cursor.u32("type OID")?);
        let (schema, name) = qualified_name(&mut cursor, "type schema", "type name")?;
        cursor.finish("Type")?;
        Ok(TypeMessage { xid, type_oid, schema, name })
    }
}

/// A schema and a name in it. `pg_catalog` is sent as an empty string.
pub(super) fn qualified_name<'a>(
    cursor: &mut Cursor<'a>,
    schema_field: &'static str,
    name_field: &'static str,
) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let schema = cursor.cstr(schema_field)?;
    let name = cursor.cstr(name_field)?;
    Ok((if schema.is_empty() { b"pg_catalog" } else { schema }, name))
}

/// A table as its latest Relation message described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its OID.
    pub oid: Oid,
    /// Its schema.
    pub schema: Box<[u8]>,
    /// Its name.
    pub name: Box<[u8]>,
    /// What of old rows is sent.
    pub identity: ReplicaIdentity,
    /// Its published columns.
    pub columns: Box<[RelationColumn]>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: Box<[u8]>,
    /// Its data type.
    pub type_oid: Oid,
    /// Its type modifier (`atttypmod`), −1 for none.
    pub type_modifier: i32,
}

impl RelationColumn {
    fn is(&self, column: &ColumnDef<'_>) -> bool {
        self.key == column.key
            && *self.name == *column.name
            && self.type_oid == column.type_oid
            && self.type_modifier == column.type_modifier
    }
}

/// A data type as its latest Type message named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Its OID.
    pub oid: Oid,
    /// Schema of the type; for a domain, of its base type.
    pub schema: Box<[u8]>,
    /// Name of the type; for a domain, of its base type.
    pub name: Box<[u8]>,
}

/// The tables and data types that a session has described so far. It is as large as the number of
/// published tables.
///
/// A description that comes again unchanged, as after every reconnection or cache invalidation of the
/// server, costs a comparison and no allocation.
#[derive(Clone, Debug, Default)]
pub struct RelationCache {
    relations: BTreeMap<Oid, Relation>,
    types: BTreeMap<Oid, Type>,
}

impl RelationCache {
    /// Takes in a Relation message. True if it is new or differs from what was known. On an error nothing
    /// has changed.
    pub fn insert_relation(&mut self, message: &RelationMessage<'_>) -> Result<bool, DecodeError> {
        if let Some(known) = self.relations.get(&message.relation)
            && is_described_by(known, message)?
        {
            return Ok(false);
        }
        let mut columns = Vec::new();
        for column in message.columns.clone() {
            let ColumnDef { key, name, type_oid, type_modifier } = column?;
            columns.push(RelationColumn { key, name: name.into(), type_oid, type_modifier });
        }
        let relation = Relation {
            oid: message.relation,
            schema: message.schema.into(),
            name: message.name.into(),
            identity: message.identity,
            columns: columns.into(),
        };
        self.relations.insert(relation.oid, relation);
        Ok(true)
    }

    /// Takes in a Type message. True if it is new or differs from what was known.
    pub fn insert_type(&mut self, message: &TypeMessage<'_>) -> bool {
        let TypeMessage { type_oid: oid, schema, name, .. } = *message;
        if let Some(known) = self.types.get(&oid)
            && *known.schema == *schema
            && *known.name == *name
        {
            return false;
        }
        self.types.insert(oid, Type { oid, schema: schema.into(), name: name.into() });
        true
    }

    /// The table with that OID.
    pub fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.relations.get(&oid)
    }

    /// The data type with that OID; only types that are not built in are described.
    pub fn data_type(&self, oid: Oid) -> Option<&Type> {
        self.types.get(&oid)
    }

    /// All tables, by OID.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values()
    }
}

fn is_described_by(known: &Relation, message: &RelationMessage<'_>) -> Result<bool, DecodeError> {
    let mut same =
        *known.schema == *message.schema && *known.name == *message.name && known.identity == message.identity;
    let mut columns = known.columns.iter();
    // To the end even when a difference is found: a malformed message is an error, not a change.
    for column in message.columns.clone() {
        let column = column?;
        same &= columns.next().is_some_and(|known| known.is(&column));
    }
    Ok(same && columns.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;
    use crate::wire::Fault;

    const KV: &[u8] = b"R\0\0B^public\0kv\0d\0\x03\x01id\0\0\0\0\x17\xff\xff\xff\xff\0note\0\0\0\0\x19\xff\xff\xff\xff\
        \0big\0\0\0\0\x19\xff\xff\xff\xff";

    fn relation(bytes: &[u8]) -> Result<RelationMessage<'_>, DecodeError> {
        match Message::parse(bytes, false)? {
            Message::Relation(relation) => Ok(relation),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_relation_describes_a_table() {
        let table = relation(KV).unwrap();
        assert_eq!((table.relation, table.schema, table.name), (Oid(16990), &b"public"[..], &b"kv"[..]));
        assert_eq!(table.identity, ReplicaIdentity::Default);
        let column = |key, name, type_oid| Ok(ColumnDef { key, name, type_oid: Oid(type_oid), type_modifier: -1 });
        let expected = [column(true, &b"id"[..], 23), column(false, b"note", 25), column(false, b"big", 25)];
        assert_eq!(table.columns.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_cache_tells_what_changed() {
        let mut cache = RelationCache::default();
        assert_eq!(cache.insert_relation(&relation(KV).unwrap()), Ok(true));
        assert_eq!(cache.insert_relation(&relation(KV).unwrap()), Ok(false));
        let columns = &cache.relation(Oid(16990)).unwrap().columns;
        assert_eq!((columns.len(), &*columns[2].name), (3, &b"big"[..]));

        for altered in [
            &b"R\0\0B^public\0kv\0f\0\x03"[..], // REPLICA IDENTITY FULL
            b"R\0\0B^public\0kv2\0d\0\x03",     // RENAME TO kv2
            b"R\0\0B^app\0kv\0d\0\x03",         // SET SCHEMA app
        ] {
            let altered = [altered, &KV[18..]].concat();
            assert_eq!(cache.insert_relation(&relation(&altered).unwrap()), Ok(true));
            assert_eq!(cache.insert_relation(&relation(&altered).unwrap()), Ok(false));
        }
        let narrower = [&b"R\0\0B^public\0kv\0d\0\x02"[..], &KV[18..KV.len() - 13]].concat();
        assert_eq!(cache.insert_relation(&relation(&narrower).unwrap()), Ok(true));
        assert_eq!(cache.relation(Oid(16990)).unwrap().columns.len(), 2);
        assert_eq!(cache.relations().count(), 1);
    }

    #[test]
    fn a_malformed_description_changes_nothing() {
        let mut cache = RelationCache::default();
        let longer = [KV, b"x"].concat();
        let error = |fault, field, offset| DecodeError { fault, field, offset };
        let trailing = error(Fault::TrailingBytes, "Relation", KV.len());
        assert_eq!(cache.insert_relation(&relation(&longer).unwrap()), Err(trailing));
        assert_eq!(cache.relation(Oid(16990)), None);
        let short = error(Fault::Truncated, "column type modifier", KV.len() - 4);
        assert_eq!(cache.insert_relation(&relation(&KV[..KV.len() - 1]).unwrap()), Err(short));
        cache.insert_relation(&relation(KV).unwrap()).unwrap();
        assert_eq!(cache.insert_relation(&relation(&longer).unwrap()), Err(trailing));
        let identity = error(Fault::Unknown(b'z'), "replica identity", 15);
        assert_eq!(relation(b"R\0\0B^public\0kv\0z\0\0").unwrap_err(), identity);
        let negative = error(Fault::Length(-2), "column count", 16);
        assert_eq!(relation(b"R\0\0B^public\0kv\0d\xff\xfe").unwrap_err(), negative);
    }

    #[test]
    fn an_empty_schema_is_pg_catalog() {
        let mut cache = RelationCache::default();
        let Ok(Message::Type(domain)) = Message::parse(b"Y\0\0B\\\0int4\0", false) else { panic!() };
        assert_eq!((domain.schema, domain.name), (&b"pg_catalog"[..], &b"int4"[..]));
        assert!(cache.insert_type(&domain));
        assert!(!cache.insert_type(&domain));
        assert_eq!(&*cache.data_type(domain.type_oid).unwrap().name, b"int4");
    }
}
