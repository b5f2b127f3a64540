//! Asks the server to become a dump thread.
//!
//! Guarantees: the events come as they stand in the file, with their checksums; the server sends a heartbeat where it has
//! nothing else to send. May depend on `start`.

use std::time::Duration;

use mysql_common::{packets::ComRegisterSlave, proto::MySerialize};
use rowbust_binlog::{Flavor, GtidSet, GtidState};

use super::{COM_QUERY, Wire, WireError};
use crate::source::start::{FIRST_EVENT, Request, quote};

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;

/// The name of a file counts for nothing: the place comes from the GTIDs (`binlog_flags` in MySQL's `sql/sql_binlog.cc`).
const BINLOG_THROUGH_GTID: u16 = 4;

/// The server's own bound on a reader that doesn't read (backpressure), in seconds; by default 60.
const NET_TIMEOUT: u32 = 3600;

impl Wire {
    /// Registers as the replica `server_id` and asks for the binlog. What the server thinks of the position comes as the
    /// first event. `heartbeat`: how often a quiet server is to send one.
    pub(in crate::source) async fn dump(
        &mut self,
        flavor: Flavor,
        server_id: u32,
        request: &Request,
        heartbeat: Duration,
    ) -> Result<(), WireError> {
        for preparation in preparations(flavor, server_id, request, heartbeat) {
            self.command(&preparation).await?;
            self.read().await?;
        }
        self.command(&command(flavor, server_id, request)?).await
    }

    /// Registers as a replica and asks for nothing: needs the privilege that the stream needs, by a role too.
    pub(crate) async fn register(&mut self, server_id: u32) -> Result<(), WireError> {
        let mut register = Vec::new();
        ComRegisterSlave::new(server_id).serialize(&mut register);
        self.command(&register).await?;
        self.read().await?;
        Ok(())
    }
}

/// The commands before the dump, each answered by OK or an error.
pub(in crate::source) fn preparations(
    flavor: Flavor,
    server_id: u32,
    request: &Request,
    heartbeat: Duration,
) -> Vec<Vec<u8>> {
    let statements = session(flavor, request, heartbeat).into_iter();
    let mut commands: Vec<_> = statements.map(|text| [&[COM_QUERY], text.as_bytes()].concat()).collect();
    let mut register = Vec::new();
    ComRegisterSlave::new(server_id).serialize(&mut register);
    commands.push(register);
    commands
}

/// What the server takes from the session's variables.
fn session(flavor: Flavor, request: &Request, heartbeat: Duration) -> Vec<String> {
    let nanos = heartbeat.as_nanos();
    // A server that is told `NONE`, or nothing, takes the checksums off (MariaDB), refuses (MySQL), or leaves them on and says
    // that they are off. Which events have one is told by the format description alone.
    let mut statements = match flavor {
        Flavor::MySql => vec![format!(
            "SET @master_binlog_checksum='CRC32', @source_binlog_checksum='CRC32', \
             @master_heartbeat_period={nanos}, @source_heartbeat_period={nanos}"
        )],
        Flavor::MariaDb => vec![format!(
            "SET @master_binlog_checksum='CRC32', @master_heartbeat_period={nanos}, \
             @mariadb_slave_capability={MARIA_CAPABILITY}"
        )],
    };
    statements
        .push(format!("SET SESSION net_write_timeout={NET_TIMEOUT}, SESSION net_read_timeout={NET_TIMEOUT}"));
    if let (Flavor::MariaDb, Request::Gtid(gtids)) = (flavor, request) {
        statements.push(format!(
            "SET @slave_connect_state={}, @slave_gtid_strict_mode=1, @slave_gtid_ignore_duplicates=0",
            quote(&gtids.to_string())
        ));
    }
    statements
}

/// Knows GTIDs, so the server leaves the events as they are (`enum_slave_capability` in MariaDB's `sql/log_event.h`).
const MARIA_CAPABILITY: u32 = 4;

/// Asks for the binlog; the answer is the stream.
pub(in crate::source) fn command(
    flavor: Flavor,
    server_id: u32,
    request: &Request,
) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    match request {
        Request::Gtid(GtidState::MySql(set)) => {
            com_binlog_dump_gtid(server_id, "", FIRST_EVENT, set, &mut out)?;
        }
        Request::Gtid(GtidState::MariaDb(_)) => com_binlog_dump(server_id, "", FIRST, &mut out),
        Request::File { file, .. } | Request::Behind { file, .. } => {
            com_binlog_dump(server_id, file, FIRST, &mut out);
        }
        // 64 bits for the place. With a file name the server goes there, and skips what the set has: nothing
        // (`Binlog_sender::check_start_file`).
        Request::At { file, position } if flavor == Flavor::MySql => {
            com_binlog_dump_gtid(server_id, file, *position, &GtidSet::new(), &mut out)?;
        }
        Request::At { file, position } => {
            let position = u32::try_from(*position)
                .map_err(|_| WireError::Malformed(format!("MariaDB can't be asked for {file}:{position}")))?;
            com_binlog_dump(server_id, file, position, &mut out);
        }
    }
    Ok(out)
}

fn com_binlog_dump_gtid(
    server_id: u32,
    file: &str,
    position: u64,
    done: &GtidSet,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len())
            .map_err(|_| WireError::Malformed("the GTID set is too long for a request".into()))
    };
    out.push(COM_BINLOG_DUMP_GTID);
    out.extend_from_slice(&BINLOG_THROUGH_GTID.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(&length(file.as_bytes())?.to_le_bytes());
    out.extend_from_slice(file.as_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    let mut data = Vec::new();
    done.encode(&mut data);
    out.extend_from_slice(&length(&data)?.to_le_bytes());
    out.extend_from_slice(&data);
    Ok(())
}

/// [`FIRST_EVENT`], in the packet's 32 bits.
const FIRST: u32 = 4;

fn com_binlog_dump(server_id: u32, file: &str, position: u32, out: &mut Vec<u8>) {
    out.push(COM_BINLOG_DUMP);
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&0_u16.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(file.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands() {
        let file = Request::File { file: "b.000007".into(), skip_to: 99 };
        let command = |server_id, request: &Request| command(Flavor::MariaDb, server_id, request).unwrap();
        assert_eq!(command(0x0102, &file), b"\x12\x04\0\0\0\0\0\x02\x01\0\0b.000007");
        let event = Request::At { file: "b.000007".into(), position: 0x0a0b };
        assert_eq!(command(0x0102, &event), b"\x12\x0b\x0a\0\0\0\0\x02\x01\0\0b.000007");
        let maria = Request::Gtid(GtidState::parse(Flavor::MariaDb, "0-1-5").unwrap());
        assert_eq!(command(1, &maria), b"\x12\x04\0\0\0\0\0\x01\0\0\0");
        let gtids = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77:80";
        let mysql = Request::Gtid(GtidState::parse(Flavor::MySql, gtids).unwrap());
        let mut expected =
            b"\x1e\x04\0\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x40\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        expected
            .extend(b"\x3e\x11\xfa\x47\x71\xca\x11\xe1\x9e\x33\xc8\x0a\xa9\x42\x95\x62\x02\0\0\0\0\0\0\0");
        for n in [1_u64, 78, 80, 81] {
            expected.extend(n.to_le_bytes());
        }
        assert_eq!(command(1, &mysql), expected);
        // Beyond 32 bits.
        let far = Request::At { file: "b.7".into(), position: (1 << 32) + 5 };
        let mut expected = b"\x1e\x04\0\x01\0\0\0\x03\0\0\0b.7\x05\0\0\0\x01\0\0\0\x08\0\0\0".to_vec();
        expected.extend([0; 8]);
        assert_eq!(super::command(Flavor::MySql, 1, &far).unwrap(), expected);
        assert!(super::command(Flavor::MariaDb, 1, &far).is_err());
    }

    #[test]
    fn a_position_is_no_statement() {
        let file = Request::File { file: "b.1".into(), skip_to: 4 };
        let maria = session(Flavor::MariaDb, &file, Duration::from_secs(2));
        assert!(maria[0].contains("@master_heartbeat_period=2000000000,"), "{maria:?}");
        assert!(!maria.iter().any(|s| s.contains("slave_connect_state")));
        let gtid = Request::Gtid(GtidState::parse(Flavor::MariaDb, "0-1-5").unwrap());
        let maria = session(Flavor::MariaDb, &gtid, Duration::from_secs(2));
        assert!(maria[2].starts_with("SET @slave_connect_state='0-1-5',"), "{maria:?}");
    }
}
