//! `rowbust lab` on real servers, and its report in a browser.

mod report;
mod run;
