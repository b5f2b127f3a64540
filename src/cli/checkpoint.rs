//! `rowbust checkpoint show`

use super::{Exit, Global, load, out};
use crate::checkpoint::file::{Generation, Saved, load as read};

pub(super) fn show(global: &Global) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let path = &config.checkpoint.path;
    match read(path) {
        Ok(found) if global.json => {
            out::json(&serde_json::json!({
                "schema_version": 1,
                "path": path.display().to_string(),
                "checkpoint": found.as_ref().map(|(saved, _)| saved),
                "previous_generation": found.as_ref().map(|(_, generation)| *generation == Generation::Previous),
            }));
            Exit::Ok
        }
        Ok(None) => {
            out::stdout(&format!("no checkpoint yet at {}: `run` begins at source.start\n", path.display()));
            Exit::Ok
        }
        Ok(Some((saved, generation))) => {
            out::stdout(&text(&path.display().to_string(), &saved, generation));
            Exit::Ok
        }
        Err(error) => {
            out::complain(&error.to_string());
            Exit::Failure
        }
    }
}

fn text(path: &str, saved: &Saved, generation: Generation) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let commit = if saved.commit_time == 0 {
        "none done yet".into()
    } else {
        format!("{} ({})", saved.commit_time, out::ago(saved.commit_time.into()))
    };
    let mut rows = vec![
        row("path", path.to_owned()),
        row("source", format!("{} {}", saved.flavor, saved.source)),
        row("gtids", saved.gtids.clone()),
        row("position", format!("{}:{}", saved.file, saved.position)),
        row("newest commit", commit),
        row("saved", format!("{} ({})", saved.saved_at, out::ago(saved.saved_at))),
        row("generation", format!("{}, epoch {}", saved.generation, saved.epoch)),
    ];
    if generation == Generation::Previous {
        rows.push(row("note", "the newest file can't be read; this is the previous generation".into()));
    }
    out::table(&rows)
}
