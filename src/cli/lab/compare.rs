//! `rowbust lab compare`

use std::path::PathBuf;

use rowbust_lab::{
    live::{
        self, LiveError, Plan, Workload,
        compare::{self, Case, regressions, worlds},
        output::Output,
        thresholds::{self, Verdict, is_too_mild},
    },
    summary::Summary,
};
use serde_json::json;

use super::{
    super::{Exit, Global, out},
    run::{LiveArgs, Reporter, block_on, complain_of, fault, strategy, table, workload},
};

/// Arguments of `rowbust lab compare`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Runs follow one another on the same servers. Exits with 99 if a threshold was missed or something became worse, with 1 if a
run is void, else with 0.

Examples:
  rowbust lab compare --quick                     every strategy under the fault that shows its race
  rowbust lab compare --full --out results        every strategy under every fault, and in every workload: an hour
  rowbust lab compare --full --strategy guarded --strategy cache-aside
  rowbust lab compare --quick --against results"
)]
pub struct CompareArgs {
    /// Every strategy under the fault that shows its race, guarded under all: some two minutes (the default)
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Every strategy under every fault that can strike it; in other workloads than read-mostly without one, and with slow-reader
    #[arg(long)]
    pub full: bool,
    /// Only this strategy; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub strategy: Vec<String>,
    /// Only this workload; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub workload: Vec<String>,
    /// Only this fault, or none; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub fault: Vec<String>,
    /// An older comparison, summary.json or its folder: exit with 99 if something became worse
    #[arg(long, value_name = "PATH")]
    pub against: Option<PathBuf>,
    /// What runs must show, in YAML [default: built in, see docs/lab.md]
    #[arg(long, value_name = "FILE")]
    pub thresholds: Option<PathBuf>,
    /// How, and where
    #[command(flatten)]
    pub live: LiveArgs,
}

/// How often a run that shows nothing is made again: whether a race is met is chance.
const REPEATS: u32 = 3;

/// What came of it.
struct Compared {
    output: Output,
    verdicts: Vec<Verdict>,
    worse: Vec<String>,
}

pub(super) fn execute(global: &Global, args: &CompareArgs) -> Exit {
    let cases = match cases(args) {
        Ok(cases) if cases.is_empty() => {
            out::complain(
                "no run is left of the comparison; `rowbust lab compare --full` has all that can be",
            );
            return Exit::Usage;
        }
        Ok(cases) => cases,
        Err(message) => {
            out::complain(&message);
            return Exit::Usage;
        }
    };
    let compared = match block_on(async |stop| compared(args, &cases, &stop).await) {
        Ok(compared) => compared,
        Err(exit) => return exit,
    };
    let Compared { output, verdicts, worse } = compared;
    let runs = &output.summary().runs;
    if global.json {
        out::json(&json!({
            "schema_version": 1,
            "folder": output.dir(),
            "runs": runs,
            "verdicts": verdicts,
            "regressions": worse,
        }));
    } else {
        out::stdout(&table(runs));
        complain_of(runs);
        let missed = verdicts.iter().filter(|verdict| verdict.met == Some(false));
        missed.for_each(|verdict| out::complain(&format!("missed: {verdict}")));
        worse.iter().for_each(|worse| out::complain(&format!("worse: {worse}")));
        let met = verdicts.iter().filter(|verdict| verdict.met == Some(true)).count();
        out::stderr(&format!(
            "{met} of {} thresholds met; in {}: summary.json, report.html, env.json, runs\n",
            verdicts.len(),
            output.dir().display()
        ));
    }
    match () {
        () if !worse.is_empty() || verdicts.iter().any(|verdict| verdict.met == Some(false)) => {
            Exit::Threshold
        }
        () if runs.iter().any(|run| run.void.is_some()) => Exit::Failure,
        () => Exit::Ok,
    }
}

fn cases(args: &CompareArgs) -> Result<Vec<Case>, String> {
    let strategies = args.strategy.iter().map(|name| strategy(name)).collect::<Result<Vec<_>, _>>()?;
    let workloads = args.workload.iter().map(|name| workload(name)).collect::<Result<Vec<_>, _>>()?;
    let faults = args
        .fault
        .iter()
        .map(|name| if name == "none" { Ok(None) } else { fault(name).map(Some) })
        .collect::<Result<Vec<_>, _>>()?;
    let mut cases = if args.full { compare::full() } else { compare::quick() };
    cases.retain(|case| {
        (strategies.is_empty() || strategies.contains(&case.strategy))
            && (workloads.is_empty() || workloads.contains(&case.workload))
            && (faults.is_empty() || faults.contains(&case.fault))
    });
    Ok(cases)
}

async fn compared(
    args: &CompareArgs,
    cases: &[Case],
    stop: &tokio_util::sync::CancellationToken,
) -> Result<Compared, LiveError> {
    // What can be wrong with files is said before the first minute has passed.
    let thresholds = thresholds::load(args.thresholds.as_deref())?;
    let against = args.against.as_ref().map(|path| summary_at(path)).transpose()?;
    let folder = args.live.folder()?;
    let base = args.live.plan(Workload::ReadMostly, if args.full { 10 } else { 3 });
    let mut output: Option<Output> = None;
    let reporter = Reporter::default();
    let mut done = 0;
    for cases in worlds(cases) {
        let plans: Vec<_> = cases.iter().map(|case| case.plan(&base)).collect();
        let world = args.live.world(&plans).await?;
        for plan in &plans {
            plan.check(&world)?;
        }
        let output = match &mut output {
            Some(output) => output,
            None => output.insert(args.live.output(folder.clone(), &world)?),
        };
        for (case, plan) in cases.iter().zip(&plans) {
            done += 1;
            let name = format!("{} {} {}", case.strategy.name(), case.workload.name(), case.fault_name());
            let what = format!("{done}: {name}");
            for repeats in 0..=REPEATS {
                let plan = Plan { seed: plan.seed + u64::from(repeats), ..plan.clone() };
                let mut finished =
                    live::run(&world, &plan, stop, &|progress| reporter.say(&what, progress)).await?;
                if repeats < REPEATS && finished.iter().any(|one| is_too_mild(&thresholds, &one.run)) {
                    reporter.clear();
                    out::stderr(&format!("{name}: showed nothing with seed {}, once more\n", plan.seed));
                    continue;
                }
                for mut finished in finished.drain(..) {
                    finished.run.repeats = repeats;
                    output.add(finished)?;
                }
                break;
            }
        }
    }
    reporter.clear();
    let Some(output) = output else { return Err(LiveError::Usage("there is no run to compare".into())) };
    output.report()?;
    let verdicts = thresholds::judge(&thresholds, &output.summary().runs);
    let worse = against.map_or_else(Vec::new, |old| regressions(&old, output.summary()));
    Ok(Compared { output, verdicts, worse })
}

/// Of a folder or file.
pub(super) fn summary_at(path: &std::path::Path) -> Result<Summary, LiveError> {
    let file = if path.is_dir() { path.join("summary.json") } else { path.to_owned() };
    Summary::load(&file).map_err(|error| LiveError::Usage(error.to_string()))
}
