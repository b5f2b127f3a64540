//! `rowbust lab run`

use std::{
    io::IsTerminal as _,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use rowbust_lab::{
    live::{
        self, Fault, Flavor, Given, LiveError, Plan, Progress, Strategy, Workload, World, WorldOptions,
        output::Output,
    },
    summary::{Environment, Run},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    super::{Exit, Global, out},
    unknown,
};

/// Arguments of `rowbust lab run`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Servers are started for the run, on free ports of 127.0.0.1, and stopped with it. Exits with 0 if no key was stale for good
and nothing broken, with 99 if one was, or more was sold than there was, with 1 if the run is void: a fault never struck, what was owed
was not delivered, or no key held anything right at the end.

Examples:
  rowbust lab run --strategy cache-aside --fault slow-reader
  rowbust lab run --strategy guarded --fault visibility-window --seconds 30 --flavor mysql
  rowbust lab run --list"
)]
pub struct RunArgs {
    /// Strategy, as in `rowbust lab model --list`
    #[arg(long, value_name = "NAME", default_value = "guarded")]
    pub strategy: String,
    /// What applications do
    #[arg(long, value_name = "NAME", default_value = "read-mostly")]
    pub workload: String,
    /// What goes wrong; several with commas between
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "none")]
    pub fault: Vec<String>,
    /// List strategies, workloads and faults, and run nothing
    #[arg(long)]
    pub list: bool,
    /// How, and where
    #[command(flatten)]
    pub live: LiveArgs,
}

/// Arguments of everything that runs on servers.
#[derive(Debug, Clone, clap::Args)]
pub struct LiveArgs {
    /// How long writers write [default: 10, in quick comparisons 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Processes that read
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub readers: u32,
    /// Processes that write
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub writers: u32,
    /// Rows
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub keys: u32,
    /// Repeats the choices of keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Database to start: mariadb or mysql [default: what is there]
    #[arg(long, value_name = "NAME", value_parser = ["mariadb", "mysql"])]
    pub flavor: Option<String>,
    /// A database that is there already: mysql://USER:PASSWORD@HOST:PORT. Schemas rowbust_lab_… are made and dropped
    #[arg(long, value_name = "URL", requires = "redis", conflicts_with = "flavor")]
    pub mysql: Option<String>,
    /// A Redis that is there already: redis://HOST:PORT. Keys with rowbust-lab in their names are made and removed
    #[arg(long, value_name = "URL", requires = "mysql")]
    pub redis: Option<String>,
    /// Folder for the results [default: the next number in ./rowbust-lab]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite results
    #[arg(long)]
    pub force: bool,
    /// Keep the histories too: some 35 bytes for each operation
    #[arg(long)]
    pub history: bool,
}

pub(super) fn execute(global: &Global, args: &RunArgs) -> Exit {
    if args.list {
        list(global);
        return Exit::Ok;
    }
    let names = (|| {
        let strategy = strategy(&args.strategy)?;
        let workload = workload(&args.workload)?;
        let named = args.fault.iter().filter(|name| *name != "none");
        let faults = named.map(|name| fault(name)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, String>((strategy, workload, faults))
    })();
    let (strategy, workload, faults) = match names {
        Ok(names) => names,
        Err(message) => {
            out::complain(&message);
            return Exit::Usage;
        }
    };
    let plan = Plan { strategies: vec![strategy], faults, ..args.live.plan(workload, 10) };
    let done = block_on(async |stop| {
        let folder = args.live.folder()?;
        let world = args.live.world(std::slice::from_ref(&plan)).await?;
        plan.check(&world)?;
        let mut output = args.live.output(folder, &world)?;
        let reporter = Reporter::default();
        let what = format!("{} {} {}", strategy.name(), workload.name(), args.fault.join("+"));
        let finished = live::run(&world, &plan, &stop, &|progress| reporter.say(&what, progress)).await;
        reporter.clear();
        for finished in finished? {
            output.add(finished)?;
        }
        output.report()?;
        Ok(output)
    });
    let output = match done {
        Ok(output) => output,
        Err(exit) => return exit,
    };
    let runs = &output.summary().runs;
    if global.json {
        out::json(&json!({ "schema_version": 1, "folder": output.dir(), "runs": runs }));
    } else {
        out::stdout(&table(runs));
        complain_of(runs);
        out::stderr(&format!("in {}: summary.json, report.html, env.json, runs\n", output.dir().display()));
    }
    exit(runs)
}

/// What was found counts in a void run too.
fn exit(runs: &[Run]) -> Exit {
    let is_harmed = |run: &Run| !run.report.permanently_stale.is_empty() || !run.measures.broken.is_empty();
    match () {
        () if runs.iter().any(is_harmed) => Exit::Threshold,
        () if runs.iter().any(|run| run.void.is_some()) => Exit::Failure,
        () => Exit::Ok,
    }
}

/// How long cleaning up may take behind a signal.
const CLEANED_WITHIN: Duration = Duration::from_secs(20);

/// Runs it on a runtime of its own, until a signal. Errors are printed.
pub(super) fn block_on<T>(
    work: impl AsyncFnOnce(CancellationToken) -> Result<T, LiveError>,
) -> Result<T, Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| {
        out::complain(&format!("no runtime: {error}"));
        Exit::Failure
    })?;
    let (stop, now) = (CancellationToken::new(), CancellationToken::new());
    let done = runtime.block_on(async {
        let watch = tokio::spawn(signals(stop.clone(), now.clone()));
        let over = async {
            stop.cancelled().await;
            // Servers that were given are left as they were found, if they answer; a second signal doesn't wait for that.
            let _ = tokio::time::timeout(CLEANED_WITHIN, now.cancelled()).await;
        };
        let done = tokio::select! {
            done = work(stop.child_token()) => done,
            // What it started ends when it is dropped.
            () = over => Err(LiveError::Interrupted),
        };
        watch.abort();
        done
    });
    done.map_err(|error| {
        out::complain(&error.to_string());
        match error {
            LiveError::Missing(_) => Exit::Unavailable,
            LiveError::Usage(_) => Exit::Usage,
            LiveError::Interrupted => Exit::Interrupted,
            _ => Exit::Failure,
        }
    })
}

async fn signals(stop: CancellationToken, now: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for token in [stop, now] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    }
}

pub(super) fn strategy(name: &str) -> Result<Strategy, String> {
    Strategy::named(name).ok_or_else(|| unknown("strategy", name, Strategy::ALL.iter().map(|s| s.name())))
}

pub(super) fn workload(name: &str) -> Result<Workload, String> {
    Workload::named(name).ok_or_else(|| unknown("workload", name, Workload::ALL.iter().map(|w| w.name())))
}

pub(super) fn fault(name: &str) -> Result<Fault, String> {
    let all = std::iter::once("none").chain(Fault::ALL.iter().map(|f| f.name()));
    Fault::named(name).ok_or_else(|| unknown("fault", name, all))
}

impl LiveArgs {
    /// Without strategies and faults.
    pub(super) fn plan(&self, workload: Workload, seconds: u64) -> Plan {
        Plan {
            length: Duration::from_secs(self.seconds.unwrap_or(seconds)),
            readers: self.readers,
            writers: self.writers,
            rows: self.keys,
            seed: self.seed,
            ..Plan::new(workload)
        }
    }

    /// The servers that these plans need.
    pub(super) async fn world(&self, plans: &[Plan]) -> Result<World, LiveError> {
        let program = std::env::current_exe()
            .map_err(|error| LiveError::Usage(format!("this program's own path isn't known: {error}")))?;
        let given = self.mysql.clone().zip(self.redis.clone()).map(|(mysql, redis)| Given { mysql, redis });
        let flavor = self.flavor.as_deref().map(|name| match name {
            "mysql" => Flavor::MySql,
            _ => Flavor::MariaDb,
        });
        if given.is_none() {
            out::stderr("starting servers\n");
        }
        World::start(WorldOptions { flavor, given, ..WorldOptions::for_plans(program, plans) }).await
    }

    /// Where results are to be put: known to be free before anything is started.
    pub(super) fn folder(&self) -> Result<PathBuf, LiveError> {
        let dir = self.out.clone().unwrap_or_else(|| Output::next_in("rowbust-lab".as_ref()));
        Output::check(&dir, self.force)?;
        Ok(dir)
    }

    /// The folder for what is found.
    pub(super) fn output(&self, dir: PathBuf, world: &World) -> Result<Output, LiveError> {
        let (database, redis) = world.versions();
        let environment = Environment {
            seed: self.seed,
            database: database.into(),
            redis: redis.into(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            command: command(),
        };
        let config = json!({
            "seconds": self.seconds,
            "readers": self.readers,
            "writers": self.writers,
            "keys": self.keys,
            "timing_ms": live::Timing::default().to_json(),
        });
        Output::create(dir, self.force, self.history, environment, &config)
    }
}

/// The command line, without passwords.
fn command() -> String {
    let args = std::env::args().skip(1).map(|arg| live::without_account(&arg));
    std::iter::once("rowbust".to_owned()).chain(args).collect::<Vec<_>>().join(" ")
}

/// Progress on stderr: a line that changes on a terminal, else one each ten seconds.
#[derive(Debug)]
pub(super) struct Reporter {
    bar: ProgressBar,
    last: Mutex<Instant>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self { bar: ProgressBar::new_spinner(), last: Mutex::new(Instant::now()) }
    }
}

impl Reporter {
    pub(super) fn say(&self, what: &str, progress: Progress) {
        let Progress { phase, elapsed, operations } = progress;
        let text = format!("{what}: {phase}, {:.0} s, {operations} operations", elapsed.as_secs_f64());
        if std::io::stderr().is_terminal() {
            self.bar.set_message(text);
            self.bar.tick();
        } else if let Ok(mut last) = self.last.lock()
            && last.elapsed() >= Duration::from_secs(10)
        {
            *last = Instant::now();
            out::stderr(&format!("{text}\n"));
        }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Of what is void, and of what is broken.
pub(super) fn complain_of(runs: &[Run]) {
    for run in runs {
        let name = format!("{} {} {}", run.strategy, run.workload, run.fault);
        if let Some(why) = &run.void {
            out::complain(&format!("{name}: void: {why}"));
        }
        run.measures.broken.iter().for_each(|what| out::complain(&format!("{name}: broken: {what}")));
    }
}

/// One line per run.
pub(super) fn table(runs: &[Run]) -> String {
    let head = [
        "strategy",
        "workload",
        "fault",
        "struck",
        "stale for good",
        "right",
        "absent",
        "stale reads",
        "staleness p99",
        "max",
        "hits",
        "ops/s",
        "read p99",
        "write p99",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for run in runs {
        let report = &run.report;
        let struck = run.struck.values().min().map_or("-".into(), u64::to_string);
        #[allow(clippy::cast_precision_loss)]
        let ms = |nanos: u64| format!("{:.1} ms", nanos as f64 / 1e6);
        let of = |quantile: u64, count: u64| if count == 0 { "-".into() } else { ms(quantile) };
        #[allow(clippy::cast_precision_loss)]
        let hits = if report.reads == 0 { 0.0 } else { report.hits as f64 / report.reads as f64 };
        rows.push(vec![
            run.strategy.clone(),
            run.workload.clone(),
            run.fault.clone(),
            struck,
            match (&run.void, report.permanently_stale.len()) {
                (Some(_), 0) => "void".into(),
                (Some(_), stale) => format!("{stale} (void)"),
                (None, stale) => stale.to_string(),
            },
            report.right.to_string(),
            report.absent.to_string(),
            format!("{:.3} %", run.stale_ratio() * 100.0),
            of(report.staleness.p99, report.staleness.count),
            of(report.staleness.max, report.staleness.count),
            format!("{:.1} %", hits * 100.0),
            format!("{:.0}", run.throughput()),
            of(report.read_latency.p99, report.read_latency.count),
            of(report.write_latency.p99, report.write_latency.count),
        ]);
    }
    out::table(&rows)
}

fn list(global: &Global) {
    if global.json {
        let named = |name: &str, about: &str| json!({ "name": name, "about": about });
        out::json(&json!({
            "schema_version": 1,
            "strategies": Strategy::ALL.iter().map(|s| s.name()).collect::<Vec<_>>(),
            "workloads": Workload::ALL.iter().map(|w| named(w.name(), w.about())).collect::<Vec<_>>(),
            "faults": Fault::ALL.iter().map(|f| named(f.name(), f.about())).collect::<Vec<_>>(),
        }));
        return;
    }
    let mut text = String::from("strategies\n");
    for strategy in Strategy::ALL {
        text.push_str(&format!("  {}\n", strategy.name()));
    }
    let rows = |rows: Vec<(&str, &str)>| {
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, about)| vec![format!("  {name}"), about.to_owned()]).collect();
        out::table(&rows)
    };
    text.push_str("\nworkloads\n");
    text.push_str(&rows(Workload::ALL.iter().map(|w| (w.name(), w.about())).collect()));
    text.push_str("\nfaults\n");
    text.push_str(&rows(Fault::ALL.iter().map(|f| (f.name(), f.about())).collect()));
    out::stdout(&text);
}

#[cfg(test)]
mod tests {
    use rowbust_lab::{
        checker::{Final, Report},
        summary::Measures,
    };

    use super::*;

    #[test]
    fn harm_goes_before_a_run_that_is_void() {
        let well = Run {
            strategy: "guarded".into(),
            workload: "flash-sale".into(),
            length: 1,
            fault: "none".into(),
            struck: Default::default(),
            faults: Vec::new(),
            stale_keys: Vec::new(),
            report: Report::default(),
            measures: Measures::default(),
            void: None,
            repeats: 0,
        };
        let stale = Report {
            permanently_stale: vec![Final { key: 1, cached: Some(1), database: 2 }],
            ..Report::default()
        };
        let oversold = Measures { broken: vec!["item 1".into()], ..Measures::default() };
        let void = Some("it never struck".to_owned());
        for (run, code) in [
            (well.clone(), Exit::Ok),
            (Run { report: stale.clone(), ..well.clone() }, Exit::Threshold),
            (Run { measures: oversold, ..well.clone() }, Exit::Threshold),
            (Run { void: void.clone(), ..well.clone() }, Exit::Failure),
            (Run { void, report: stale, ..well.clone() }, Exit::Threshold),
        ] {
            let runs = [well.clone(), run];
            assert_eq!(exit(&runs), code, "{:?}", runs[1]);
        }
    }
}
