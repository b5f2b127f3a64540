//! Table maps: the columns of a table as the row events behind them store them.

use crate::charset::{BINARY_COLLATION, Charset};
use crate::column_type::ColumnType;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::flavor::Flavor;
use crate::reader::Reader;
use crate::schema::{SchemaColumn, SchemaMismatch};
use crate::{decimal, metadata};

/// One column of a table map.
///
/// Example: see [`Decoder`](crate::Decoder).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// The real type: ENUM and SET are told apart from CHAR, which the raw type code does not.
    pub column_type: ColumnType,
    /// What the type's length depends on. CHAR, VARCHAR: most bytes. BLOB, JSON: bytes of the length. ENUM, SET:
    /// bytes. BIT: bits. DECIMAL: precision × 256 + scale. Times: digits behind the point.
    pub meta: u16,
    /// May be NULL.
    pub nullable: bool,
    /// Its name, with `binlog_row_metadata=FULL` or after [`TableMap::complete`].
    pub name: Option<String>,
    /// Integers and decimals: has no sign. MySQL always tells, MariaDB not by default.
    pub unsigned: Option<bool>,
    /// Strings: the collation's id; 63 is binary.
    pub collation: Option<u16>,
    /// ENUM and SET: the labels in UTF-8, with metadata FULL or after [`TableMap::complete`].
    pub labels: Vec<String>,
    /// `DATA_TYPE` after [`TableMap::complete`]: MariaDB logs UUID, INET4 and INET6 as BINARY.
    pub data_type: Option<String>,
    /// The D of `FLOAT(M,D)`, after [`TableMap::complete`].
    pub float_decimals: Option<u8>,
    /// Part of the primary key: only with metadata FULL, else false.
    pub primary_key: bool,
}

/// A table as one TABLE_MAP event describes it.
///
/// Example: see [`Decoder`](crate::Decoder).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableMap {
    /// The server's id of this version of the table; another one after each ALTER or restart.
    pub table_id: u64,
    /// Schema (database).
    pub schema: String,
    /// Table.
    pub table: String,
    /// Columns, in the table's order.
    pub columns: Vec<Column>,
    /// The server that wrote it, by the file's description.
    pub flavor: Flavor,
}

impl Column {
    /// Digits behind the point: of DECIMAL, and of the second in TIME, DATETIME and TIMESTAMP.
    pub fn decimals(&self) -> u8 {
        use ColumnType as T;
        match self.column_type {
            T::NewDecimal | T::Time2 | T::DateTime2 | T::Timestamp2 => self.meta.to_be_bytes()[1],
            _ => 0,
        }
    }

    /// Digits in all of a DECIMAL.
    pub fn precision(&self) -> u8 {
        match self.column_type {
            ColumnType::NewDecimal => self.meta.to_be_bytes()[0],
            _ => 0,
        }
    }

    /// Is it BINARY, VARBINARY or BLOB? `None` if the binlog didn't tell, or it is no string at all.
    pub fn is_binary(&self) -> Option<bool> {
        if !self.column_type.is_character() {
            return None;
        }
        self.collation.map(|id| id == BINARY_COLLATION)
    }

    /// Everything that a text form needs is known: [`TableMap::complete`] would add nothing.
    pub fn is_complete(&self) -> bool {
        let t = self.column_type;
        self.name.is_some()
            && (!t.is_integer() || self.unsigned.is_some())
            && (!t.is_character() || self.collation.is_some())
            && (!t.is_enum_or_set() || !self.labels.is_empty())
            // Only the schema tells FLOAT from FLOAT(M,D), and BINARY from MariaDB's UUID and INET6.
            && (!matches!(t, ColumnType::Float | ColumnType::Double | ColumnType::String) || self.data_type.is_some())
            && self.has_length()
    }

    /// How many bytes its values take is known. Of the temporal types of before MySQL 5.6, which MariaDB can still write with
    /// fractions, only the schema tells that.
    pub fn has_length(&self) -> bool {
        use ColumnType as T;
        !matches!(self.column_type, T::Time | T::DateTime | T::Timestamp) || self.data_type.is_some()
    }
}

impl TableMap {
    /// Adds what `information_schema` says where the binlog's metadata is silent. `columns`: all columns of the
    /// table, by `ORDINAL_POSITION`.
    ///
    /// # Errors
    /// Fails, and changes nothing, if the columns can't be those that were logged: the table was altered in
    /// between.
    pub fn complete(&mut self, columns: &[SchemaColumn]) -> Result<(), SchemaMismatch> {
        if columns.len() != self.columns.len() {
            return Err(SchemaMismatch::ColumnCount {
                table: format!("{}.{}", self.schema, self.table),
                logged: self.columns.len(),
                now: columns.len(),
            });
        }
        for (index, (logged, now)) in self.columns.iter().zip(columns).enumerate() {
            if let Some(logged) = logged.contradiction(now) {
                return Err(SchemaMismatch::Column {
                    table: format!("{}.{}", self.schema, self.table),
                    column: index,
                    name: now.name.clone(),
                    now: now.data_type.clone(),
                    logged,
                });
            }
        }
        for (logged, now) in self.columns.iter_mut().zip(columns) {
            logged.complete(now);
        }
        Ok(())
    }

    /// As [`TableMap::complete`], for a table whose columns have names already but may have been altered since: a column that
    /// now has the name and could be the same is taken for it, the others stay as the binlog describes them.
    pub fn complete_by_name(&mut self, columns: &[SchemaColumn]) {
        for logged in &mut self.columns {
            let Some(name) = &logged.name else { continue };
            let now = columns.iter().find(|now| same_name(name, &now.name));
            if let Some(now) = now.filter(|now| logged.contradiction(now).is_none()) {
                logged.complete(now);
            }
        }
    }

    /// The index of the column with this name, compared as the server compares: letter case doesn't count.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name.as_deref().is_some_and(|n| same_name(n, name)))
    }

    /// Reads the body of a TABLE_MAP event, whose table id has `id_len` bytes.
    pub(crate) fn parse(
        body: &[u8],
        event_type: u8,
        id_len: usize,
        flavor: Flavor,
    ) -> Result<Self, DecodeError> {
        let mut r = Reader::body(body, event_type);
        if body.len() > MAX_BODY {
            let kind = DecodeErrorKind::Invalid { what: "table map's size", got: body.len() as u64 };
            return Err(r.error(kind));
        }
        let table_id = r.table_id(id_len)?;
        r.u16("table map flags")?;
        let schema = name(&mut r, "schema name")?;
        let table = name(&mut r, "table name")?;
        let count = r.lenenc("number of columns")?;
        let types = match usize::try_from(count) {
            Ok(count) if count <= MAX_COLUMNS => r.take(count, "column types")?,
            _ => return Err(r.error(DecodeErrorKind::Invalid { what: "number of columns", got: count })),
        };
        let metadata = r.lenenc_bytes("column metadata")?;
        let mut m = r.sub(metadata);
        let nullable = r.take(types.len().div_ceil(8), "nullability bitmap")?;
        let mut columns = Vec::with_capacity(types.len());
        for (i, &code) in types.iter().enumerate() {
            let (column_type, meta) = read_type(&mut m, i, code)?;
            columns.push(Column {
                column_type,
                meta,
                nullable: nullable.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 != 0),
                name: None,
                unsigned: None,
                collation: None,
                labels: Vec::new(),
                data_type: None,
                float_decimals: None,
                primary_key: false,
            });
        }
        if !m.is_empty() {
            return Err(m.error(DecodeErrorKind::Invalid {
                what: "bytes behind the column metadata",
                got: m.left() as u64,
            }));
        }
        metadata::parse(&mut r, &mut columns)?;
        Ok(Self { table_id, schema, table, columns, flavor })
    }
}

impl Column {
    /// What the binlog says of this column, if it can't be `now`.
    fn contradiction(&self, now: &SchemaColumn) -> Option<String> {
        if let Some(name) = &self.name
            && !same_name(name, &now.name)
        {
            return Some(format!("`{name}`"));
        }
        if !now.fits(self.column_type) {
            return Some(self.column_type.to_string());
        }
        use ColumnType as T;
        // Before MySQL 5.6's types, which MariaDB can still use, the binlog doesn't tell the digits, and so not even
        // the length of what has any.
        let temporal = matches!(
            self.column_type,
            T::Time | T::DateTime | T::Timestamp | T::Time2 | T::DateTime2 | T::Timestamp2
        );
        if temporal && self.decimals() != now.time_decimals {
            return Some(format!(
                "{}({}) of type code {}",
                self.column_type,
                self.decimals(),
                self.column_type as u8
            ));
        }
        let signs = ["signed", "unsigned"];
        if let Some(unsigned) = self.unsigned
            && unsigned != now.unsigned
        {
            return Some(format!("{} {}", self.column_type, signs[usize::from(unsigned)]));
        }
        None
    }

    fn complete(&mut self, now: &SchemaColumn) {
        self.name.get_or_insert_with(|| now.name.clone());
        if self.column_type.is_numeric() {
            self.unsigned.get_or_insert(now.unsigned);
        }
        if self.collation.is_none() && (self.column_type.is_character() || self.column_type.is_enum_or_set())
        {
            let charset = now.charset.as_deref().unwrap_or("binary");
            self.collation = Charset::collation_of(charset);
        }
        if self.labels.is_empty() {
            self.labels.clone_from(&now.labels);
        }
        self.data_type = Some(now.data_type.clone());
        self.float_decimals = now.float_decimals;
    }
}

/// Most columns that a table can have on either server (`MAX_FIELDS` in `sql/unireg.h`).
const MAX_COLUMNS: usize = 4096;

/// No server's table map comes near: parsed, it may take some forty times its size (labels of no letters).
const MAX_BODY: usize = 16 << 20;

fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// A name: its length, the name, a zero byte.
fn name(r: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let name = r.lenenc_bytes(what)?;
    let name = std::str::from_utf8(name).map_err(|_| r.error(DecodeErrorKind::NotUtf8 { what }))?;
    match r.u8(what)? {
        0 => Ok(name.to_owned()),
        other => Err(r.error(DecodeErrorKind::Invalid { what: "byte behind a name", got: other.into() })),
    }
}

/// The real type of a column and its [`Column::meta`], from its type code and its own metadata.
fn read_type(m: &mut Reader<'_>, column: usize, code: u8) -> Result<(ColumnType, u16), DecodeError> {
    use ColumnType as T;
    let unsupported = |m: &Reader<'_>| m.error(DecodeErrorKind::ColumnType { column, type_code: code });
    let t = ColumnType::from_code(code).ok_or_else(|| unsupported(m))?;
    let invalid = |m: &Reader<'_>, got: u16| {
        m.error(DecodeErrorKind::Invalid { what: "column metadata", got: got.into() })
    };
    Ok(match t {
        T::String | T::Enum | T::Set => {
            let [real, len] = m.array("column metadata")?;
            // Two bits of a CHAR's length of more than 255 bytes are kept turned over in the real type's byte.
            let real_type = real | 0x30;
            let got = u16::from_be_bytes([real, len]);
            let len = u16::from(len) | u16::from((real & 0x30) ^ 0x30) << 4;
            match ColumnType::from_code(real_type) {
                Some(t @ T::String) => (t, len),
                Some(t @ T::Enum) if matches!(len, 1 | 2) => (t, len),
                Some(t @ T::Set) if matches!(len, 1..=8) => (t, len),
                _ => return Err(invalid(m, got)),
            }
        }
        T::VarChar | T::VarCharCompressed => (t, m.u16("column metadata")?),
        T::Bit => {
            let [bits, bytes] = m.array("column metadata")?;
            let bits = u16::from(bytes) * 8 + u16::from(bits);
            if !(1..=64).contains(&bits) {
                return Err(invalid(m, bits));
            }
            (t, bits)
        }
        T::NewDecimal => {
            let [precision, scale] = m.array("column metadata")?;
            let meta = u16::from_be_bytes([precision, scale]);
            if decimal::size(precision, scale).is_none() {
                return Err(invalid(m, meta));
            }
            (t, meta)
        }
        T::Blob | T::BlobCompressed | T::Geometry | T::Json | T::Vector => {
            let meta = m.u8("column metadata")?.into();
            if !(1..=4).contains(&meta) {
                return Err(invalid(m, meta));
            }
            (t, meta)
        }
        T::Float | T::Double => {
            let meta = m.u8("column metadata")?.into();
            if meta != if t == T::Float { 4 } else { 8 } {
                return Err(invalid(m, meta));
            }
            (t, meta)
        }
        T::Timestamp2 | T::DateTime2 | T::Time2 => {
            let meta = m.u8("column metadata")?.into();
            if meta > 6 {
                return Err(invalid(m, meta));
            }
            (t, meta)
        }
        _ => (t, 0),
    })
}
