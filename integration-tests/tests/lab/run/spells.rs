//! Faults that are on for a part of the load, and runs that count by one fault of several: what the README's picture is made with.

use rowbust_lab::{
    live::{self, Fault, Plan, Strategy, Workload, World, WorldOptions},
    summary::Run,
};
use tokio_util::sync::CancellationToken;

use super::*;

const LENGTH: Duration = Duration::from_secs(4);
const SPELL: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(2);
/// A round of evictions that has begun ends; on a loaded machine not at once.
const LATE: Duration = Duration::from_secs(1);

async fn run_in(world: &World, plan: &Plan) -> Result<Run> {
    let mut finished = live::run(world, plan, &CancellationToken::new(), &|_| {}).await?;
    ensure!(finished.len() == 1, "{} runs", finished.len());
    Ok(finished.remove(0).run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_strikes_in_its_spell_and_one_of_several_can_be_enough() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let mut plan = Plan {
        strategies: vec![Strategy::CacheAside],
        // The second one's spell begins when all is over.
        faults: vec![Fault::Evictions, Fault::SlowWriter],
        spells: vec![
            (Fault::Evictions, SPELL),
            (Fault::SlowWriter, Duration::from_secs(3600)..Duration::MAX),
        ],
        length: LENGTH,
        ..Plan::new(Workload::ReadMostly)
    };
    let options = WorldOptions::for_plans(binary()?, std::slice::from_ref(&plan));
    let world = World::start(options).await?;

    let each = run_in(&world, &plan).await?;
    ensure!(each.void.as_deref() == Some("the fault slow-writer never struck"), "{:?}", each.void);
    plan.any_fault = true;
    let any = run_in(&world, &plan).await?;
    ensure!(any.void.is_none(), "{:?}", any.void);

    for run in [each, any] {
        ensure!(run.struck.get("evictions") > Some(&0), "{:?}", run.struck);
        ensure!(run.struck.get("slow-writer") == Some(&0), "{:?}", run.struck);
        ensure!(!run.faults.is_empty(), "no window");
        for fault in &run.faults {
            let (from, to) = (Duration::from_nanos(fault.from), Duration::from_nanos(fault.to));
            let within = from >= SPELL.start && from < SPELL.end && to <= SPELL.end + LATE;
            ensure!(fault.name == "evictions" && within, "{} from {from:?} to {to:?}", fault.name);
        }
    }
    Ok(())
}
