//! What MariaDB and MySQL share: options, and the first bytes on the wire.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::instance::Place;

/// Longest wait for one answer while a server starts.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Options that both servers know. `--no-defaults` must come first.
pub(crate) fn common_options(place: &Place) -> Vec<String> {
    let mut options = vec![
        "--no-defaults".into(),
        format!("--datadir={}", place.data().display()),
        format!("--socket={}", place.socket().display()),
        format!("--pid-file={}", place.dir.join("pid").display()),
        // A starting server deletes what look like left-over temporary tables, also those of its neighbours.
        format!("--tmpdir={}", place.dir.display()),
        "--bind-address=127.0.0.1".into(),
        format!("--port={}", place.port),
        "--server-id=1".into(),
        "--log-bin=binlog".into(),
        "--innodb-buffer-pool-size=64M".into(),
        "--max-connections=500".into(),
    ];
    options.extend(user_option());
    options
}

/// Options that tell a server unpacked under `root` where its files are; `share` is its folder in `usr/share`.
pub(crate) fn unpacked_options(root: &Path, share: &str) -> Vec<String> {
    let usr = root.join("usr");
    let shared = usr.join("share").join(share);
    [
        ("basedir", usr.clone()),
        ("lc-messages-dir", shared.clone()),
        ("character-sets-dir", shared.join("charsets")),
        ("plugin-dir", usr.join("lib/mysql/plugin")),
    ]
    .map(|(name, path)| format!("--{name}={}", path.display()))
    .into()
}

/// Both servers refuse to run as root unless told so by name.
pub(crate) fn user_option() -> Option<String> {
    geteuid().is_root().then(|| "--user=root".into())
}

/// A connection to a port of 127.0.0.1 with deadlines.
pub(crate) fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    Ok(stream)
}

/// Whether the server sends its greeting: a packet (3 bytes length, 1 byte number) that starts with protocol
/// version 10. Before it is ready it does not listen; an error packet starts with 0xff.
pub(crate) fn greets(port: u16) -> bool {
    let mut head = [0; 5];
    connect(port).and_then(|mut s| s.read_exact(&mut head)).is_ok() && head[4] == 10
}
