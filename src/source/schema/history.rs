//! What each mapped table's columns were, by place in the binlog: a small file beside the checkpoint.
//!
//! Guarantees: [`History::at`] names the definition in force at a place only if every statement that may have changed it, up to
//! that place, was seen; a definition that was taken from a server which stood further on is kept with that place until
//! the reader has come past it. The file is replaced in one step and synced, like the checkpoint. May depend on `position`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use rowbust_binlog::{GtidState, SchemaColumn};
use serde::{Deserialize, Serialize};

use crate::source::position::Coordinates;

const MAGIC: &str = "rowbust-schema 1";

/// Definitions of one table that are kept. An older place than the oldest is asked about anew.
const MOST: usize = 16;

/// A table's schema and name.
pub(super) type TableName = (String, String);

/// A column as `information_schema` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredColumn {
    pub(super) name: String,
    pub(super) data_type: String,
    pub(super) column_type: String,
    pub(super) charset: Option<String>,
}

/// What is known from one place on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Valid wherever these are done: the GTID of the statement that made it so, or where reading began.
    pub(super) from: String,
    /// `None`: changed there, and not asked since.
    pub(super) columns: Option<Vec<StoredColumn>>,
    /// Where the server stood when it was asked, and which server.
    pub(super) asked: Option<Asked>,
}

/// See [`Entry::asked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) server: String,
    pub(super) file: String,
    pub(super) position: u64,
}

impl Entry {
    pub(super) fn schema_columns(&self) -> Option<Vec<SchemaColumn>> {
        let columns = self.columns.as_ref()?.iter();
        Some(
            columns
                .map(|c| SchemaColumn::new(&c.name, &c.data_type, &c.column_type, c.charset.as_deref()))
                .collect(),
        )
    }

    /// Whether a change that ends at `at` may be in what the server said: it was asked after that.
    pub(super) fn may_have(&self, at: &Coordinates, server: &str) -> bool {
        self.asked.as_ref().is_some_and(|asked| {
            let stood = Coordinates { file: asked.file.as_str().into(), position: asked.position };
            asked.server != server || at.is_behind(&stood) != Some(true)
        })
    }
}

#[derive(Debug, Serialize, Deserialize, Default)]
struct Stored {
    tables: Vec<StoredTable>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredTable {
    schema: String,
    table: String,
    entries: Vec<Entry>,
}

/// Keeps a history elsewhere than beside the checkpoint's file.
pub trait Keeper: std::fmt::Debug + Send + Sync {
    /// As last saved; `None`: never.
    fn load(&self) -> Option<Vec<u8>>;

    /// Makes it durable before it returns.
    ///
    /// # Errors
    /// It can't be; the caller reads nothing more until it can.
    fn save(&self, bytes: &[u8]) -> io::Result<()>;
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Memory,
    File(PathBuf),
    Kept(Arc<dyn Keeper>),
}

/// All tables.
#[derive(Debug, Default)]
pub struct History {
    place: Place,
    tables: BTreeMap<TableName, Vec<Entry>>,
}

impl History {
    /// The file beside the checkpoint at `checkpoint`; in memory alone for an empty path.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn open(checkpoint: &Path) -> Result<Self, String> {
        if checkpoint.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let mut name = checkpoint.as_os_str().to_owned();
        name.push(".schema");
        let path = PathBuf::from(name);
        let tables = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(|why| format!("{}: {why}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        Ok(Self { place: Place::File(path), tables })
    }

    /// As another part keeps it. One that can't be read counts as none: columns are asked for anew, and what the server says is
    /// provisional until its place is passed.
    pub fn kept(keeper: Arc<dyn Keeper>) -> Self {
        let tables =
            keeper.load().map_or(Ok(BTreeMap::new()), |bytes| decode(&bytes)).unwrap_or_else(|why| {
                tracing::warn!(why, "schema history can't be read: columns are asked for anew");
                BTreeMap::new()
            });
        Self { place: Place::Kept(keeper), tables }
    }

    /// What is in force where `done` is done.
    pub(super) fn at(&self, table: &TableName, done: &GtidState) -> Option<&Entry> {
        self.tables.get(table)?.get(self.index(table, done)?)
    }

    fn index(&self, table: &TableName, done: &GtidState) -> Option<usize> {
        let valid = |entry: &Entry| {
            GtidState::parse(done.flavor(), &entry.from).is_ok_and(|from| done.includes(&from))
        };
        self.tables.get(table)?.iter().rposition(valid)
    }

    /// Tables of which something is known.
    pub(super) fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.keys()
    }

    /// From the statement `gtid` on, which stands behind `done`, the table's columns aren't known.
    pub(super) fn altered(&mut self, table: &TableName, done: &GtidState, gtid: &str) {
        let at = self.index(table, done).map_or(0, |at| at + 1);
        let entries = self.tables.entry(table.clone()).or_default();
        if entries.iter().any(|entry| entry.from == gtid) {
            // Read once more.
            return;
        }
        entries.insert(at, Entry { from: gtid.to_owned(), columns: None, asked: None });
        entries.drain(..entries.len().saturating_sub(MOST));
    }

    /// The table's definition where `done` is done. `origin`: where that is so from, if nothing is known yet.
    pub(super) fn record(
        &mut self,
        table: &TableName,
        done: &GtidState,
        origin: &str,
        columns: Vec<StoredColumn>,
        asked: Asked,
    ) {
        let index = self.index(table, done);
        let entries = self.tables.entry(table.clone()).or_default();
        let new = |from: String| Entry { from, columns: Some(columns), asked: Some(asked) };
        match index.and_then(|at| entries.get_mut(at)) {
            Some(entry) if entry.columns.is_none() => *entry = new(entry.from.clone()),
            // It turned out wrong: only from here on.
            Some(_) => entries.insert(index.map_or(0, |at| at + 1), new(done.to_string())),
            None => entries.insert(0, new(origin.to_owned())),
        }
        entries.drain(..entries.len().saturating_sub(MOST));
    }

    /// Nothing is known any more.
    pub(super) fn clear(&mut self) {
        self.tables.clear();
    }

    /// Makes it durable.
    pub(super) fn save(&self) -> io::Result<()> {
        let path = match &self.place {
            Place::Memory => return Ok(()),
            Place::Kept(keeper) => return keeper.save(&encode(&self.tables)?),
            Place::File(path) => path,
        };
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(".tmp");
        let tmp = PathBuf::from(tmp);
        let mut file = File::create(&tmp)?;
        file.write_all(&encode(&self.tables)?)?;
        file.sync_all()?;
        fs::rename(&tmp, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn encode(tables: &BTreeMap<TableName, Vec<Entry>>) -> io::Result<Vec<u8>> {
    let stored = tables.iter().map(|((schema, table), entries)| StoredTable {
        schema: schema.clone(),
        table: table.clone(),
        entries: entries.clone(),
    });
    let mut body = serde_json::to_string_pretty(&Stored { tables: stored.collect() })?;
    body.push('\n');
    Ok(format!("{MAGIC} crc32={:08x}\n{body}", crc32fast::hash(body.as_bytes())).into_bytes())
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<TableName, Vec<Entry>>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text")?;
    let (head, body) = text.split_once('\n').ok_or("no header line")?;
    let crc = head.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(" crc32="));
    let crc = crc.ok_or("not a schema history of this version")?;
    let crc = u32::from_str_radix(crc, 16).map_err(|_| "unreadable checksum")?;
    let found = crc32fast::hash(body.as_bytes());
    if found != crc {
        return Err(format!("checksum {found:08x} instead of {crc:08x}: torn or changed"));
    }
    let stored: Stored = serde_json::from_str(body).map_err(|error| error.to_string())?;
    Ok(stored.tables.into_iter().map(|t| ((t.schema, t.table), t.entries)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rowbust_binlog::Flavor;

    use super::*;

    fn done(text: &str) -> GtidState {
        GtidState::parse(Flavor::MariaDb, text).unwrap()
    }

    fn columns(names: &[&str]) -> Vec<StoredColumn> {
        let column = |name: &&str| StoredColumn {
            name: (*name).into(),
            data_type: "int".into(),
            column_type: "int(11)".into(),
            charset: None,
        };
        names.iter().map(column).collect()
    }

    fn asked(position: u64) -> Asked {
        Asked { server: "s".into(), file: "b.000001".into(), position }
    }

    fn at(position: u64) -> Coordinates {
        Coordinates { file: "b.000001".into(), position }
    }

    fn names(history: &History, place: &str) -> Option<Vec<String>> {
        let table = ("shop".to_owned(), "t".to_owned());
        let entry = history.at(&table, &done(place))?;
        Some(entry.columns.as_ref()?.iter().map(|c| c.name.clone()).collect())
    }

    #[test]
    fn definitions_by_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let mut history = History::open(&path).unwrap();
        let table = ("shop".to_owned(), "t".to_owned());
        assert_eq!(names(&history, "0-1-5"), None);
        history.record(&table, &done("0-1-5"), "0-1-3", columns(&["a"]), asked(100));
        history.altered(&table, &done("0-1-7"), "0-1-8");
        // Not asked again, and rows of before it may come again.
        assert_eq!(names(&history, "0-1-8"), None);
        assert_eq!(names(&history, "0-1-7").unwrap(), ["a"]);
        history.record(&table, &done("0-1-9"), "0-1-3", columns(&["b"]), asked(300));
        history.save().unwrap();
        let mut history = History::open(&path).unwrap();
        assert_eq!(names(&history, "0-1-8").unwrap(), ["b"]);
        assert_eq!(names(&history, "0-1-4").unwrap(), ["a"]);
        assert_eq!(names(&history, "0-1-2"), None);
        // The statement is read once more.
        history.altered(&table, &done("0-1-7"), "0-1-8");
        assert_eq!(names(&history, "0-1-8").unwrap(), ["b"]);
        // A definition that turned out wrong counts only before.
        history.record(&table, &done("0-1-20"), "0-1-3", columns(&["c"]), asked(400));
        assert_eq!(names(&history, "0-1-19").unwrap(), ["b"]);
        assert_eq!(names(&history, "0-1-20").unwrap(), ["c"]);

        let mut bytes = fs::read(dir.path().join("checkpoint.schema")).unwrap();
        bytes.truncate(bytes.len() - 4);
        fs::write(dir.path().join("checkpoint.schema"), bytes).unwrap();
        assert!(History::open(&path).unwrap_err().contains("checksum"));
    }

    #[test]
    fn what_the_server_said_may_be_of_later() {
        let entry = Entry { from: String::new(), columns: Some(columns(&["a"])), asked: Some(asked(100)) };
        assert!(
            entry.may_have(&at(99), "s") && entry.may_have(&at(100), "s") && !entry.may_have(&at(101), "s")
        );
        assert!(entry.may_have(&at(101), "another"));
        let elsewhere = Coordinates { file: "other.000001".into(), position: 500 };
        assert!(entry.may_have(&elsewhere, "s"));
        assert!(!Entry { asked: None, ..entry }.may_have(&at(1), "s"));
    }
}
