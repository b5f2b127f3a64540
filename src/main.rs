//! The `rowbust` program: arguments in, exit code out.

use std::process::ExitCode;

use rowbust::cli;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(args) => cli::execute(&args),
        Err(exit) => exit,
    };
    exit.into()
}
