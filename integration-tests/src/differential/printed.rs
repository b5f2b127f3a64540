//! The rows in the output of `mariadb-binlog -v` and `mysqlbinlog -v`.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rowbust_binlog::RowKind;

/// What is printed in place of a value whose type the program doesn't know.
pub(super) const UNKNOWN_TYPE: &[u8] = b"!! Don't know how to handle column type";

/// One row change as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// `schema.table`.
    pub table: String,
    /// What happened to it.
    pub kind: RowKind,
    /// Columns from 1 and their text; what the image leaves out is not there.
    pub before: Vec<(usize, Vec<u8>)>,
    /// The same after the change.
    pub after: Vec<(usize, Vec<u8>)>,
    /// The program gave up on the event at a column of this row.
    pub broken: bool,
}

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.table)?;
        for (column, text) in self.before.iter().chain(&self.after) {
            write!(f, " @{column}={}", super::shown(text))?;
        }
        Ok(())
    }
}

/// Runs the program on a file.
pub(super) fn read(program: &Path, file: &Path) -> Result<Vec<Printed>> {
    let out = Command::new(program)
        .args(["--no-defaults", "-v", "--base64-output=DECODE-ROWS"])
        .arg(file)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(out.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&out.stderr));
    parse(&out.stdout)
}

fn parse(output: &[u8]) -> Result<Vec<Printed>> {
    let mut rows: Vec<Printed> = Vec::new();
    let mut after = false;
    for line in output.split(|&byte| byte == b'\n') {
        let Some(text) = line.strip_prefix(b"### ") else { continue };
        if let Some(rest) = text.strip_prefix(b"  @") {
            let row = rows.last_mut().context("a value outside of a row")?;
            let at = rest.iter().position(|&byte| byte == b'=').context("no value")?;
            let number = std::str::from_utf8(&rest[..at])?.parse()?;
            let value = rest[at + 1..].to_vec();
            row.broken |= value.starts_with(UNKNOWN_TYPE);
            if after { &mut row.after } else { &mut row.before }.push((number, value));
            continue;
        }
        // A call within a call goes on in the next line.
        if let Some(more) = text.strip_prefix(b"     ") {
            let row = rows.last_mut().context("a value outside of a row")?;
            let value = if after { &mut row.after } else { &mut row.before }.last_mut();
            value.context("no value to go on with")?.1.extend_from_slice(more);
            continue;
        }
        match text {
            b"WHERE" => after = false,
            b"SET" => after = true,
            _ => rows.extend(begin(text)?),
        }
    }
    Ok(rows)
}

/// ``INSERT INTO `schema`.`table` ``
fn begin(text: &[u8]) -> Result<Option<Printed>> {
    for (verb, kind) in [
        (&b"INSERT INTO "[..], RowKind::Write),
        (b"UPDATE ", RowKind::Update),
        (b"DELETE FROM ", RowKind::Delete),
    ] {
        let Some(name) = text.strip_prefix(verb) else { continue };
        let name = std::str::from_utf8(name)?.trim();
        let Some((schema, table)) = name.trim_matches('`').split_once("`.`") else {
            bail!("not a table: {name}")
        };
        return Ok(Some(Printed {
            table: format!("{schema}.{table}"),
            kind,
            before: Vec::new(),
            after: Vec::new(),
            broken: false,
        }));
    }
    bail!("not understood: {}", super::shown(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_in_their_order() {
        let out = b"# at 4\n### UPDATE `s`.`t`\n### WHERE\n###   @1=1\n### SET\n###   @1=-1 (255)\n###   @3='a\xe9'\n#Q> x\n### INSERT INTO `s`.`g`\n### SET\n###   @1=1\n###   @2=!! Don't know how to handle column type=255 meta=4 (0004)\n";
        let rows = parse(out).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].before, [(1, b"1".to_vec())]);
        assert_eq!(rows[0].after, [(1, b"-1 (255)".to_vec()), (3, b"'a\xe9'".to_vec())]);
        assert!(rows[1].broken && rows[1].table == "s.g");
        assert!(parse(b"### SOMETHING NEW").is_err());
    }
}
