//! How much binlog lies between a place and the server's newest byte.
//!
//! Guarantees: reads only, by a connection of its own. May depend on `connect`.

use mysql_async::{Row, prelude::Queryable as _};

use super::{SourceError, connect::Connector, in_time};

/// The server's binlog files, oldest first, and their sizes in bytes; the last is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs(Vec<(String, u64)>);

/// What lies behind a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Files behind the place's own.
    pub files: u64,
    /// Bytes behind it, in its own file and in those.
    pub bytes: u64,
}

impl Logs {
    /// Asks the server (`SHOW BINARY LOGS`). Needs what following needs.
    ///
    /// # Errors
    /// It can't be reached or refuses.
    pub async fn sample(connector: &Connector) -> Result<Self, SourceError> {
        in_time(async {
            let mut conn = connector.primary().await?;
            let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").await?;
            conn.disconnect().await.ok();
            let file = |row: Row| {
                let name = row.get_opt::<String, _>(0).and_then(Result::ok)?;
                Some((name, row.get_opt::<u64, _>(1).and_then(Result::ok)?))
            };
            Ok(Self(rows.into_iter().filter_map(file).collect()))
        })
        .await
    }

    /// From this place on; `None`: the file isn't among them. A place beyond what was there when they were asked for is 0 behind.
    pub fn behind(&self, file: &str, position: u64) -> Option<Behind> {
        let at = self.0.iter().position(|(name, _)| name == file)?;
        let (own, later) = self.0.get(at..)?.split_first()?;
        let bytes =
            later.iter().fold(own.1.saturating_sub(position), |sum, (_, size)| sum.saturating_add(*size));
        Some(Behind { files: later.len() as u64, bytes })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_left() {
        let logs =
            Logs([("b.2", 100), ("b.3", 50), ("b.4", 7)].map(|(name, size)| (name.to_owned(), size)).into());
        for (file, position, expected) in [
            ("b.2", 40, Some((2, 117))),
            ("b.4", 4, Some((0, 3))),
            ("b.4", 9, Some((0, 0))),
            ("b.1", 4, None),
        ] {
            let found = logs.behind(file, position).map(|behind| (behind.files, behind.bytes));
            assert_eq!(found, expected, "{file}:{position}");
        }
        assert_eq!(Logs::default().behind("b.1", 4), None);
    }
}
