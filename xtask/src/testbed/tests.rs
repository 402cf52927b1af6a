use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::*;

/// One test at a time: the next one to build removes what this one's killed owner left.
static TURN: Mutex<()> = Mutex::new(());

/// Set for a copy of this program that only holds a testbed until it is killed.
const HOLD: &str = "EVENTSTREAM_TEST_HOLDS_TESTBED";

/// Without the rights to build a network there is nothing to test.
fn create(test: &str, options: &Options) -> Option<Testbed> {
    match Testbed::create(options) {
        Ok(testbed) => Some(testbed),
        Err(Error::NotPermitted(reason)) => {
            println!("SKIPPED: {test}: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A link by a number the kernel gives only once: another process may have built one with the same names since.
struct Built {
    link: Link,
    index: Option<String>,
}

impl Built {
    fn of(link: &Link) -> Self {
        Built { link: link.clone(), index: Self::index(link) }
    }

    fn index(link: &Link) -> Option<String> {
        fs::read_to_string(Path::new("/sys/class/net").join(&link.iface).join("ifindex")).ok()
    }

    fn is_gone(&self) -> bool {
        match Self::index(&self.link) {
            None => !Path::new("/run/netns").join(&self.link.namespace).exists(),
            now => now != self.index,
        }
    }
}

/// One datagram from the senders' end to the engine's.
fn exchange(link: &Link, to: IpAddr, from: IpAddr) {
    let receiver = UdpSocket::bind((to, 0)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let address = receiver.local_addr().unwrap();
    let send = || {
        let sender = UdpSocket::bind((from, 0)).unwrap();
        sender.send_to(b"over the link", address).unwrap();
        sender.local_addr().unwrap()
    };
    let sender = link.in_namespace(send).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(receiver.recv_from(&mut buffer).unwrap(), (13, sender));
}

#[test]
fn names_fit_an_interface_name_and_tell_the_purpose() {
    assert_eq!(names(Purpose::Demo, 0), ("esc-d0".into(), "esc-d1".into(), "esc-demo-0".into()));
    let (iface, peer, _) = names(Purpose::Test, MAX_TESTBEDS);
    assert!(iface.len() <= 15 && peer.len() <= 15);
}

#[test]
fn a_record_holds_the_whole_link() {
    let link = Link::named(Purpose::Demo, 3, &address::choose(3, &[]).unwrap());
    assert_eq!(Link::from_json(&link.to_json()), Some(link));
    assert_eq!(Link::from_json(&Value::Null), None);
}

#[test]
fn two_testbeds_stand_side_by_side_and_leave_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = "two_testbeds_stand_side_by_side_and_leave_nothing";
    let quiet = Options { ipv6: false, mtu: 3000, ..Options::test() };
    let Some(first) = create(name, &quiet) else {
        return;
    };
    let second = Testbed::create(&Options::test()).unwrap();
    assert_ne!((&first.iface, first.engine_ip), (&second.iface, second.engine_ip));
    assert!(Link::living().contains(first.link()) && Link::living().contains(second.link()));

    for link in [first.link(), second.link()] {
        exchange(link, link.engine_ip.into(), link.peer_ip.into());
    }
    exchange(&second, second.engine_ip6.into(), second.peer_ip6.into());

    let counters = first.counters().unwrap();
    assert_eq!(counters.peer_tx_packets, 1, "the link carries nothing but what is sent");
    assert_eq!(counters.dropped_since(&LinkCounters::default(), 0), 0);
    let queues = fs::read_dir(format!("/sys/class/net/{}/queues", first.iface)).unwrap().count();
    assert_eq!(queues, 4, "two to receive, two to send");

    let built = [Built::of(&first), Built::of(&second)];
    assert!(!built[0].is_gone() && !built[1].is_gone());
    drop((first, second));
    assert!(built[0].is_gone() && built[1].is_gone());
}

/// With the rights it fails at the link, without them at the namespace: either way it must come back and leave nothing.
#[test]
fn what_cannot_be_built_is_an_error_and_leaves_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let impossible = Options { queue_count: 1_000_000, ..Options::test() };
    let Err(error) = Testbed::create(&impossible) else { panic!("a million queues") };
    if !matches!(error, Error::NotPermitted(_)) {
        assert!(Testbed::create(&Options::test()).is_ok());
    }
}

#[test]
fn a_command_runs_at_the_senders_end() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(testbed) = create("a_command_runs_at_the_senders_end", &Options::test()) else {
        return;
    };
    let shown = capture(testbed.command("ip").args(["-brief", "link"])).unwrap();
    assert!(shown.contains(&testbed.peer) && !shown.contains(&format!("{}@", testbed.iface)), "{shown}");
}

#[test]
fn what_a_killed_owner_left_is_removed_and_a_living_ones_is_not() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = "what_a_killed_owner_left_is_removed_and_a_living_ones_is_not";
    let Some(living) = create(name, &Options::test()) else {
        return;
    };
    let (mut holder, left) = start_holder();
    let (living_built, left_built) = (Built::of(&living), Built::of(&left));
    // Somebody who is still in the namespace must not keep the link alive.
    let mut straggler = tool("ip");
    straggler.args(["netns", "exec", &left.namespace, "sleep", "300"]).stdin(Stdio::null());
    let mut straggler = straggler.spawn().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(!left_built.is_gone(), "a killed owner removes nothing");

    let next = Testbed::create(&Options::test()).unwrap();
    assert!(left_built.is_gone() && !living_built.is_gone());
    exchange(&next, next.engine_ip.into(), next.peer_ip.into());
    exchange(&living, living.engine_ip.into(), living.peer_ip.into());
    straggler.wait().unwrap();
}

/// A copy of this program that holds a testbed, and the testbed.
fn start_holder() -> (Child, Link) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "testbed::tests::holds_a_testbed_when_asked_to"]).env(HOLD, "1");
    let holder = command.stdout(Stdio::null()).spawn().unwrap();
    let ready = std::env::temp_dir().join(format!("esc-holder-{}", holder.id()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let namespace = fs::read_to_string(&ready).expect("the holder has built nothing");
    let _ = fs::remove_file(ready);
    let link = Link::living().into_iter().find(|link| link.namespace == namespace).unwrap();
    (holder, link)
}

#[test]
fn holds_a_testbed_when_asked_to() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let testbed = Testbed::create(&Options::test()).unwrap();
    let ready = std::env::temp_dir().join(format!("esc-holder-{}", std::process::id()));
    let unfinished = ready.with_extension("part");
    fs::write(&unfinished, &testbed.namespace).unwrap();
    fs::rename(unfinished, ready).unwrap();
    thread::sleep(Duration::from_secs(300));
}
