//! Decoding of messages. They borrow from the bytes that they came in.
//!
//! Format: Postgres' documentation, "Logical Replication Message Formats".

/// A message of the plugin, but for `Begin` and `Commit`, which the transport reads.
#[derive(Debug, PartialEq, Eq)]
pub enum PgMessage<'a> {
    /// What a table looks like from now on.
    Relation(Relation),
    /// A row was inserted.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// The table.
        relation: u32,
        /// What is known of the row before, if anything.
        old: Option<OldTuple<'a>>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The table.
        relation: u32,
        /// What is known of the row.
        old: OldTuple<'a>,
    },
    /// Tables were truncated.
    Truncate {
        /// The tables.
        relations: Vec<u32>,
    },
    /// An application's own message.
    Message(LogicalMessage<'a>),
    /// A type's name, or where a transaction came from: of no interest.
    Other,
}

/// A message that `pg_logical_emit_message` wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Whether it is part of the transaction around it.
    pub transactional: bool,
    /// Its prefix.
    pub prefix: &'a str,
    /// Its content.
    pub content: &'a [u8],
}

/// What is known of a row before its change.
#[derive(Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// The whole row.
    Full(Tuple<'a>),
    /// The columns of the replica identity; all others read as null.
    Key(Tuple<'a>),
}

/// Values of a row, in the order of the relation's columns.
pub type Tuple<'a> = Vec<Value<'a>>;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Null.
    Null,
    /// As it was, and not sent: it is long and was not changed.
    Unchanged,
    /// Its text.
    Text(&'a str),
}

/// What the old image of a table's rows has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The columns of the primary key.
    Default,
    /// Nothing: updates and deletes are not published.
    Nothing,
    /// All columns.
    Full,
    /// The columns of an index.
    Index,
}

/// A table as its rows are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its number.
    pub id: u32,
    /// Its schema; empty for `pg_catalog`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What the old image of its rows has.
    pub identity: Identity,
    /// Its columns that are published.
    pub columns: Vec<Column>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Whether it is part of the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_id: u32,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too soon.
    #[error("a message of the server ends in the middle")]
    Truncated,
    /// A text is no UTF-8.
    #[error("a message of the server has a text that is not UTF-8")]
    NotUtf8,
    /// The protocol has no such message here.
    #[error("the server sent something unknown: `{0}` as {1}")]
    Unknown(char, &'static str),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn count(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.u32()?).map_err(|_| DecodeError::Truncated)?;
        self.take(length)
    }

    /// A text that ends with a zero.
    fn name(&mut self) -> Result<&'a str, DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.take(end.ok_or(DecodeError::Truncated)?)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let count = self.count()?;
        // Each value has one byte at least, so a wrong count reserves little.
        let mut values = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            values.push(match self.u8()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b't' => {
                    let text = self.bytes()?;
                    Value::Text(std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)?)
                }
                other => return Err(DecodeError::Unknown(other.into(), "a value")),
            });
        }
        Ok(values)
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let id = self.u32()?;
        let (schema, name) = (self.name()?.to_owned(), self.name()?.to_owned());
        let identity = match self.u8()? {
            b'd' => Identity::Default,
            b'n' => Identity::Nothing,
            b'f' => Identity::Full,
            b'i' => Identity::Index,
            other => return Err(DecodeError::Unknown(other.into(), "a replica identity")),
        };
        let count = self.count()?;
        let mut columns = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            let is_key = self.u8()? & 1 == 1;
            let name = self.name()?.to_owned();
            let type_id = self.u32()?;
            self.take(4)?;
            columns.push(Column {
                is_key,
                name,
                type_id,
            });
        }
        Ok(Relation {
            id,
            schema,
            name,
            identity,
            columns,
        })
    }

    fn old(&mut self, kind: u8) -> Result<OldTuple<'a>, DecodeError> {
        match kind {
            b'O' => Ok(OldTuple::Full(self.tuple()?)),
            b'K' => Ok(OldTuple::Key(self.tuple()?)),
            other => Err(DecodeError::Unknown(
                other.into(),
                "a row before its change",
            )),
        }
    }

    fn new_tuple(&mut self, kind: u8) -> Result<Tuple<'a>, DecodeError> {
        match kind {
            b'N' => self.tuple(),
            other => Err(DecodeError::Unknown(other.into(), "a row after its change")),
        }
    }
}

impl<'a> PgMessage<'a> {
    /// Reads a message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        Ok(match reader.u8()? {
            b'R' => Self::Relation(reader.relation()?),
            b'I' => {
                let relation = reader.u32()?;
                let kind = reader.u8()?;
                let new = reader.new_tuple(kind)?;
                Self::Insert { relation, new }
            }
            b'U' => {
                let relation = reader.u32()?;
                let mut kind = reader.u8()?;
                let mut old = None;
                if kind != b'N' {
                    old = Some(reader.old(kind)?);
                    kind = reader.u8()?;
                }
                let new = reader.new_tuple(kind)?;
                Self::Update { relation, old, new }
            }
            b'D' => {
                let relation = reader.u32()?;
                let kind = reader.u8()?;
                let old = reader.old(kind)?;
                Self::Delete { relation, old }
            }
            b'T' => {
                let count = reader.u32()?;
                reader.take(1)?;
                let relations = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                Self::Truncate { relations }
            }
            b'M' => {
                let transactional = reader.u8()? & 1 == 1;
                reader.take(8)?;
                Self::Message(LogicalMessage {
                    transactional,
                    prefix: reader.name()?,
                    content: reader.bytes()?,
                })
            }
            b'Y' | b'O' => Self::Other,
            other => return Err(DecodeError::Unknown(other.into(), "a message")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tuple(values: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = u16::try_from(values.len())
            .unwrap_or(0)
            .to_be_bytes()
            .to_vec();
        for value in values {
            match value {
                None => bytes.push(b'n'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    #[test]
    fn update_has_a_row_before_where_it_was_sent() {
        let after = tuple(&[Some("1"), None]);
        let plain = [&b"U\0\0\0\x07N"[..], &after].concat();
        let new = vec![Value::Text("1"), Value::Null];
        assert_eq!(
            PgMessage::decode(&plain),
            Ok(PgMessage::Update {
                relation: 7,
                old: None,
                new: new.clone()
            })
        );
        let full = [&b"U\0\0\0\x07O"[..], &after, b"N", &after].concat();
        assert_eq!(
            PgMessage::decode(&full),
            Ok(PgMessage::Update {
                relation: 7,
                old: Some(OldTuple::Full(new.clone())),
                new
            })
        );
    }

    #[test]
    fn what_ends_in_the_middle_is_refused() {
        let whole = [&b"D\0\0\0\x07K"[..], &tuple(&[Some("one"), None])].concat();
        assert!(PgMessage::decode(&whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(
                PgMessage::decode(&whole[..end]),
                Err(DecodeError::Truncated)
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PgMessage::decode(&bytes);
        }
    }
}
