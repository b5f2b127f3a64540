//! Every column type with its edge values.

use super::{ALL, MARIA, MARIA118, MYSQL};
use crate::db::Server;

/// A type, and values of it as SQL (`sql_mode` is empty: zero and wrong dates are stored).
#[derive(Debug, Clone, Copy)]
pub struct ColumnCase {
    /// Servers that know it.
    pub on: &'static [Server],
    /// Its table's name, behind `t_`.
    pub name: &'static str,
    /// The column's type.
    pub sql_type: &'static str,
    /// Values.
    pub values: &'static [&'static str],
    /// What a key can be made of.
    pub form: Form,
}

/// What a key can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What SELECT gives.
    Text,
    /// The same, of the number: the binlog doesn't tell ZEROFILL.
    Number,
    /// There is no text form: only the primary key.
    IdOnly,
}

const fn column(
    on: &'static [Server],
    name: &'static str,
    sql_type: &'static str,
    values: &'static [&'static str],
) -> ColumnCase {
    ColumnCase { on, name, sql_type, values, form: Form::Text }
}

impl ColumnCase {
    const fn number(mut self) -> Self {
        self.form = Form::Number;
        self
    }

    const fn id_only(mut self) -> Self {
        self.form = Form::IdOnly;
        self
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> String {
        format!("t_{}", self.name)
    }

    /// Its CREATE and INSERT; the row with id 0 holds NULL where it may.
    #[must_use]
    pub fn statements(&self) -> [String; 2] {
        let table = self.table();
        let null = if self.sql_type.contains("NOT NULL") { self.values[0] } else { "NULL" };
        let rows: Vec<String> = std::iter::once(&null)
            .chain(self.values)
            .enumerate()
            .map(|(id, value)| format!("({id}, {value}, 4000000000)"))
            .collect();
        [
            format!("CREATE TABLE {table} (id INT PRIMARY KEY, v {}, tail INT UNSIGNED)", self.sql_type),
            format!("INSERT INTO {table} VALUES {}", rows.join(", ")),
        ]
    }
}

/// All of them.
#[rustfmt::skip]
pub const COLUMNS: &[ColumnCase] = &[
    column(ALL, "tiny", "TINYINT", &["-128", "-1", "0", "1", "127"]),
    column(ALL, "utiny", "TINYINT UNSIGNED", &["0", "127", "128", "255"]),
    column(ALL, "small", "SMALLINT", &["-32768", "-1", "0", "32767"]),
    column(ALL, "usmall", "SMALLINT UNSIGNED", &["0", "32768", "65535"]),
    column(ALL, "medium", "MEDIUMINT", &["-8388608", "-1", "0", "8388607"]),
    column(ALL, "umedium", "MEDIUMINT UNSIGNED", &["0", "8388608", "16777215"]),
    column(ALL, "int", "INT", &["-2147483648", "-1", "0", "2147483647"]),
    column(ALL, "uint", "INT UNSIGNED", &["0", "2147483648", "4294967295"]),
    column(ALL, "big", "BIGINT", &["-9223372036854775808", "-1", "0", "9223372036854775807"]),
    column(ALL, "ubig", "BIGINT UNSIGNED", &["0", "9223372036854775808", "18446744073709551615"]),
    column(ALL, "float", "FLOAT", &["0", "1", "-1.5", "0.1", "3.14159265", "1e20", "1.5e-7", "3.40282e38", "1.17549e-38", "123456", "1234567", "12345678", "16777216", "999999.5", "0.000123456789", "1e15", "1e14", "123456e10", "-0.0", "1e-14", "1e-15", "1e-16", "99999.95"]),
    column(ALL, "float2", "FLOAT(10,2)", &["0", "1.5", "-1.255", "99999.99", "0.005"]),
    column(ALL, "double", "DOUBLE", &["0", "1", "-1.5", "0.1", "3.141592653589793", "1e20", "1.5e-7", "1.7976931348623157e308", "2.2250738585072014e-308", "5e-324", "123456789012345678", "1e15", "1e14", "999999999999999", "1234567890123456", "0.1e-13", "1e-14", "1e-15", "1.5e-15", "-0.0", "1e16", "123456789.123456789", "0.30000000000000004", "1234567890123456.8", "12345678901234567"]),
    column(ALL, "double3", "DOUBLE(20,3)", &["0", "1.5", "-1.2555", "123456789.9999"]),
    column(ALL, "dec1", "DECIMAL(10,2)", &["0", "0.01", "-0.01", "99999999.99", "-99999999.99", "1.5", "-1"]),
    column(ALL, "dec2", "DECIMAL(65,30)", &["0", "-12345678901234567890123456789012345.123456789012345678901234567890", "99999999999999999999999999999999999.999999999999999999999999999999", "0.000000000000000000000000000001"]),
    column(ALL, "dec3", "DECIMAL(5,0)", &["0", "-99999", "7"]),
    column(ALL, "dec4", "DECIMAL(9,9)", &["0", "0.123456789", "-0.000000001"]),
    column(ALL, "dec5", "DECIMAL(18,9) UNSIGNED", &["0", "123456789.123456789", "1.000000001"]),
    column(ALL, "dec6", "DECIMAL(20,10)", &["-1234567890.0123456789", "0.5"]),
    column(ALL, "date", "DATE", &["'0000-00-00'", "'2024-00-00'", "'1000-01-01'", "'9999-12-31'", "'2024-02-29'"]),
    column(ALL, "time", "TIME", &["'00:00:00'", "'-00:00:01'", "'838:59:59'", "'-838:59:59'", "'12:34:56'"]),
    column(ALL, "time1", "TIME(1)", &["'00:00:00'", "'-00:00:00.1'", "'-00:00:01.9'", "'12:34:56.7'"]),
    column(ALL, "time2", "TIME(2)", &["'-00:00:00.01'", "'-12:34:56.78'", "'12:34:56.78'"]),
    column(ALL, "time3", "TIME(3)", &["'-00:00:00.001'", "'-838:59:58.999'", "'12:34:56.789'"]),
    column(ALL, "time4", "TIME(4)", &["'-00:00:00.0001'", "'-12:34:56.7891'", "'1:2:3.4'"]),
    column(ALL, "time6", "TIME(6)", &["'-00:00:00.000001'", "'-838:59:58.999999'", "'838:59:58.999999'", "'00:00:00'"]),
    column(ALL, "datetime", "DATETIME", &["'0000-00-00'", "'1000-01-01'", "'9999-12-31 23:59:59'", "'2024-00-00 01:02:03'", "'2024-02-29 12:34:56'"]),
    column(ALL, "datetime1", "DATETIME(1)", &["'2024-02-29 12:34:56.7'", "'0000-00-00'"]),
    column(ALL, "datetime3", "DATETIME(3)", &["'2024-02-29 12:34:56.789'", "'1000-01-01 00:00:00.001'"]),
    column(ALL, "datetime6", "DATETIME(6)", &["'2024-02-29 12:34:56.789012'", "'9999-12-31 23:59:59.999999'"]),
    column(ALL, "timestamp", "TIMESTAMP NULL", &["'0000-00-00'", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'2000-02-29 23:59:59'", "'2024-12-31 23:59:59'", "'2001-03-01'"]),
    column(ALL, "timestamp2", "TIMESTAMP(2) NULL", &["'2024-02-29 12:34:56.78'", "'0000-00-00'"]),
    column(ALL, "timestamp6", "TIMESTAMP(6) NULL", &["'2024-02-29 12:34:56.789012'", "'1970-01-01 00:00:01.000001'"]),
    column(ALL, "year", "YEAR", &["0", "1901", "2000", "2024", "2155"]),
    column(ALL, "char", "CHAR(10) CHARACTER SET utf8mb4", &["''", "'a'", "'trailing  '", "'  lead'", "'žluťoučký'", "'日本語😀'"]),
    column(ALL, "charlong", "CHAR(255) CHARACTER SET utf8mb4", &["'x'", "repeat('ž',255)"]),
    column(ALL, "varchar", "VARCHAR(20) CHARACTER SET utf8mb4", &["''", "'a'", "'trailing  '", "'日本語😀'", r#"'quote'' "back\\slash'"#]),
    column(ALL, "varcharlong", "VARCHAR(300) CHARACTER SET utf8mb4", &["''", "repeat('ab',150)"]),
    column(ALL, "latin1", "VARCHAR(20) CHARACTER SET latin1", &["'é€ÿ'", "'plain'", "x'8081828D8F909DFF'"]),
    column(ALL, "charlatin1", "CHAR(200) CHARACTER SET latin1", &["'é€ÿ'"]),
    column(ALL, "latin2", "VARCHAR(20) CHARACTER SET latin2", &["'žluťoučký'"]),
    column(ALL, "cp1250", "VARCHAR(20) CHARACTER SET cp1250", &["'žluťoučký€'"]),
    column(ALL, "cp1251", "VARCHAR(20) CHARACTER SET cp1251", &["'Привет'"]),
    column(ALL, "koi8r", "VARCHAR(20) CHARACTER SET koi8r", &["'Привет'"]),
    column(ALL, "greek", "CHAR(20) CHARACTER SET greek", &["'αβγ'"]),
    column(ALL, "hebrew", "VARCHAR(20) CHARACTER SET hebrew", &["'שלום'"]),
    column(ALL, "ascii", "VARCHAR(20) CHARACTER SET ascii", &["'plain'"]),
    column(ALL, "utf8", "VARCHAR(20) CHARACTER SET utf8mb3", &["'žluťoučký'"]),
    column(ALL, "ucs2", "CHAR(20) CHARACTER SET ucs2", &["'a'", "'žlu  '", "''"]),
    column(ALL, "utf16", "VARCHAR(20) CHARACTER SET utf16", &["'a'", "'日本語😀'"]),
    column(ALL, "utf16le", "VARCHAR(20) CHARACTER SET utf16le", &["'a'", "'日本語😀'"]),
    column(ALL, "utf32", "CHAR(20) CHARACTER SET utf32", &["'a'", "'日本語😀'"]),
    column(ALL, "cp932", "VARCHAR(20) CHARACTER SET cp932", &["'日本語アｱ'"]),
    column(ALL, "sjis", "VARCHAR(20) CHARACTER SET sjis", &["'日本語アｱ'"]),
    column(ALL, "ujis", "VARCHAR(20) CHARACTER SET ujis", &["'日本語ア'"]),
    column(ALL, "gbk", "CHAR(20) CHARACTER SET gbk", &["'汉字中文'"]),
    column(ALL, "big5", "VARCHAR(20) CHARACTER SET big5", &["'漢字中文'"]),
    column(ALL, "euckr", "VARCHAR(20) CHARACTER SET euckr", &["'한국어'"]),
    column(ALL, "binary", "BINARY(16)", &["x''", "x'00'", "x'0102'", "x'000102030405060708090A0B0C0D0E0F'", "x'FF000000000000000000000000000000'", "x'2020'"]),
    column(ALL, "varbinary", "VARBINARY(20)", &["x''", "x'00'", "x'0102000000'", "x'FFFE'"]),
    column(ALL, "varbinarylong", "VARBINARY(400)", &["repeat(x'FF',400)"]),
    column(ALL, "tinyblob", "TINYBLOB", &["''", "x'00FF'"]),
    column(ALL, "blob", "BLOB", &["''", "x'00FF'", "repeat('b',300)"]),
    column(ALL, "mediumblob", "MEDIUMBLOB", &["x'00FF'"]),
    column(ALL, "longblob", "LONGBLOB", &["x'00FF'"]),
    column(ALL, "tinytext", "TINYTEXT CHARACTER SET utf8mb4", &["''", "'日本'"]),
    column(ALL, "text", "TEXT CHARACTER SET latin1", &["'é'", "repeat('é',300)"]),
    column(ALL, "mediumtext", "MEDIUMTEXT CHARACTER SET utf8mb4", &["'日本'"]),
    column(ALL, "longtext", "LONGTEXT CHARACTER SET utf8mb4", &["'日本'"]),
    column(ALL, "enum", r#"ENUM('a','b,c','it''s','back\\slash','ž') CHARACTER SET utf8mb4"#, &["1", "2", "3", "4", "5", "''"]),
    column(ALL, "enumlatin1", "ENUM('é','x') CHARACTER SET latin1", &["'é'", "'x'"]),
    column(ALL, "set", "SET('a','b','it''s','ž') CHARACTER SET utf8mb4", &["''", "'a'", "'a,it''s'", "15"]),
    column(ALL, "setlatin1", "SET('é','x','c3','c4','c5','c6','c7','c8','c9','c10') CHARACTER SET latin1", &["'é'", "1023", "512"]),
    column(ALL, "bit1", "BIT(1)", &["0", "1"]),
    column(ALL, "bit10", "BIT(10)", &["0", "1", "1023", "513"]),
    column(ALL, "bit64", "BIT(64)", &["0", "18446744073709551615", "258"]),
    column(ALL, "zerofill", "INT(8) ZEROFILL", &["123456789"]).number(),
    column(MYSQL, "json", "JSON", &[r#"'{"a":[1,2,"x"]}'"#, "'null'"]),
    column(MYSQL, "vector", "VECTOR(3)", &["string_to_vector('[1,2,3]')"]).id_only(),
    column(ALL, "geometry", "POINT", &["ST_GeomFromText('POINT(1 2)')"]).id_only(),
    column(MYSQL, "gb18030", "VARCHAR(20) CHARACTER SET gb18030", &["'汉字'"]),
    column(MARIA, "json", "JSON", &[r#"'{"a":[1,2,"x"]}'"#]),
    column(MARIA, "uuid", "UUID", &["'00112233-4455-6677-8899-aabbccddeeff'", "'123e4567-e89b-12d3-a456-426655440000'", "'00000000-0000-0000-0000-000000000000'"]),
    column(MARIA, "inet6", "INET6", &["'::1'", "'2001:db8::ff00:42:8329'", "'::'", "'1:0:2:3:4:5:6:7'", "'::1.2.3.4'", "'::ffff:1.2.3.0'", "'1:0:0:2:0:0:3:4'", "'ABCD::'", "'1:2:3:4:5:6:7:0'", "'0:1:0:0:0:1:1:1'", "'1:2:3:4:5:6:0:0'", "'::0.0.1.0'"]),
    column(MARIA, "inet4", "INET4", &["'127.0.0.1'", "'0.0.0.0'", "'10.1.0.0'"]),
    column(MARIA118, "vector", "VECTOR(3) NOT NULL", &["vec_fromtext('[1,2,3]')"]).id_only(),
    column(MARIA, "compressed", "VARCHAR(300) COMPRESSED CHARACTER SET utf8mb4", &["''", "'short'", "repeat('ab',140)"]),
    column(MARIA, "blobcompressed", "BLOB COMPRESSED", &["''", "'short'", "repeat('ab',1400)"]),
    column(MARIA, "textcompressed", "TEXT COMPRESSED CHARACTER SET latin1", &["'short'"]),
];
