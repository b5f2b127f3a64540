//! Column type codes of the table map (`enum_field_types` in MySQL's `field_types.h`, MariaDB's `mysql_com.h`).

use std::fmt;

/// A column's type as stored in rows. `STRING` columns that are really ENUM or SET are told apart.
///
/// ```
/// use rowbust_binlog::ColumnType;
/// let stored = ColumnType::from_code(246).unwrap();
/// assert_eq!(stored, ColumnType::NewDecimal);
/// assert!(stored.is_numeric() && !stored.is_integer());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ColumnType {
    Tiny = 1,
    Short = 2,
    Long = 3,
    Float = 4,
    Double = 5,
    Null = 6,
    /// TIMESTAMP before MySQL 5.6.
    Timestamp = 7,
    LongLong = 8,
    Int24 = 9,
    Date = 10,
    /// TIME before MySQL 5.6.
    Time = 11,
    /// DATETIME before MySQL 5.6.
    DateTime = 12,
    Year = 13,
    NewDate = 14,
    VarChar = 15,
    Bit = 16,
    Timestamp2 = 17,
    DateTime2 = 18,
    Time2 = 19,
    /// MariaDB: `BLOB COMPRESSED`.
    BlobCompressed = 140,
    /// MariaDB: `VARCHAR COMPRESSED`.
    VarCharCompressed = 141,
    /// MySQL 9: VECTOR.
    Vector = 242,
    Json = 245,
    NewDecimal = 246,
    Enum = 247,
    Set = 248,
    Blob = 252,
    /// CHAR and BINARY.
    String = 254,
    Geometry = 255,
}

impl ColumnType {
    /// The type of this code; `None` if no server in reach logs it in a row (as DECIMAL of MySQL 4, code 0).
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Tiny,
            2 => Self::Short,
            3 => Self::Long,
            4 => Self::Float,
            5 => Self::Double,
            6 => Self::Null,
            7 => Self::Timestamp,
            8 => Self::LongLong,
            9 => Self::Int24,
            10 => Self::Date,
            11 => Self::Time,
            12 => Self::DateTime,
            13 => Self::Year,
            14 => Self::NewDate,
            // VAR_STRING is only a client's name for it, but old servers logged it.
            15 | 253 => Self::VarChar,
            16 => Self::Bit,
            17 => Self::Timestamp2,
            18 => Self::DateTime2,
            19 => Self::Time2,
            140 => Self::BlobCompressed,
            141 => Self::VarCharCompressed,
            242 => Self::Vector,
            245 => Self::Json,
            246 => Self::NewDecimal,
            247 => Self::Enum,
            248 => Self::Set,
            249..=252 => Self::Blob,
            254 => Self::String,
            255 => Self::Geometry,
            _ => return None,
        })
    }

    /// A number, for which the metadata's SIGNEDNESS has a bit (`is_numeric_type` in the servers' source).
    pub fn is_numeric(self) -> bool {
        matches!(
            self,
            Self::Tiny
                | Self::Short
                | Self::Int24
                | Self::Long
                | Self::LongLong
                | Self::NewDecimal
                | Self::Float
                | Self::Double
        )
    }

    /// An integer, whose value depends on its sign.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Tiny | Self::Short | Self::Int24 | Self::Long | Self::LongLong)
    }

    /// A string that has a character set, for which the metadata's DEFAULT_CHARSET or COLUMN_CHARSET counts it.
    pub fn is_character(self) -> bool {
        matches!(
            self,
            Self::String | Self::VarChar | Self::Blob | Self::BlobCompressed | Self::VarCharCompressed
        )
    }

    /// ENUM or SET.
    pub fn is_enum_or_set(self) -> bool {
        matches!(self, Self::Enum | Self::Set)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiny => "TINYINT",
            Self::Short => "SMALLINT",
            Self::Long => "INT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Null => "NULL",
            Self::Timestamp | Self::Timestamp2 => "TIMESTAMP",
            Self::LongLong => "BIGINT",
            Self::Int24 => "MEDIUMINT",
            Self::Date | Self::NewDate => "DATE",
            Self::Time | Self::Time2 => "TIME",
            Self::DateTime | Self::DateTime2 => "DATETIME",
            Self::Year => "YEAR",
            Self::VarChar => "VARCHAR or VARBINARY",
            Self::Bit => "BIT",
            Self::BlobCompressed => "BLOB COMPRESSED",
            Self::VarCharCompressed => "VARCHAR COMPRESSED",
            Self::Vector => "VECTOR",
            Self::Json => "JSON",
            Self::NewDecimal => "DECIMAL",
            Self::Enum => "ENUM",
            Self::Set => "SET",
            Self::Blob => "BLOB or TEXT",
            Self::String => "CHAR or BINARY",
            Self::Geometry => "GEOMETRY",
        })
    }
}
