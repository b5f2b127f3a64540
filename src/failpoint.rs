//! Named points at which a test may kill the process as `kill -9` does.
//!
//! Compiled to nothing without the cargo feature `failpoints`. With it, the environment variable `FAILPOINTS`
//! (format of the crate `fail`) chooses the point and when it fires: `FAILPOINTS="before_checkpoint_rename=3*off->return"`.
//! May depend on nothing of ours.

/// Every point there is, in the order in which a row change meets them. A test goes through this list, so a
/// point that is added to the code and not here fails [`assert_named`].
pub const POINTS: &[&str] = &[
    "after_read",
    "before_first_removal",
    "after_first_removal",
    "before_second_removal",
    "after_second_removal",
    "before_queue_ack",
    "after_queue_ack",
    "before_retry_noted",
    "before_checkpoint_write",
    "before_checkpoint_fsync",
    "before_checkpoint_rename",
    "after_checkpoint_rename",
];

/// Reads the variable `FAILPOINTS`; the points fire while the result lives.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn arm() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

/// Ends this process at once, as `kill -9` does: no destructor, no flush, no drain.
#[cfg(feature = "failpoints")]
pub fn die(point: &'static str) -> ! {
    assert_named(point);
    // The parent counts deaths by this line; stderr is unbuffered.
    eprintln!("failpoint {point}: kill -9");
    let me = nix::unistd::Pid::this();
    let _ = nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGKILL);
    std::process::abort()
}

/// Panics when `point` is missing in [`POINTS`].
pub fn assert_named(point: &str) {
    assert!(POINTS.contains(&point), "failpoint {point} is not in POINTS");
}

/// Kills the process here when the test says so; nothing without the feature `failpoints`.
#[macro_export]
macro_rules! kill_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| $crate::failpoint::die($name))
    };
}
