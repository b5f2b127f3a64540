//! What the binlog holds, by `mariadb-binlog -v` or `mysqlbinlog -v`: none of rowbust's code takes part.
//!
//! Knows integers, strings without odd characters and NULL: what the tests' tables hold.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::db::Db;

/// A place: file name and offset. Names of one server compare as text.
pub type Place = (String, u64);

/// One committed transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Where it ends (exclusive).
    pub end: Place,
    /// The last number of its GTID: the transaction's on MySQL, the sequence on MariaDB.
    pub gtid: u64,
    /// Its row changes in order.
    pub rows: Vec<Row>,
}

/// One row change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Table, without its schema.
    pub table: String,
    /// Values before the change in the columns' order; none for an insert.
    pub before: Option<Vec<String>>,
    /// Values after it; none for a delete.
    pub after: Option<Vec<String>>,
}

impl Row {
    /// Both images, the older first.
    pub fn images(&self) -> impl Iterator<Item = &Vec<String>> {
        self.before.iter().chain(&self.after)
    }
}

/// All committed transactions, of all files, in order. Of their rows only those of `schema`.
///
/// # Errors
/// When the program fails, or writes what isn't understood.
pub fn read(db: &Db, schema: &str) -> Result<Vec<Transaction>> {
    let mut all = Vec::new();
    for file in db.binlogs()? {
        let name = file.file_name().and_then(|n| n.to_str()).context("odd file name")?.to_owned();
        let out = Command::new(db.binlog_program())
            .args(["--no-defaults", "-v", "--base64-output=DECODE-ROWS"])
            .arg(&file)
            .output()
            .with_context(|| format!("cannot run {}", db.binlog_program().display()))?;
        if !out.status.success() {
            bail!("{}: {}", db.binlog_program().display(), String::from_utf8_lossy(&out.stderr));
        }
        let mut parser = Parser { file: name, schema: schema.to_owned(), ..Parser::default() };
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            parser.line(line).with_context(|| format!("{}: {line:?}", file.display()))?;
        }
        all.append(&mut parser.done);
    }
    Ok(all)
}

#[derive(Debug, Default)]
struct Parser {
    file: String,
    schema: String,
    /// `end_log_pos` of the event that is being printed.
    position: u64,
    gtid: u64,
    running: Option<Transaction>,
    row: Option<Row>,
    /// Which image the next `@n=` line belongs to.
    after: bool,
    done: Vec<Transaction>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(text) = line.strip_prefix("### ") {
            return self.row_line(text);
        }
        self.end_row();
        if let Some(header) = line.strip_prefix('#') {
            self.header(header)
        } else {
            if line.starts_with("COMMIT") {
                self.commit();
            } else if line.starts_with("ROLLBACK") {
                self.running = None;
            }
            // `SET @@SESSION.GTID_NEXT= '3E11FA47-…:23'/*!*/;`
            if let Some(text) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '")
                && let Some((_, number)) = text.split('\'').next().and_then(|t| t.rsplit_once(':'))
            {
                self.begin(number.parse()?);
            }
            Ok(())
        }
    }

    /// `251121 21:00:00 server id 1  end_log_pos 384 CRC32 0x…  GTID 0-1-2 trans`
    fn header(&mut self, header: &str) -> Result<()> {
        let Some((_, rest)) = header.split_once("end_log_pos ") else { return Ok(()) };
        let (position, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        self.position = position.trim().parse()?;
        let mut words = rest.split_whitespace().skip_while(|w| *w == "CRC32" || w.starts_with("0x"));
        if words.next() == Some("GTID")
            && let Some((_, number)) = words.next().and_then(|gtid| gtid.rsplit_once('-'))
        {
            self.begin(number.parse()?);
        }
        Ok(())
    }

    fn begin(&mut self, gtid: u64) {
        self.gtid = gtid;
        self.running = Some(Transaction { gtid, ..Transaction::default() });
    }

    fn commit(&mut self) {
        if let Some(mut transaction) = self.running.take() {
            transaction.end = (self.file.clone(), self.position);
            self.done.push(transaction);
        }
    }

    fn row_line(&mut self, text: &str) -> Result<()> {
        for (verb, before, after) in [("INSERT INTO", false, true), ("UPDATE", true, true), ("DELETE FROM", true, false)] {
            if let Some(name) = text.strip_prefix(verb) {
                self.end_row();
                let (schema, table) = name.trim().split_once('.').context("no table")?;
                if schema.trim_matches('`') == self.schema {
                    self.row = Some(Row {
                        table: table.trim_matches('`').to_owned(),
                        before: before.then(Vec::new),
                        after: after.then(Vec::new),
                    });
                }
                return Ok(());
            }
        }
        match text.trim() {
            "WHERE" => self.after = false,
            "SET" => self.after = true,
            column if column.starts_with('@') => {
                let (_, value) = column.split_once('=').context("no value")?;
                if let Some(row) = &mut self.row {
                    let image = if self.after { &mut row.after } else { &mut row.before };
                    image.as_mut().context("an image that the event doesn't have")?.push(plain(value));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn end_row(&mut self) {
        if let (Some(row), Some(transaction)) = (self.row.take(), &mut self.running) {
            transaction.rows.push(row);
        }
    }
}

/// `'text'` without its quotes; `-1 (4294967295)` without what it would be unsigned.
fn plain(value: &str) -> String {
    match value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        Some(text) => text.to_owned(),
        None => value.split(' ').next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_programs() {
        let rows = "### UPDATE `shop`.`products`\n### WHERE\n###   @1=1\n###   @2='a'\n### SET\n###   @1=-2 (4294967294)\n###   @2='b'\n### DELETE FROM `other`.`t`\n### WHERE\n###   @1=1\n### DELETE FROM `shop`.`t`\n### WHERE\n###   @1=NULL\n";
        let mariadb = format!(
            "# at 4\n#251121 21:00:00 server id 1  end_log_pos 256 CRC32 0xaa \tStart: binlog\nROLLBACK/*!*/;\n#251121 21:00:00 server id 1  end_log_pos 384 CRC32 0x1 \tGTID 0-1-2 trans\nSTART TRANSACTION\n{rows}# Number of rows: 3\n#251121 21:00:00 server id 1  end_log_pos 500 CRC32 0x1 \tXid = 12\nCOMMIT/*!*/;\n"
        );
        let mysql = format!(
            "#251121 21:00:00 server id 1  end_log_pos 384 CRC32 0x1 \tGTID\tlast_committed=0\nSET @@SESSION.GTID_NEXT= '3e11fa47-0:2'/*!*/;\n{rows}#251121 21:00:00 server id 1  end_log_pos 500 CRC32 0x1 \tXid = 12\nCOMMIT/*!*/;\n"
        );
        let text = |s: &str| s.to_owned();
        let expected = Transaction {
            end: (text("f"), 500),
            gtid: 2,
            rows: vec![
                Row {
                    table: text("products"),
                    before: Some(vec![text("1"), text("a")]),
                    after: Some(vec![text("-2"), text("b")]),
                },
                Row { table: text("t"), before: Some(vec![text("NULL")]), after: None },
            ],
        };
        for said in [mariadb, mysql] {
            let mut parser = Parser { file: "f".into(), schema: "shop".into(), ..Parser::default() };
            for line in said.lines() {
                parser.line(line).unwrap();
            }
            assert_eq!(parser.done, std::slice::from_ref(&expected), "{said}");
        }
    }
}
