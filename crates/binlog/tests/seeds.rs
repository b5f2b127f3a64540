//! The fuzz targets as plain tests, over their seeds: events of the fixtures. `UPDATE_SEEDS=1` writes them anew, into
//! `fuzz/seeds`.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(unreachable_pub)]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rowbust_binlog::{
    Decoder, Event, FileEvents, GtidSet, Inflater, PayloadReader, RawEvent, event_type as t,
};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 5] = [
    ("stream", targets::stream),
    ("payload", targets::payload),
    ("table_map", targets::table_map),
    ("row_image", targets::row_image),
    ("gtid", targets::gtid),
];

/// At most so many of one target.
const MOST: usize = 40;

/// And none larger: what is special is in small ones too.
const LARGEST: usize = 2_000;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

fn fixtures() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let paths: BTreeSet<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    let binlogs = paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "binlog"));
    binlogs.map(|p| fs::read(p).unwrap()).collect()
}

#[test]
fn every_seed_passes() {
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        update();
    }
    for (name, target) in TARGETS {
        let mut seen = 0;
        for entry in fs::read_dir(folder(name)).into_iter().flatten() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            seen += 1;
        }
        // What the files of real servers are to a target that expects something else, is no harm.
        for fixture in fixtures() {
            target(&fixture);
        }
        assert!(seen > 3 || name == "stream", "{name}: {seen} seeds");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Bytes changed, cut out, doubled: what a fuzzer does, for a second.
    #[test]
    fn mutated_seeds_pass(
        which in any::<Index>(), from in any::<Index>(), len in 0_usize..20, how in 0_u8..4,
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        let (target, seed) = &SEEDS[which.index(SEEDS.len())];
        let mut data = seed.clone();
        for (at, byte) in changes.iter().filter(|_| !seed.is_empty()) {
            data[at.index(seed.len())] = *byte;
        }
        let from = from.index(data.len() + 1);
        let to = (from + len).min(data.len());
        match how {
            0 => drop(data.drain(from..to)),
            1 => data.truncate(from),
            2 => data.extend_from_within(from..to),
            _ => {}
        }
        target(&data);
    }
}

/// Of all targets.
static SEEDS: LazyLock<Vec<(Target, Vec<u8>)>> = LazyLock::new(|| {
    let mut seeds = Vec::new();
    for (name, target) in TARGETS {
        for entry in fs::read_dir(folder(name)).into_iter().flatten() {
            seeds.push((target, fs::read(entry.unwrap().path()).unwrap()));
        }
    }
    seeds
});

fn update() {
    let mut seeds = Seeds::default();
    for file in fixtures() {
        let mut decoder = Decoder::new();
        for raw in FileEvents::new(&file).unwrap() {
            seeds.event(&mut decoder, &raw.unwrap());
        }
    }
    for text in [
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3:11:47-49/3E11FA47-71CA-11E1-9E33-C80AA9429562:2",
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3:tag:5:6-9:b_2:1,00000000-0000-0000-0000-000000000001:_:7",
        "3e11fa4771ca11e19e33c80aa9429562:a:1/3e11fa47-71ca-11e1-9e33-c80aa9429562:b:1",
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag:5",
        "0-1-5,1-2-7",
        "X'6f6e65',X'6272616e6368',7",
    ] {
        seeds.add("gtid", "text", text.as_bytes().to_vec());
    }
    seeds.add("payload", "deflated", [&[3][..], b"UPDATE t SET a = 'aaaaaaaaaaaaaaaaaaaa'"].concat());
    for (target, kinds) in seeds.found {
        let folder = folder(target);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let kinds_count = kinds.len();
        for (kind, seeds) in kinds {
            let step = seeds.len().div_ceil(MOST / kinds_count.min(MOST));
            for (i, seed) in seeds.iter().step_by(step).enumerate() {
                fs::write(folder.join(format!("{kind}-{i}")), seed).unwrap();
            }
        }
    }
}

#[derive(Default)]
struct Seeds {
    /// By target and by kind within it.
    found: BTreeMap<&'static str, BTreeMap<String, BTreeSet<Vec<u8>>>>,
    /// The table map that came last: rows follow theirs, in the fixtures.
    map: Vec<u8>,
}

impl Seeds {
    fn add(&mut self, target: &'static str, kind: &str, seed: Vec<u8>) {
        if seed.len() <= LARGEST {
            self.found.entry(target).or_default().entry(kind.to_owned()).or_default().insert(seed);
        }
    }

    fn event(&mut self, decoder: &mut Decoder, raw: &RawEvent<'_>) {
        let kind = raw.header.event_type;
        let name = format!("type{kind}");
        let body = raw.body.to_vec();
        if raw.is_compressed() {
            self.add("payload", &name, [&[2 + 4 * (kind - t::MARIA_QUERY_COMPRESSED)][..], &body].concat());
            let mut plain = Inflater::new();
            if let Ok(plain) = plain.inflate(raw, decoder) {
                self.event(decoder, &plain);
            }
            return;
        }
        match decoder.decode(raw).unwrap() {
            Event::TransactionPayload(payload) => {
                self.add("payload", &name, [&[0][..], &body].concat());
                let (mut reader, mut whole) = (PayloadReader::new(), vec![1]);
                reader.open();
                while let Some(inner) = reader.next(&payload).unwrap() {
                    whole.extend([&inner.header.encode()[..], inner.body].concat());
                    self.event(decoder, &inner);
                }
                self.add("payload", "plain", whole);
            }
            Event::TableMap { slot, .. } => {
                let columns = &decoder.table(slot).columns;
                let of = columns.get(1).map_or("none".into(), |c| format!("{:?}", c.column_type));
                self.add("table_map", &of, body.clone());
                self.map = body;
            }
            Event::Rows(rows) => {
                let columns = &decoder.table(rows.slot).columns;
                let of = columns.get(1).map_or("none".into(), |c| format!("{:?}", c.column_type));
                let of = if kind == t::PARTIAL_UPDATE_ROWS { "partial".into() } else { of };
                let which = [23, 24, 25, 30, 31, 32, 39].iter().position(|k| *k == kind).unwrap();
                let [low, high] = u16::try_from(self.map.len()).unwrap().to_le_bytes();
                let head = [u8::try_from(which).unwrap(), low, high];
                self.add("row_image", &of, [&head[..], &self.map, &body].concat());
            }
            Event::Gtid(_) | Event::XaPrepare(_) | Event::GtidList(_) => self.add("gtid", &name, body),
            Event::PreviousGtids(set) => {
                self.add("gtid", &name, body);
                let mut plain = GtidSet::new();
                set.iter().for_each(|(tsid, list)| plain.add_range(tsid.uuid, list[0].start, list[0].end));
                let mut body = Vec::new();
                plain.encode(&mut body);
                self.add("gtid", &name, body);
            }
            _ => {}
        }
    }
}
