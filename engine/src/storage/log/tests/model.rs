//! The log against a list of what was appended, through failures, crashes and ends in order.

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Append(usize),
    Write,
    Sync,
    BeginSync,
    EndSync,
    FailSyncs(u32),
    FailWrites(bool),
    Wait,
    Retain,
    Crash,
    Close,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0..600usize).prop_map(Action::Append),
        5 => Just(Action::Write),
        2 => Just(Action::Sync),
        4 => Just(Action::BeginSync),
        4 => Just(Action::EndSync),
        1 => (1..3u32).prop_map(Action::FailSyncs),
        1 => any::<bool>().prop_map(Action::FailWrites),
        1 => Just(Action::Wait),
        1 => Just(Action::Retain),
        1 => Just(Action::Crash),
        1 => Just(Action::Close),
    ]
}

/// What was appended, by offset; what is before `first` has been deleted, what is before `durable` is past the policy's point.
#[derive(Default)]
struct Model {
    records: Vec<Vec<u8>>,
    first: u64,
    durable: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.records.len() as u64
    }

    fn seen(&self) -> Vec<Seen> {
        let seen = (self.first..self.durable).map(|offset| Seen::Record(offset, self.records[offset as usize].clone()));
        seen.collect()
    }

    /// After a start: what was deleted last may be back, where the disk failed in between.
    fn opened(&mut self, log: &EventLog) {
        let first = log.view().earliest().offset;
        assert!(first <= self.first.max(self.durable));
        self.first = first;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_log_is_what_was_appended(
        actions in prop::collection::vec(action(), 1..150),
        beside in any::<bool>(),
        fsync in prop_oneof![Just(Fsync::Always), Just(Fsync::Every(100)), Just(Fsync::Never)],
    ) {
        let place = Place::new("model");
        let faults = place.disk.faults();
        let options = LogOptions { retention_bytes: 8192, ..options(fsync) };
        let open = || {
            let (mut log, recovery) = place.open(&options);
            if beside {
                log.sync_beside(None).unwrap();
            }
            (log, recovery)
        };
        let mut log = open().0;
        let mut model = Model::default();
        let mut now = 0;
        for (number, action) in actions.into_iter().enumerate() {
            now += 1_000_000;
            match action {
                Action::Append(bytes) => {
                    let payload = vec![number as u8; bytes];
                    let offset = model.next();
                    match append(&mut log, now, "t", &payload) {
                        Ok(given) => {
                            prop_assert_eq!(given, offset);
                            model.records.push(payload);
                        }
                        Err(refused) => prop_assert_eq!(refused, Refused::Full),
                    }
                }
                Action::Write => drop(log.write(now)),
                Action::Sync => drop(log.sync(now)),
                Action::BeginSync => drop(log.begin_sync(now)),
                Action::EndSync => drop(log.end_sync(now)),
                Action::FailSyncs(count) => faults.fail_syncs(count),
                Action::FailWrites(fails) => faults.fail_writes(fails.then_some(Errno::IO)),
                Action::Wait => now += 2_000_000_000,
                Action::Retain => drop(log.retain(0, now, |segment| {
                    assert!(segment.next_offset() >= model.first);
                    model.first = segment.next_offset();
                })),
                Action::Crash => {
                    drop(log);
                    faults.fail_syncs(0);
                    faults.fail_writes(None);
                    log = open().0;
                    let left = log.next_offset();
                    prop_assert!((model.durable..=model.next()).contains(&left));
                    model.records.truncate(left as usize);
                    model.durable = left;
                    model.opened(&log);
                }
                Action::Close => {
                    faults.fail_syncs(0);
                    faults.fail_writes(None);
                    log.close(now).unwrap();
                    let (opened, recovery) = open();
                    prop_assert_eq!(recovery.next_offset, model.next());
                    prop_assert!(!recovery.findings.is_damage(), "{:?}", recovery);
                    log = opened;
                    model.durable = model.next();
                    model.opened(&log);
                }
            }
            prop_assert!((model.durable..=model.next()).contains(&log.durable_offset()));
            model.durable = log.durable_offset();
            prop_assert_eq!(log.next_offset(), model.next());
        }
        prop_assert_eq!(all(&log.view()), model.seen());
    }
}
