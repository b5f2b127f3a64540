//! This machine: its files, clock, ports and limits.
//!
//! Guarantees: nothing is written; folders that the daemon would make are looked for at the first that is there. May depend on
//! `config`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::{resource, statvfs},
    unistd::{AccessFlags, access},
};

use super::{
    Waiting,
    report::{Finding, Group},
    within,
};
use crate::config::{Config, Password, Retry, show_size};

/// Less is told about, far less is an error: a checkpoint is some KiB, a removal that is owed about 200 bytes.
const LOW: u64 = 256 << 20;
const NONE: u64 = 8 << 20;
/// Seconds that two clocks may differ by.
const CLOCK: f64 = 2.0;
/// Open files: connections to each server, the queue, what asks the admin server.
const FILES: u64 = 1024;
const FEWEST_FILES: u64 = 128;

pub(super) async fn look(config: &Config, waiting: &Waiting) -> Group {
    let group = Group::new("machine", "this machine");
    within(waiting, group, "machine.answer", async |group: &mut Group| {
        let owned = config.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut group = Group::new("machine", "");
            files(&owned, &mut group);
            secrets(&owned, &mut group);
            admin(&owned, &mut group);
            limits(&mut group);
            group.lines
        });
        match looked.await {
            Ok(lines) => group.lines.extend(lines),
            Err(error) => group.error("machine.answer", error.to_string(), "report this as a bug"),
        }
    })
    .await
}

/// The first of the folder and its parents that is there.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|folder| folder.exists())
        .map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

fn files(config: &Config, group: &mut Group) {
    let mut folders: Vec<(&str, PathBuf)> = Vec::new();
    if config.checkpoint.shared.is_none() {
        let folder = config.checkpoint.path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        folders.push(("the checkpoint", folder));
    }
    if let Retry::Disk { path, .. } = &config.retry {
        folders.push(("the retry queue", path.clone()));
    }
    for (what, folder) in folders {
        let Some(there) = existing(&folder) else { continue };
        let shown = there.display();
        if let Err(error) = access(&there, AccessFlags::W_OK | AccessFlags::X_OK) {
            group.error(
                "machine.files",
                format!("{what}: {shown} can't be written to: {error}"),
                format!("as root: install -d -o {} {}", user(), folder.display()),
            );
            continue;
        }
        let missing = if there == folder {
            String::new()
        } else {
            format!(" ({} is made at the start)", folder.display())
        };
        group.ok("machine.files", format!("{what}: {shown} can be written to{missing}"));
        match statvfs::statvfs(&there) {
            Ok(found) => {
                let free = found.blocks_available().saturating_mul(found.fragment_size());
                group.push("machine.space", space(what, free));
            }
            Err(error) => group.not_tested("machine.space", format!("{what}: {error}"), "look at it by df"),
        }
    }
}

fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten()
        .map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name)
}

fn space(what: &str, free: u64) -> Finding {
    let text = format!("{what}: {} free", show_size(free >> 20 << 20));
    let help = "make room: a full disk holds the checkpoint, and removals that fail can't be kept".to_owned();
    if free < NONE {
        Finding::Error(text, help)
    } else if free < LOW {
        Finding::Warning(text, help)
    } else {
        Finding::Ok(format!("{what}: more than {} free", show_size(LOW)))
    }
}

fn secrets(config: &Config, group: &mut Group) {
    let passwords = [&config.source.password, &config.admin.token]
        .into_iter()
        .chain(config.redis.iter().map(|target| &target.password));
    let named = passwords.filter_map(|password| match password {
        Password::File(path) => Some(path),
        Password::Empty | Password::Value(_) => None,
    });
    for path in named {
        let shown = path.display();
        match std::fs::metadata(path) {
            Ok(found) if found.permissions().mode() & 0o004 != 0 => group.warning(
                "machine.secrets",
                format!("{shown} can be read by every user of this machine"),
                format!("chmod 600 {shown}"),
            ),
            Ok(_) => group.ok("machine.secrets", format!("{shown} is not for everybody")),
            Err(error) => group.error(
                "machine.secrets",
                format!("{shown}: {error}"),
                "name a file in the config that rowbust's user may read",
            ),
        }
    }
}

fn admin(config: &Config, group: &mut Group) {
    let code = "machine.admin";
    let listen = config.admin.listen;
    match TcpListener::bind(listen) {
        Ok(_) => group.ok(code, format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            if is_rowbust(listen) {
                group.ok(code, format!("a rowbust answers at {listen}"));
            } else {
                group.error(
                    code,
                    format!("{listen} is taken by another program: the daemon would not start"),
                    "write another port as `admin.listen`",
                );
            }
        }
        Err(error) => group.error(
            code,
            format!("{listen}: {error}"),
            "write an address of this machine as `admin.listen`, such as 127.0.0.1:8321",
        ),
    }
}

/// Whether what listens there answers as a daemon does.
fn is_rowbust(mut address: SocketAddr) -> bool {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let within = Duration::from_secs(2);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, within)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // What doesn't end by itself is cut off by the time.
        let _ = stream.take(1 << 20).read_to_end(&mut answer);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.contains("rowbust_"))
}

fn limits(group: &mut Group) {
    let code = "machine.open_files";
    match resource::getrlimit(resource::Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => {
            let text = format!("{soft} open files");
            let help = "ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit";
            if soft < FEWEST_FILES {
                group.error(code, text, help);
            } else if soft < FILES {
                group.warning(code, text, help);
            } else {
                group.ok(code, text);
            }
        }
        Err(error) => group.not_tested(code, error.to_string(), "look at it by ulimit -n"),
    }
}

/// `offsets`: seconds by which a server's clock is ahead of this machine's.
pub(super) fn clock(group: &mut Group, offsets: &[(String, f64)]) {
    let code = "machine.clock";
    if offsets.is_empty() {
        group.not_tested(code, "no server told its time", "mend the connections first");
        return;
    }
    let mut well = Vec::new();
    for (whose, offset) in offsets {
        if offset.abs() < CLOCK {
            well.push(whose.as_str());
            continue;
        }
        let way = if *offset > 0.0 { "ahead of" } else { "behind" };
        group.warning(
            code,
            format!("the clock of {whose} is {:.0} s {way} this machine's: lag and ages are shown wrong by so much", offset.abs()),
            "let both keep time by NTP; no removal depends on it",
        );
    }
    if !well.is_empty() {
        group.ok(code, format!("agrees with {} to {CLOCK} s", well.join(", ")));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let mut group = Group::new("machine", "");
        clock(&mut group, &[("a".into(), 0.4), ("b".into(), -7.0)]);
        let texts: Vec<&str> = group.lines.iter().map(|line| line.text.as_str()).collect();
        assert!(texts[0].contains("b is 7 s behind") && texts[1].contains("agrees with a"), "{texts:?}");
    }

    #[test]
    fn the_admin_address_must_be_of_this_machine() {
        let look = |listen: &str| {
            let text = format!(
                "source: {{ url: 'mysql://rowbust@db' }}\nredis: {{ main: 'redis://cache' }}\nadmin: {{ listen: '{listen}' }}\n\
                 mappings: [ {{ table: shop.products, keys: ['product:{{id}}'] }} ]\n"
            );
            let mut group = Group::new("machine", "");
            admin(&crate::config::parse(&text, Path::new("rowbust.yaml"), &|_| None).unwrap(), &mut group);
            group.lines.remove(0)
        };
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(look(&free.to_string()).text, format!("{free} is free"));
        // For documentation: no machine has it (RFC 5737).
        let other = look("192.0.2.1:8321");
        assert!(other.text.contains("192.0.2.1:8321: Cannot assign"), "{}", other.text);
    }

    #[test]
    fn space_runs_out_in_steps() {
        assert!(matches!(space("x", 1 << 40), Finding::Ok(_)));
        assert!(matches!(space("x", LOW - 1), Finding::Warning(..)));
        assert!(matches!(space("x", NONE - 1), Finding::Error(..)));
    }
}
