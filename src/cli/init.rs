//! `rowbust init`: a first config from a live database.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

use serde_json::json;

use super::{Exit, Global, block_on, out};
use crate::{
    init::{self, InitError, Options, PasswordFrom},
    source::{SourceError, connect::ConnectError},
};

/// The variable that the password is taken from where no file is named.
const VARIABLE: &str = "MYSQL_PASSWORD";

/// Arguments of `rowbust init`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Writes ./rowbust.yaml: each table with a key becomes a mapping with the key `table:{primary key}`; what else the
cache may hold (unique keys, lists by foreign key) stands beside it as a comment. The database is only asked for its tables.
The password comes from --password-file, or from the environment variable MYSQL_PASSWORD.

Examples:
  rowbust init --source mysql://rowbust@127.0.0.1:3306 --password-file /run/secrets/mysql --schema shop
  rowbust init --source mysql://rowbust@db1 --redis redis://cache:6379/0 --schema shop,crm --tables 'order*' -o -"
)]
pub struct InitArgs {
    /// The database: mysql://USER@HOST or mysql://USER@HOST:PORT, without a password
    #[arg(long, value_name = "URL", visible_alias = "url")]
    pub source: String,
    /// File with the database's password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// TLS to the database: disabled, required, verify_ca or verify_identity
    #[arg(long, value_name = "MODE")]
    pub tls: Option<String>,
    /// PEM file of the authority that signed the database's certificate
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Redis: redis://HOST, with :PORT and /DB where they differ, without a password [default: redis://127.0.0.1:6379/0]
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Only tables of these schemas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub schema: Vec<String>,
    /// Only tables whose name (or SCHEMA.NAME) matches
    #[arg(long, value_name = "GLOB")]
    pub tables: Option<String>,
    /// File to write; - prints it [default: that of -c, ./rowbust.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the file if it is there
    #[arg(long)]
    pub force: bool,
}

pub(super) fn execute(global: &Global, args: &InitArgs) -> Exit {
    let printed = args.output.as_ref().is_some_and(|file| file.as_os_str() == "-");
    let file = args.output.clone().filter(|_| !printed).unwrap_or_else(|| global.config.clone());
    if !printed && !args.force && file.symlink_metadata().is_ok() {
        return taken(global, &file);
    }
    let password = match &args.password_file {
        Some(file) => PasswordFrom::File(file.clone()),
        None if std::env::var_os(VARIABLE).is_some() => PasswordFrom::Environment(VARIABLE.into()),
        None => PasswordFrom::Nowhere,
    };
    let options = Options {
        source: args.source.clone(),
        password,
        tls: args.tls.clone(),
        ca_file: args.ca_file.clone(),
        redis: args.redis.clone(),
        schemas: args.schema.clone(),
        tables: args.tables.clone(),
        output: file.clone(),
    };
    let made = match block_on(init::init(&options)) {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => return refused(global, error),
        Err(exit) => return exit,
    };
    if printed {
        if global.json {
            out::json(&json!({
                "schema_version": 1, "file": null, "mapped": made.mapped, "left_out": made.left_out, "text": made.text,
            }));
        } else {
            out::stdout(&made.text);
        }
        return Exit::Ok;
    }
    let mut how = OpenOptions::new();
    how.write(true);
    // What has come there meanwhile isn't overwritten either.
    if args.force {
        how.create(true).truncate(true);
    } else {
        how.create_new(true);
    }
    let written = how.open(&file).and_then(|mut opened| opened.write_all(made.text.as_bytes()));
    if let Err(error) = written {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return taken(global, &file);
        }
        return complain(
            global,
            "init.file",
            &format!("{} can't be written: {error}", file.display()),
            "name another with -o",
            Exit::Failure,
        );
    }
    let shown = file.display();
    if global.json {
        out::json(&json!({
            "schema_version": 1, "file": shown.to_string(), "mapped": made.mapped, "left_out": made.left_out,
        }));
        return Exit::Ok;
    }
    let option =
        if ["./rowbust.yaml", "rowbust.yaml"].iter().any(|default| file == std::path::Path::new(default)) {
            String::new()
        } else {
            format!(" -c {shown}")
        };
    out::stderr(&format!(
        "{shown}: {} tables mapped, {} left out\n\nNext:\n  \
         1. look at it: does your cache name its keys so? Take the guesses that are right, drop the tables that it does not hold\n  \
         2. rowbust{option} check --live        are the servers as they must be?\n  \
         3. rowbust{option} run --dry-run       what would be removed?\n  \
         4. rowbust{option} run\n\n\
         An editor completes it by the schema: rowbust schema > {}\n",
        made.mapped.len(),
        made.left_out.len(),
        file.with_file_name("rowbust.schema.json").display()
    ));
    Exit::Ok
}

fn taken(global: &Global, file: &std::path::Path) -> Exit {
    let message = format!("{} is there already", file.display());
    complain(
        global,
        "init.file_exists",
        &message,
        "name another file with -o, or overwrite it with --force",
        Exit::Failure,
    )
}

fn refused(global: &Global, error: InitError) -> Exit {
    match error {
        InitError::Invalid(report) => {
            if global.json {
                out::json(&report.to_json());
            } else {
                out::complain("these arguments make no valid config:");
                out::stderr(&report.render(out::stderr_style()));
            }
            Exit::Config
        }
        InitError::Glob(..) => {
            complain(global, "init.glob", &error.to_string(), "write a glob such as 'order*'", Exit::Usage)
        }
        InitError::Nothing { what, help } => complain(global, "init.nothing", &what, &help, Exit::Config),
        InitError::Source(error) => {
            let exit = match &error {
                SourceError::Connect(ConnectError::Unreachable { .. }) | SourceError::Lost(_) => {
                    Exit::Unavailable
                }
                _ => Exit::Config,
            };
            let help = match &error {
                SourceError::Connect(ConnectError::Auth { .. }) => {
                    "name the password's file with --password-file, or put the password into MYSQL_PASSWORD"
                }
                SourceError::Connect(ConnectError::Tls { .. }) => "see --tls and --ca-file",
                _ => "is the address in --source right, does the server run?",
            };
            complain(global, "init.source", &error.to_string(), help, exit)
        }
    }
}

fn complain(global: &Global, code: &str, message: &str, help: &str, exit: Exit) -> Exit {
    if global.json {
        out::json(
            &json!({ "schema_version": 1, "error": { "code": code, "message": message, "help": help } }),
        );
    } else {
        out::complain(&format!("{message}\n  {help}"));
    }
    exit
}
