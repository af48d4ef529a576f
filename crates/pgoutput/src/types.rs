//! Which JSON a type's values become: as Postgres' `json_categorize_type` decides (src/backend/utils/adt/json.c).

use std::collections::{BTreeMap, BTreeSet};

/// How the text of a value becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// `t` and `f`.
    Boolean,
    /// A number, and a string where it is none, as `NaN`.
    Number,
    /// A timestamp without time zone.
    Timestamp,
    /// A timestamp with time zone, in UTC.
    TimestampTz,
    /// JSON already.
    Json,
    /// An array; with the character between its elements.
    Array(Box<JsonType>, char),
    /// An `int2vector` or `oidvector`.
    Vector(Box<JsonType>),
    /// A row: the names and types of its fields.
    Composite(Vec<(String, JsonType)>),
    /// A string.
    Text,
}

/// A type as the catalog has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeEntry {
    /// Type that a domain is of, or 0.
    pub base: u32,
    /// Type of the elements of an array, or 0.
    pub element: u32,
    /// Character between the elements of an array of this type.
    pub delimiter: char,
    /// Fields of a composite type, in order: name and type.
    pub fields: Option<Vec<(String, u32)>>,
    /// Whether it has a cast to `json` of its own.
    pub casts_to_json: bool,
}

/// The types of a database.
#[derive(Clone, Debug, Default)]
pub struct TypeCatalog(BTreeMap<u32, TypeEntry>);

/// Deepest nesting that is followed: types cannot contain themselves, but this is cheap to know for sure.
const MAX_DEPTH: usize = 32;

const BOOL: u32 = 16;
const INT2VECTOR: u32 = 22;
const OIDVECTOR: u32 = 30;
const JSON: u32 = 114;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const JSONB: u32 = 3802;
/// `int8`, `int2`, `int4`, `float4`, `float8`, `numeric`.
const NUMBERS: [u32; 6] = [20, 21, 23, 700, 701, 1700];
/// Types with lower numbers are Postgres' own.
const FIRST_OWN: u32 = 16384;

impl FromIterator<(u32, TypeEntry)> for TypeCatalog {
    fn from_iter<T: IntoIterator<Item = (u32, TypeEntry)>>(types: T) -> Self {
        Self(types.into_iter().collect())
    }
}

impl TypeCatalog {
    /// Whether a type is known.
    #[must_use]
    pub fn knows(&self, type_id: u32) -> bool {
        self.0.contains_key(&type_id)
    }

    /// Returns how values of a type become JSON; of an unknown one, strings.
    #[must_use]
    pub fn json_type(&self, type_id: u32) -> JsonType {
        // A value with a part that has a cast of its own is logged as its text: casts are anybody's functions.
        if self.has_own_json(type_id, &mut BTreeSet::new()) {
            return JsonType::Text;
        }
        self.within(type_id, 0)
    }

    fn within(&self, type_id: u32, depth: usize) -> JsonType {
        match type_id {
            BOOL => return JsonType::Boolean,
            INT2VECTOR => return JsonType::Vector(Box::new(JsonType::Number)),
            OIDVECTOR => return JsonType::Vector(Box::new(JsonType::Text)),
            JSON | JSONB => return JsonType::Json,
            TIMESTAMP => return JsonType::Timestamp,
            TIMESTAMPTZ => return JsonType::TimestampTz,
            number if NUMBERS.contains(&number) => return JsonType::Number,
            _ => {}
        }
        let Some(entry) = self.0.get(&type_id).filter(|_| depth < MAX_DEPTH) else {
            return JsonType::Text;
        };
        if entry.base != 0 {
            return self.within(entry.base, depth + 1);
        }
        if entry.element != 0 {
            let element = self.0.get(&entry.element);
            let delimiter = element.map_or(',', |element| element.delimiter);
            let inner = self.within(entry.element, depth + 1);
            return JsonType::Array(Box::new(inner), delimiter);
        }
        match &entry.fields {
            None => JsonType::Text,
            Some(fields) => {
                let field =
                    |(name, of): &(String, u32)| (name.clone(), self.within(*of, depth + 1));
                JsonType::Composite(fields.iter().map(field).collect())
            }
        }
    }

    fn has_own_json(&self, type_id: u32, seen: &mut BTreeSet<u32>) -> bool {
        if type_id < FIRST_OWN || !seen.insert(type_id) {
            return false;
        }
        let Some(entry) = self.0.get(&type_id) else {
            return false;
        };
        entry.casts_to_json
            || self.has_own_json(entry.base, seen)
            || self.has_own_json(entry.element, seen)
            || entry
                .fields
                .iter()
                .flatten()
                .any(|(_, of)| self.has_own_json(*of, seen))
    }
}
