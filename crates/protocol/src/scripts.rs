//! The scripts of `scripts.lua`, by name.
//!
//! Example: see [`Script`].
//!
//! Guarantees: no I/O; the hashes are those that Redis computes (a test runs `SCRIPT LOAD`).

/// The whole file, for other languages' clients.
///
/// Example: see [`Script`].
pub const FILE: &str = include_str!("scripts.lua");

/// One script: run it by [`Script::sha1`] with `EVALSHA`, and with its [`Script::text`] by `EVAL` when Redis answers `NOSCRIPT`.
///
/// ```
/// use rowbust_protocol::scripts::{self, Script};
/// assert!(Script::Fill.text().contains("GETRANGE"));
/// assert_eq!(Script::Fill.sha1().len(), 40);
/// assert!(scripts::FILE.contains(Script::Fill.text()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Script {
    /// Asks for the right to fill a key: hit, busy or granted.
    Lease,
    /// Asks for the right to fill a key that has a value, which is served meanwhile.
    Early,
    /// Fills a key whose lease is the caller's.
    Fill,
    /// Removes what the caller put there, if it still stands: a lease, a rebuild lock.
    Release,
    /// Takes a read or write lock, and tells its fence.
    Lock,
    /// Holds a lock for longer.
    Renew,
    /// Gives a lock back.
    Unlock,
    /// Fills a key unless a writer has held the lock since.
    FillFenced,
    /// Removes a key, and with it the right to fill of who took its lock before.
    RemoveFenced,
    /// Notes deletes that are due later.
    Owe,
    /// Takes deletes that are due.
    Take,
    /// Strikes out a delete that was done.
    Settle,
}

impl Script {
    /// All of them, in the file's order.
    ///
    /// ```
    /// use rowbust_protocol::scripts::Script;
    /// // SCRIPT LOAD each, at the start.
    /// let texts = Script::ALL.map(Script::text);
    /// assert!(texts.iter().all(|text| !text.is_empty()));
    /// ```
    pub const ALL: [Self; 12] = [
        Self::Lease,
        Self::Early,
        Self::Fill,
        Self::Release,
        Self::Lock,
        Self::Renew,
        Self::Unlock,
        Self::FillFenced,
        Self::RemoveFenced,
        Self::Owe,
        Self::Take,
        Self::Settle,
    ];

    /// Its name in the file.
    ///
    /// ```
    /// use rowbust_protocol::scripts::Script;
    /// assert_eq!(Script::FillFenced.name(), "fill_fenced");
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.parts().0
    }

    /// SHA-1 of its text, as Redis names it.
    ///
    /// Example: see [`Script`].
    #[must_use]
    pub const fn sha1(self) -> &'static str {
        self.parts().1
    }

    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Lease => ("lease", "007a897aac84ca903739ddf916cb247c790dbd50"),
            Self::Early => ("early", "723f02ef92225b472659be48a96f0fe0b65c61ee"),
            Self::Fill => ("fill", "ee12d231968f67d6d2defac8ea97199111c6a055"),
            Self::Release => ("release", "0a1cc1e8ce4128fef23e6ef0cbb172db67371808"),
            Self::Lock => ("lock", "de71b21ca0636206d247598c2bc1ca4e2a97f5fb"),
            Self::Renew => ("renew", "ea4ea385d57af727f431e4fa329b2a3010409d22"),
            Self::Unlock => ("unlock", "e43c8e71179abd41267b3e68dcc11e7d5e9faef5"),
            Self::FillFenced => ("fill_fenced", "c911e33f3b8ba650f3d515ecd4f554f8530d2ab2"),
            Self::RemoveFenced => ("remove_fenced", "71683c92b04e56bbc0fb980518f5a796cdc5e043"),
            Self::Owe => ("owe", "47f4f22ba85f9419d78cd54e1a839452aca6ce1e"),
            Self::Take => ("take", "ca6a94838d3647558f8f571bfdb76f381bff1098"),
            Self::Settle => ("settle", "8fff651caaecd70b2abe1751f5465404a0eb99fc"),
        }
    }

    /// Its text.
    ///
    /// Example: see [`Script`].
    #[must_use]
    pub fn text(self) -> &'static str {
        // Every name is in the file (a test), so the empty text is never seen.
        sections().find(|(name, _)| *name == self.name()).map_or("", |(_, text)| text)
    }
}

/// Names and texts.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILE.split("\n--@ ").skip(1).filter_map(|part| {
        let (name, text) = part.split_once('\n')?;
        Some((name, text.trim_end_matches('\n')))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha1::{Digest as _, Sha1};

    use super::*;

    #[test]
    fn the_file_has_these_scripts_and_no_others() {
        let names: Vec<&str> = sections().map(|(name, _)| name).collect();
        assert_eq!(names, Script::ALL.map(Script::name));
    }

    #[test]
    fn the_hashes_are_those_of_the_texts() {
        for script in Script::ALL {
            let hash: String = Sha1::digest(script.text()).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(script.sha1(), hash, "{}", script.name());
        }
    }
}
