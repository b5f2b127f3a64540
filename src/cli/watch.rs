//! `rowbust watch`, and `rowbust run --dry-run`

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use globset::Glob;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Exit, Global, block_on, load, out};
use crate::{
    checkpoint,
    config::{Config, Start},
    source::{Resume, SourceError},
    supervisor, telemetry,
    watch::{self, Only, Summary},
};

/// Arguments of `rowbust watch`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Follows the binlog from now on, as a replica with an id of its own. Writes nothing: no key, no checkpoint. No daemon
has to run, and one that does isn't disturbed. With --json one object per line.

Examples:
  rowbust watch
  rowbust watch --table 'shop.*' --json
  rowbust watch --key 'product:4*'"
)]
pub struct WatchArgs {
    /// Only changes of this table; may be a glob
    #[arg(long, value_name = "DB.TABLE")]
    pub table: Option<String>,
    /// Only changes that make this key wrong; with `*` at its end, all that begin so
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

pub(super) fn execute(global: &Global, args: &WatchArgs) -> Exit {
    let mut config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let table = match args.table.as_deref().map(Glob::new).transpose() {
        Ok(glob) => glob.map(|glob| glob.compile_matcher()),
        Err(error) => {
            out::complain(&format!("--table: {error}; write DB.TABLE, parts may be globs"));
            return Exit::Usage;
        }
    };
    config.source.start = Start::Latest;
    // What is known of columns isn't kept.
    config.checkpoint.path = PathBuf::new();
    follow(global, config, None, false, Only { table, key: args.key.clone() }, |_| {})
}

/// `rowbust run --dry-run`
pub(super) fn dry_run(global: &Global, config: &Config) -> Exit {
    let mut config = config.clone();
    let place = checkpoint::place(&config);
    let found = match block_on(checkpoint::look(&config)) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let path = std::mem::take(&mut config.checkpoint.path);
    let resume = match found {
        Ok(None) => None,
        Ok(Some((saved, _))) => match checkpoint::position(&saved) {
            Ok(position) => {
                let since = saved.followed_since;
                Some(Resume { anchor: saved.anchor, since, ..Resume::new(position, saved.source) })
            }
            Err(why) => {
                out::complain(&format!("checkpoint {place}: {why}"));
                return Exit::Failure;
            }
        },
        Err(error) => {
            out::complain(&error.to_string());
            return Exit::Failure;
        }
    };
    // A copy of what is known of columns: the daemon's own stays as it is.
    let copy = Copy::of(&path);
    if let Some(copy) = &copy {
        config.checkpoint.path.clone_from(&copy.path);
    }
    follow(global, config, resume, true, Only::default(), |summary| {
        if global.json {
            out::stdout(&format!("{}\n", summary.json()));
        } else {
            out::stdout(&said(summary));
        }
    })
}

/// A history of columns in a folder of its own, removed in the end.
struct Copy {
    dir: PathBuf,
    /// As a checkpoint's path: the history lies beside it.
    path: PathBuf,
}

impl Copy {
    /// `None`: there is none, or it can't be copied, which is said: then columns are known by what the server says now.
    fn of(checkpoint: &Path) -> Option<Self> {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".schema");
            PathBuf::from(name)
        };
        let history = with(checkpoint);
        if !history.exists() {
            return None;
        }
        let dir = std::env::temp_dir().join(format!("rowbust-dry-run-{}", std::process::id()));
        // A folder of this name that somebody else has made is refused, and so no link of theirs is followed.
        let copied = std::fs::DirBuilder::new().mode(0o700).create(&dir).and_then(|()| {
            let copy = Self { path: dir.join("checkpoint"), dir };
            std::fs::copy(&history, with(&copy.path))?;
            Ok(copy)
        });
        copied
            .inspect_err(|error| {
                out::complain(&format!("the history of columns isn't used, it can't be copied: {error}"));
            })
            .ok()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Nothing is left to do if it is gone.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn follow(
    global: &Global,
    mut config: Config,
    resume: Option<Resume>,
    strict: bool,
    only: Only,
    end: impl FnOnce(&Summary),
) -> Exit {
    telemetry::install_log();
    config.source.server_id = Some(watch::server_id(&config));
    let json = global.json;
    let ended = block_on(async {
        let stop = CancellationToken::new();
        let (mut signals, stopped) = (supervisor::signals()?, stop.clone());
        tokio::spawn(async move {
            let _ = signals.next().await;
            stopped.cancel();
        });
        let show = |values: &[Value]| {
            let text: String =
                values.iter().map(|value| if json { format!("{value}\n") } else { line(value) }).collect();
            out::try_stdout(&text)
        };
        Ok::<_, std::io::Error>(watch::follow(&config, resume, strict, only, stop, show).await)
    });
    match ended {
        Err(exit) => exit,
        Ok(Err(error)) => {
            out::complain(&format!("signals can't be listened for: {error}"));
            Exit::Failure
        }
        Ok(Ok(Ok(summary))) => {
            end(&summary);
            Exit::Ok
        }
        Ok(Ok(Err(error))) => {
            out::complain(&format!("source: {error}"));
            exit(&error)
        }
    }
}

fn exit(error: &SourceError) -> Exit {
    match error.exit_code() {
        69 => Exit::Unavailable,
        78 => Exit::Config,
        _ => Exit::Failure,
    }
}

/// One change, for people.
fn line(value: &Value) -> String {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    if value["type"] == "flush" {
        let mappings: Vec<&str> =
            value["mappings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        return format!("flush of {} ({}): {}\n", text("scope"), mappings.join(", "), text("cause"));
    }
    let place = format!("{}:{} row {}", text("file"), value["position"], value["row"]);
    let gtid = value["gtid"].as_str().map_or(String::new(), |gtid| format!("  {gtid}"));
    let mut lines = format!("{} {}  {place}{gtid}\n", text("change"), text("table"));
    for key in value["keys"].as_array().into_iter().flatten() {
        let part = |name: &str| key[name].as_str().map(|text| out::key(text.as_bytes()));
        let field = part("field").map_or(String::new(), |field| format!(" {field}"));
        lines.push_str(&format!(
            "  {} {} {}{field}\n",
            part("target").unwrap_or_default(),
            part("op").unwrap_or_default(),
            part("key").unwrap_or_default()
        ));
    }
    lines
}

fn said(summary: &Summary) -> String {
    let mut rows = vec![["table", "rows", "keys"].map(String::from).to_vec()];
    for (table, counts) in &summary.tables {
        rows.push(vec![table.clone(), counts.rows.to_string(), counts.keys.to_string()]);
    }
    let removed: u64 = summary.targets.values().sum();
    format!(
        "\n{}{} transactions read; {removed} removals (duplicates included) and {} flushes would have been made, nothing was removed or saved\n",
        out::table(&rows),
        summary.transactions,
        summary.flushes
    )
}
