//! Records of the queue as JSON, for `rowbust retry ls --json` and the admin address.

use serde_json::{Value, json};

use super::{Listed, Op};

/// One record or dead letter. Bytes that aren't text are escaped as in `\\xNN`.
pub fn listed_json(listed: &Listed) -> Value {
    let mut value = json!({ "id": listed.id });
    if let Some(record) = &listed.record {
        let origin = &record.origin;
        value["target"] = json!(record.target);
        value["op"] = json!(record.op.name());
        value["key"] = json!(record.key.escape_ascii().to_string());
        value["field"] = json!(record.op.field().map(|field| field.escape_ascii().to_string()));
        if let Op::Row { table } = &record.op {
            value["table"] = json!(table);
        }
        value["attempt"] = json!(record.attempt);
        value["error"] = json!(record.error_code);
        value["not_before_ms"] = json!(record.not_before_ms);
        value["first_failed_ms"] = json!(record.first_failed_ms);
        value["origin"] = json!({
            "source": origin.source,
            "gtid": origin.gtid,
            "file": origin.file,
            "position": origin.position,
            "row": origin.row,
            "commit_time": origin.commit_time,
            "epoch": origin.epoch,
        });
    } else {
        value["raw"] = json!(listed.raw.escape_ascii().to_string());
    }
    if !listed.reason.is_empty() {
        value["reason"] = json!(listed.reason);
        value["died_ms"] = json!(listed.died_ms);
    }
    if let Some((topic, partition, offset, time_ms)) = &listed.original {
        value["original"] =
            json!({ "topic": topic, "partition": partition, "offset": offset, "time_ms": time_ms });
    }
    value
}
