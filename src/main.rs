//! rowbust: follows the binlog and removes stale keys.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let path = args.iter().position(|a| a == "-c").and_then(|i| args.get(i + 1)).cloned().unwrap_or("rowbust.yaml".into());
    let config = match rowbust::config::load(std::path::Path::new(&path)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error:?}");
            return ExitCode::from(78);
        }
    };
    rowbust::telemetry::install_log();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let result = runtime.block_on(rowbust::daemon::run(config));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(rowbust::daemon::End::Drained) => ExitCode::SUCCESS,
        Ok(rowbust::daemon::End::Unfinished) => ExitCode::from(1),
        Ok(rowbust::daemon::End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
