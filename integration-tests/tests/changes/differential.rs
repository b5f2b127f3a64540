//! Binlog files of real servers, decoded by us and by others: see `differential`. These are the fixtures of `rowbust-binlog`; the
//! matrix compares every file that it makes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use rowbust_integration_tests::differential::{Compared, compare};
use rowbust_servers::{Need, require};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/binlog/tests/fixtures").join(name)
}

fn all(program: &Path, files: [&str; 2]) -> Compared {
    let mut compared = Compared::default();
    for file in files {
        compared.add(compare(program, &fixture(file)).unwrap());
    }
    eprintln!("{compared:#?}");
    assert!(compared.rows > 400 && compared.values.len() > 20 && compared.cdc_values > 1000);
    compared
}

#[test]
fn mariadb() {
    let Some(found) = require(&[Need::MariaDb]) else { return };
    all(&found.mariadb.unwrap().binlog, ["mariadb-10.11.full.binlog", "mariadb-10.11.bare.binlog"]);
}

#[test]
fn mysql() {
    let Some(found) = require(&[Need::MySql]) else { return };
    let compared = all(&found.mysql.unwrap().binlog, ["mysql-9.7.full.binlog", "mysql-9.7.bare.binlog"]);
    assert!(compared.unprinted > 0, "GEOMETRY");
}
