use super::super::request::{Request, SUBSCRIBE, read};
use super::super::turn::Turn;
use super::*;
use crate::frame::{Class, FrameHeader, Priority, encode};
use crate::storage::disk::{Disk, FaultyDisk, RealDisk};
use crate::storage::format::Record;
use crate::storage::log::{EventLog, LogOptions};

/// A folder with a log of some records, and the names of its readers.
struct World {
    folder: std::path::PathBuf,
    disk: Arc<FaultyDisk>,
    log: EventLog,
    streams: Streams,
    names: KeptNames,
    counters: Counters,
    clients: HashMap<ConnectionKey, Client>,
    /// The other ends of their sockets, which nobody reads.
    peers: Vec<std::os::unix::net::UnixStream>,
    now: Nanos,
}

const CLASSES: [bool; 3] = [false, true, true];

fn saved(next: u64, undone: Vec<(u64, u8)>, epoch: u32) -> Saved {
    let (kind, by_topic, classes) = (NameKind::Durable, false, CLASSES);
    Saved {
        kind,
        name: "d".into(),
        filter: "a".into(),
        classes,
        stream: "default".into(),
        by_topic,
        epoch,
        next,
        undone,
    }
}

impl World {
    fn new(test: &str, records: u64, kept: Vec<Saved>) -> Self {
        let folder = std::env::temp_dir().join(format!("eventstream-kept-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (mut log, _) = EventLog::open(Arc::new(RealDisk), &folder.join("log"), LogOptions::new("default")).unwrap();
        for number in 0..records {
            let mut frame = Vec::new();
            encode(&mut frame, &FrameHeader::new(Priority::Medium), b"a", &number.to_be_bytes());
            log.append(&Record::event(number, Class::Transactional, &frame)).unwrap();
        }
        log.write(0).unwrap();
        log.sync(0).unwrap();
        let disk = Arc::new(FaultyDisk::new(&folder.join("journal")).unwrap());
        let streams = Streams::new([log.view()]);
        let (store, _) = Store::open(disk.clone() as Arc<dyn Disk>, &folder.join("names"), None).unwrap();
        let spec = KeptSpec { store: Some(store), saved: kept, letters: None, names_max: 8 };
        let names = KeptNames::new(spec, &streams, 0);
        let (counters, clients, peers) = (Counters::default(), HashMap::new(), Vec::new());
        Self { folder, disk, log, streams, names, counters, clients, peers, now: 0 }
    }

    fn join(&mut self, connection: ConnectionKey, asked: &str) -> Result<(), &'static str> {
        let asked = read(SUBSCRIBE, asked.as_bytes()).unwrap().unwrap();
        let Request::Subscribe(asked) = asked else { panic!("{asked:?}") };
        let kept = asked.kept.clone().unwrap();
        let at = (self.now, &mut self.counters);
        let joined = self.names.join((connection, asked.sub), (&asked, &kept), CLASSES, &self.streams, at);
        joined.map_err(|refusal| refusal.code)?;
        self.clients.entry(connection).or_insert_with(|| {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            self.peers.push(theirs);
            Client::new(ours.into(), Turn::default())
        });
        Ok(())
    }

    fn step(&mut self) -> usize {
        let with = (&mut self.clients, &mut self.counters);
        let (count, failed) = self.names.step(&self.streams, with, (1 << 20, self.now), &mut Vec::new());
        assert!(failed.is_none(), "{failed:?}");
        self.names.save_if_due(self.now);
        count
    }

    fn on_disk(&self) -> Vec<Saved> {
        Store::open(Arc::new(RealDisk), &self.folder.join("names"), None).unwrap().1
    }

    fn offset(&self) -> u64 {
        self.names.list(&self.streams)[0].position.offset
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const DURABLE: &str = r#"{"sub":1,"filter":"a","durable":"d","start":"earliest","max_in_flight":2}"#;

#[test]
fn nothing_is_read_beyond_what_may_be_in_flight_and_a_change_is_soon_on_disk() {
    let mut world = World::new("flight", 5, Vec::new());
    world.join(1, DURABLE).unwrap();
    assert_eq!((world.on_disk()[0].next, world.step(), world.step()), (0, 2, 0));
    assert!(world.names.done((1, 1), &[1], world.now) && !world.names.done((1, 2), &[0], world.now));
    assert_eq!((world.step(), world.offset()), (1, 0));
    assert!(world.names.done((1, 1), &[0], world.now));
    assert_eq!((world.step(), world.offset()), (1, 2));
    assert_eq!(world.on_disk()[0].next, 0, "it was not due");
    world.now = world.names.due().unwrap();
    assert!(world.now <= 1_000_000_000);
    world.step();
    assert_eq!(world.on_disk(), [saved(4, vec![(2, 1), (3, 1)], world.log.epoch())]);
    assert_eq!(world.names.due(), None);
}

#[test]
fn a_position_that_was_cut_goes_on_where_the_log_does() {
    let mut world = World::new("cut", 3, vec![saved(50, vec![(1, 1), (40, 1)], 900)]);
    world.join(1, DURABLE).unwrap();
    // It is told of that, and gets what was not done before the cut.
    assert_eq!((world.step(), world.offset()), (0, 1));
    let client = world.clients.get_mut(&1).unwrap();
    assert!(client.waiting_bytes() > 0, "no notice waits for the socket");
    client.flush();
    assert_eq!(world.step(), 1);
    assert!(world.names.done((1, 1), &[1], world.now));
    world.now = world.names.due().unwrap();
    world.step();
    assert_eq!(world.on_disk(), [saved(3, Vec::new(), world.log.epoch())]);
}

#[test]
fn a_name_that_cannot_be_written_is_none() {
    let mut world = World::new("unwritten", 2, Vec::new());
    world.disk.faults().fail_syncs(1);
    assert_eq!(world.join(1, DURABLE), Err("not_kept"));
    assert_eq!((world.names.list(&world.streams), world.on_disk()), (Vec::new(), Vec::new()));
    world.join(1, DURABLE).unwrap();
    world.step();
    assert!(world.names.done((1, 1), &[0], world.now));
    // Nor is one forgotten before it is.
    world.names.leave((1, 1), world.now);
    world.disk.faults().fail_syncs(1);
    assert!(world.names.delete(None, "d").is_err());
    assert_eq!((world.on_disk().len(), world.offset()), (1, 1));
    // What is changed while the disk fails is written when it works again.
    world.now = world.names.due().unwrap();
    world.disk.faults().fail_syncs(1);
    world.step();
    assert_eq!(world.on_disk()[0].undone, []);
    world.now = world.names.due().unwrap();
    world.step();
    assert_eq!(world.on_disk()[0].undone, [(1, 1)]);
    assert_eq!(world.names.delete(None, "d"), Ok(NameKind::Durable));
    assert_eq!(world.on_disk(), []);
}

#[test]
fn a_name_is_joined_as_what_it_is() {
    let mut world = World::new("joined", 1, Vec::new());
    world.join(1, DURABLE).unwrap();
    assert_eq!(world.join(2, DURABLE), Err("durable_in_use"));
    assert_eq!(world.join(2, r#"{"sub":1,"filter":"b","durable":"d"}"#), Err("durable_mismatch"));
    world.join(2, r#"{"sub":1,"filter":"a","group":"d"}"#).unwrap();
    world.join(3, r#"{"sub":1,"filter":"a","group":"d"}"#).unwrap();
    assert_eq!(world.join(3, r#"{"sub":2,"filter":"a","group":"d","key":"topic"}"#), Err("group_mismatch"));
    assert_eq!(world.join(4, r#"{"sub":1,"filter":"a","durable":"s","stream":"s"}"#), Err("no_such_stream"));
    assert!(world.names.delete(None, "d").unwrap_err().contains("--kind"));
    assert!(world.names.delete(Some(NameKind::Group), "d").unwrap_err().contains("in use"));
}
