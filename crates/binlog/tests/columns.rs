//! What is refused about columns: schemas that don't fit, projections that can't be, values without a text form.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use rowbust_binlog::{
    Decoder, Event, Projection, ProjectionError, RawEvent, SchemaColumn, SchemaMismatch, TableMap, TextError,
    Value, event_type,
};

fn products() -> TableMap {
    let mut decoder = Decoder::new();
    for bytes in [common::format_description(), common::table_map(7)] {
        decoder.decode(&RawEvent::parse(&bytes, true).unwrap()).unwrap();
    }
    decoder.table(0).clone()
}

#[test]
fn a_schema_completes_only_its_own_table() {
    let mut map = products();
    assert_eq!(map.column_index("id"), None);
    let before = map.clone();
    let mut refused = |columns: Vec<SchemaColumn>| {
        let error = map.complete(&columns).unwrap_err();
        assert_eq!(map, before);
        error.to_string()
    };
    assert_eq!(refused(common::schema()[1..].to_vec()), "shop.products has 9 columns now, 10 in the binlog");
    let with = |i: usize, column_type: &str| {
        let mut columns = common::schema();
        let data_type = column_type.split([' ', '(']).next().unwrap();
        columns[i] = SchemaColumn::new(&columns[i].name, data_type, column_type, None);
        columns
    };
    assert_eq!(refused(with(0, "bigint")), "shop.products: column 0 is `id` bigint now, INT in the binlog");
    assert_eq!(
        refused(with(2, "bigint")),
        "shop.products: column 2 is `sku` bigint now, BIGINT unsigned in the binlog"
    );
    assert!(refused(with(4, "datetime(3)")).contains("DATETIME(0)"));
    map.complete(&common::schema()).unwrap();
    assert!(map.columns.iter().all(|c| c.is_complete()));
    assert_eq!(map.column_index("Category_ID"), Some(5));
    let mut renamed = common::schema();
    renamed[0].name = "key".into();
    assert!(matches!(map.complete(&renamed), Err(SchemaMismatch::Column { column: 0, .. })));
}

#[test]
fn projections_name_columns_in_order() {
    let map = products();
    assert_eq!(Projection::new(&map, &[1, 0]).unwrap_err(), ProjectionError::Order);
    assert_eq!(Projection::new(&map, &[1, 1]).unwrap_err(), ProjectionError::Order);
    assert_eq!(
        Projection::new(&map, &[10]).unwrap_err(),
        ProjectionError::NoColumn { index: 10, columns: 10 }
    );
    assert_eq!(Projection::new(&map, &[0, 9]).unwrap().columns(), [0, 9]);
}

#[test]
fn a_projection_is_for_one_number_of_columns() {
    let mut decoder = Decoder::new();
    decoder.decode(&RawEvent::parse(&common::format_description(), true).unwrap()).unwrap();
    decoder.decode(&RawEvent::parse(&common::table_map(7), true).unwrap()).unwrap();
    let bytes = common::rows(event_type::WRITE_ROWS_V2, 7, 1, 1);
    let Event::Rows(rows) = decoder.decode(&RawEvent::parse(&bytes, true).unwrap()).unwrap() else {
        panic!()
    };
    let mut other = products();
    other.columns.pop();
    let projection = Projection::new(&other, &[0]).unwrap();
    assert!(rows.cursor(decoder.table(0), &projection).is_err());
    let projection = Projection::new(decoder.table(0), &[0]).unwrap();
    assert!(rows.cursor(&other, &projection).is_err());
    assert!(rows.cursor(decoder.table(0), &projection).is_ok());
    assert!(!rows.lacks_column(9) && rows.lacks_column(17));
}

#[test]
fn what_has_no_text_form_says_why() {
    let map = products();
    let text = |value: Value<'_>, column: usize, unknown: bool| {
        let mut column = map.columns[column].clone();
        if unknown {
            (column.unsigned, column.collation) = (None, None);
        }
        let mut out = b"kept".to_vec();
        let result = value.write_text(&column, &mut out);
        assert!(result.is_ok() || out == b"kept");
        result.map(|()| String::from_utf8(out[4..].to_vec()).unwrap())
    };
    assert_eq!(text(Value::Null, 0, false), Err(TextError::Null));
    assert_eq!(text(Value::Absent, 0, false), Err(TextError::Absent));
    assert_eq!(text(Value::Int(-1), 0, false).unwrap(), "-1");
    assert_eq!(text(Value::Int(-1), 0, true), Err(TextError::Unknown { what: "the sign" }));
    assert_eq!(text(Value::Int(1), 0, true).unwrap(), "1");
    assert_eq!(text(Value::Str(b"x"), 1, true), Err(TextError::Unknown { what: "the character set" }));
    assert_eq!(text(Value::Str(b"\xff"), 1, false), Err(TextError::Malformed("UTF-8")));
    assert_eq!(text(Value::Enum(1), 1, false), Err(TextError::Unknown { what: "the labels" }));
    assert_eq!(text(Value::Json(b"\x0d"), 1, false), Err(TextError::Malformed("JSON")));
    assert_eq!(text(Value::JsonDiff(b""), 1, false), Err(TextError::NoDocument));
    assert_eq!(text(Value::Compressed(b"\x80"), 1, false), Err(TextError::Malformed("COMPRESSED")));
    assert_eq!(text(Value::Compressed(b"\0\xff"), 1, false), Err(TextError::Malformed("UTF-8")));
    let decimal = Value::Decimal { bytes: &[0xff; 5], precision: 10, scale: 2 };
    assert_eq!(text(decimal, 3, false), Err(TextError::Malformed("DECIMAL")));
    assert_eq!(
        TextError::Unknown { what: "the sign" }.to_string(),
        "the sign of the column is not known: set binlog_row_metadata=FULL, or let its schema be read"
    );
}
