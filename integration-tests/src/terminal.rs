//! What a page or a compose file tells to type, typed into bash, with private servers in place of the reader's.
//!
//! What is mapped, and nothing else:
//!
//! - **text**: addresses and paths ([`Terminal::map`]) are replaced in the commands, and in the config files that [`Terminal::copy`]
//!   brings in;
//! - **programs**: a folder in front of `PATH` holds stand-ins. Some only add a port ([`Terminal::program`]: `redis-cli`, `mysql`); others
//!   ([`Terminal::asks`]: `docker`) send their arguments to the test, which does the work on its servers, and print its answer.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

/// Longest time for what is typed at once, in seconds.
const WITHIN: &str = "60";

/// What came of it.
#[derive(Debug, Clone)]
pub struct Typed {
    /// Exit code.
    pub code: i32,
    /// stdout and stderr, in the order in which they came.
    pub text: String,
}

impl Typed {
    /// Succeeded, with this text.
    #[must_use]
    pub fn ok(text: impl Into<String>) -> Self {
        Self { code: 0, text: text.into() }
    }

    /// An answer of the test: an error is exit code 1.
    #[must_use]
    pub fn from_result(result: Result<String>) -> Self {
        result.map_or_else(|e| Self { code: 1, text: format!("{e:#}\n") }, Self::ok)
    }
}

/// A folder, and how commands run in it.
#[derive(Debug)]
pub struct Terminal {
    dir: PathBuf,
    map: Vec<(String, String)>,
    control: u16,
}

impl Terminal {
    /// In this folder, which is made. `answer` gets the name and the arguments of every stand-in that asks.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn new(dir: &Path, answer: impl Fn(&[String]) -> Typed + Send + Sync + 'static) -> Result<Self> {
        fs::create_dir_all(dir.join("bin"))?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let control = listener.local_addr()?.port();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || serve(stream, &*answer));
            }
        });
        Ok(Self { dir: dir.to_owned(), map: Vec::new(), control })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on `there` is written for `here`. What is mapped first wins where both could.
    pub fn map(&mut self, here: impl Into<String>, there: impl Into<String>) {
        self.map.push((here.into(), there.into()));
    }

    /// This text, mapped.
    #[must_use]
    pub fn mapped(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(first) = rest.chars().next() {
            if let Some((here, there)) = self.map.iter().find(|(here, _)| rest.starts_with(here.as_str())) {
                out.push_str(there);
                rest = &rest[here.len()..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        out
    }

    /// A mapped copy of a file, under this name in the folder.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn copy(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let text = fs::read_to_string(from).with_context(|| format!("cannot read {}", from.display()))?;
        let to = self.dir.join(name);
        fs::write(&to, self.mapped(&text))?;
        Ok(to)
    }

    /// A stand-in: these lines of bash.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn program(&self, name: &str, lines: &str) -> Result<()> {
        let path = self.dir.join("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{lines}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A stand-in whose work the test does.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn asks(&self, name: &str) -> Result<()> {
        let control = self.control;
        self.program(
            name,
            &format!(
                "exec 3<>/dev/tcp/127.0.0.1/{control}\nprintf '%s\\n' {name} \"$@\" '' >&3\nread -r code <&3\ncat <&3\nexit \"$code\""
            ),
        )
    }

    /// Runs mapped lines of bash to their end.
    ///
    /// # Errors
    /// When there is no bash, or they take more than a minute.
    pub fn run(&self, lines: &str) -> Result<Typed> {
        let output = self.bash(lines, &["timeout", WITHIN, "bash"])?.output().context("cannot run bash")?;
        let code = output.status.code().unwrap_or(-1);
        ensure!(code != 124, "not done within {WITHIN} s: {lines}");
        Ok(Typed { code, text: String::from_utf8_lossy(&output.stdout).into_owned() })
    }

    /// The same; a failure is an error that shows all.
    ///
    /// # Errors
    /// When it fails.
    pub fn succeeds(&self, lines: &str) -> Result<String> {
        let Typed { code, text } = self.run(lines)?;
        ensure!(code == 0, "exit {code}: {}\n{text}", self.mapped(lines));
        Ok(text)
    }

    /// Mapped lines of bash, to be started by the caller. What is exported in one is known to the next.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn bash(&self, lines: &str, run: &[&str]) -> Result<Command> {
        let (program, args) = run.split_first().context("no program")?;
        let exports = self.dir.join(".exports");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(args)
            .args(["-o", "pipefail", "-c"])
            .arg(format!(
                "exec 2>&1\n[ ! -e {0} ] || . {0}\ntrap 'declare -px | grep -v \" \\(PATH\\|PWD\\|OLDPWD\\|SHLVL\\)=\" >{0}' EXIT\nset -e\n{1}",
                exports.display(),
                self.mapped(lines)
            ))
            .env("PATH", format!("{}:{path}", self.dir.join("bin").display()))
            .env("NO_COLOR", "1")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// One question: name and arguments, a line each, up to an empty one; the answer is the exit code in a line, then the text.
fn serve(mut stream: TcpStream, answer: &(dyn Fn(&[String]) -> Typed + Send + Sync)) {
    let Ok(reader) = stream.try_clone() else { return };
    let words: Vec<String> =
        BufReader::new(reader).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Typed { code, text } = answer(&words);
    _ = stream.write_all(format!("{code}\n{text}").as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types_maps_and_asks() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |words: &[String]| Typed { code: 3, text: format!("heard {}\n", words.join("|")) };
        let mut terminal = Terminal::new(dir.path(), answer).unwrap();
        terminal.map("redis:6379", "127.0.0.1:1");
        terminal.map("redis", "cache");
        terminal.asks("docker").unwrap();
        assert_eq!(
            terminal.succeeds("echo redis:6379 redis; export A='b c'").unwrap(),
            "127.0.0.1:1 cache\n"
        );
        assert_eq!(terminal.succeeds("echo $A >&2").unwrap(), "b c\n");
        let typed = terminal.run("docker compose 'two words'; echo not reached").unwrap();
        assert_eq!((typed.code, typed.text.as_str()), (3, "heard docker|compose|two words\n"));
    }
}
