//! The plans of the tables whose maps were read, for whoever follows: the live path and what only looks.

use rowbust_binlog::{DecodeError, TableMap};

use super::{Plan, Router};
use crate::source::Refusal;

const REPORT: &str = "report this with the binlog's file and position";

/// By the decoder's slots.
#[derive(Debug, Default)]
pub struct Plans(Vec<Option<Plan>>);

impl Plans {
    /// Forgets all: another stream of events begins.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Compiles the plan for this slot's new table map.
    ///
    /// # Errors
    /// As [`Router::plan`]; then the slot has none.
    pub fn set(&mut self, slot: usize, router: &Router, table: &TableMap) -> Result<(), Refusal> {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = None;
        self.0[slot] = router
            .plan(table)
            .map_err(|error| Refusal::new("route.table", error.to_string(), error.help()))?;
        Ok(())
    }

    /// The plan for rows under this slot's table map.
    ///
    /// # Errors
    /// When there is none: rows of an unmapped table aren't asked for.
    pub fn get(&self, slot: usize, table: &TableMap) -> Result<&Plan, Refusal> {
        self.0.get(slot).and_then(Option::as_ref).ok_or_else(|| {
            Refusal::new(
                "route.no_plan",
                format!("rows of {}.{} came without its table map", table.schema, table.table),
                REPORT,
            )
        })
    }
}

/// The refusal of row images that contradict their table map.
pub fn unreadable_rows(error: &DecodeError, table: &TableMap) -> Refusal {
    Refusal::new(
        "binlog.rows",
        format!("rows of {}.{} can't be decoded: {error}", table.schema, table.table),
        REPORT,
    )
}
