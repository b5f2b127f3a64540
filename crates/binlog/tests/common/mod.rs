//! Builds binlog events, as a server would write them.

use rowbust_binlog::{Header, SchemaColumn, event_type};

/// A whole event with header and CRC32.
pub(crate) fn event(event_type: u8, body: &[u8]) -> Vec<u8> {
    let header = Header {
        timestamp: 1_700_000_000,
        event_type,
        server_id: 1,
        event_size: u32::try_from(Header::LEN + body.len() + 4).unwrap(),
        log_pos: 4,
        flags: 0,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(body);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// A format description with checksums on.
pub(crate) fn format_description() -> Vec<u8> {
    let mut body = vec![4, 0];
    let mut version = b"8.4.0".to_vec();
    version.resize(50, 0);
    body.extend(version);
    body.extend([0; 4]);
    body.push(19);
    let mut lengths = vec![0; 41];
    for (t, len) in [(2, 13), (4, 8), (19, 8), (23, 8), (24, 8), (25, 8), (30, 10), (31, 10), (32, 10)] {
        lengths[t - 1] = len;
    }
    body.extend(lengths);
    body.push(1);
    event(event_type::FORMAT_DESCRIPTION, &body)
}

/// Ten columns: INT, VARCHAR(64), BIGINT, DECIMAL(10,2), DATETIME, INT, CHAR(20), TIMESTAMP, TINYINT, DOUBLE.
pub(crate) fn table_map(table_id: u8) -> Vec<u8> {
    let mut body = vec![table_id, 0, 0, 0, 0, 0, 1, 0];
    body.extend(b"\x04shop\0\x08products\0");
    body.extend([10, 3, 15, 8, 246, 18, 3, 254, 17, 1, 5]);
    body.extend([9, 64, 0, 10, 2, 0, 254, 20, 0, 8]);
    body.extend([0xff, 0x03]);
    // Signedness: of INT, BIGINT, DECIMAL, INT, TINYINT, DOUBLE the second is unsigned. Charset: utf8mb4.
    body.extend([1, 1, 0x40, 2, 1, 45]);
    event(event_type::TABLE_MAP, &body)
}

/// A row event of `count` rows of that table; `id` counts up from `first`.
pub(crate) fn rows(event_type: u8, table_id: u8, first: u32, count: u32) -> Vec<u8> {
    let update = event_type == event_type::UPDATE_ROWS_V2;
    let mut body = vec![table_id, 0, 0, 0, 0, 0, 1, 0, 2, 0, 10, 0xff, 0x03];
    if update {
        body.extend([0xff, 0x03]);
    }
    for id in first..first + count {
        for _ in 0..if update { 2 } else { 1 } {
            row(&mut body, id);
        }
    }
    event(event_type, &body)
}

fn row(body: &mut Vec<u8>, id: u32) {
    body.extend([0, 0]);
    body.extend(id.to_le_bytes());
    body.extend(b"\x14a product of twenty!");
    body.extend(u64::from(id).to_le_bytes());
    body.extend([0x80, 0, 0, 12, 34]);
    body.extend([0x99, 0xb2, 0x3a, 0x00, 0x00]);
    body.extend(7_u32.to_le_bytes());
    body.extend(b"\x08category");
    body.extend([0x65, 0, 0, 0]);
    body.push(1);
    body.extend(1.5_f64.to_le_bytes());
}

/// The columns of [`table_map`].
#[allow(dead_code, reason = "not every test has a schema")]
pub(crate) fn schema() -> Vec<SchemaColumn> {
    [
        ("id", "int", "int"),
        ("name", "varchar", "varchar(16)"),
        ("sku", "bigint", "bigint unsigned"),
        ("price", "decimal", "decimal(10,2)"),
        ("made", "datetime", "datetime"),
        ("category_id", "int", "int"),
        ("kind", "char", "char(5)"),
        ("seen", "timestamp", "timestamp"),
        ("active", "tinyint", "tinyint(1)"),
        ("weight", "double", "double"),
    ]
    .map(|(name, data_type, column_type)| SchemaColumn::new(name, data_type, column_type, Some("utf8mb4")))
    .to_vec()
}
