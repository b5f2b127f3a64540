//! What an application takes in with the default features.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

fn tree(features: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "tree",
        "--offline",
        "--locked",
        "-p",
        "rowbust-client",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let output = command.args(features).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn has(tree: &str, name: &str) -> bool {
    tree.lines().any(|line| line.starts_with(&format!("{name} v")))
}

#[test]
fn no_kafka_no_mysql_driver_and_no_openssl_by_default() {
    let default = tree(&[]);
    assert!(has(&default, "redis") && has(&default, "rowbust-protocol"));
    let all = tree(&["--all-features"]);
    // What the test looks for is there when it is asked for, so it is found.
    assert!(has(&all, "mysql_async") && has(&all, "sqlx-mysql"));
    for name in ["mysql_async", "mysql_common", "sqlx", "sqlx-core", "sqlx-mysql"] {
        assert!(!has(&default, name), "{name}");
    }
    for name in ["rdkafka", "rdkafka-sys", "openssl", "openssl-sys", "native-tls", "rsa"] {
        assert!(!has(&all, name), "{name}");
    }
}
