use rowbust_binlog::event_type;

use super::*;

fn header(event_type: u8, size: u32, log_pos: u32, flags: u16) -> Header {
    Header { timestamp: 0, event_type, server_id: 1, event_size: size, log_pos, flags }
}

/// To a server that isn't there.
pub(super) fn connector() -> crate::source::connect::Connector {
    crate::source::connect::Connector::new(&crate::config::Source {
        host: "127.0.0.1".into(),
        port: 1,
        user: "root".into(),
        password: crate::config::Password::Empty,
        replicas: Vec::new(),
        replica_timeout: None,
        name: "main".into(),
        tls: crate::config::Tls::new(crate::config::TlsMode::Disabled),
        server_id: None,
        start: crate::config::Start::Latest,
        heartbeat: None,
        policies: crate::config::Policies::default(),
        driver: crate::config::Driver::Native,
    })
}

#[test]
fn ignored_events_are_counted_and_named_once() {
    let schema = SchemaCache::new(connector(), crate::source::schema::History::default());
    let mut follower = Follower::new(schema, PolicyTable::default(), Arc::default());
    for event_type in [200, 201, 200] {
        follower.ignored(event_type, &header(event_type, 50, 150, 0x80));
    }
    assert_eq!(follower.stats.ignored_events(), 3);
    assert_eq!(follower.ignored_types, BTreeSet::from([200, 201]));
}

#[test]
fn positions_have_64_bits() {
    let rows = event_type::WRITE_ROWS_V2;
    assert_eq!(end_of(100, &header(rows, 50, 150, 0)), 150);
    assert_eq!(end_of(100, &header(rows, 50, 0, 0)), 150);
    // A gap of what the server skipped.
    assert_eq!(end_of(100, &header(rows, 50, 9_000, 0)), 9_000);
    // Wrapped at 4 GiB, and beyond.
    assert_eq!(end_of(u64::from(u32::MAX) - 9, &header(rows, 50, 40, 0)), (1 << 32) + 40);
    assert_eq!(end_of((1 << 32) + 40, &header(rows, 50, 90, 0)), (1 << 32) + 90);
    // Not in the file.
    assert_eq!(end_of(100, &header(rows, 50, 150, rowbust_binlog::header::FLAG_ARTIFICIAL)), 100);
    assert_eq!(end_of(100, &header(event_type::HEARTBEAT, 50, 150, 0)), 100);
    assert_eq!(end_of(900, &header(event_type::FORMAT_DESCRIPTION, 120, 0, 0)), 900);
    assert_eq!(end_of(4, &header(event_type::FORMAT_DESCRIPTION, 120, 124, 0)), 124);
}
