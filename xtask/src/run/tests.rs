use serde_json::json;

use super::*;

#[test]
fn lists_of_processors_are_read_and_written() {
    assert_eq!(parsed_list("\t0-2,5\n"), vec![0, 1, 2, 5]);
    assert_eq!(parsed_list(""), Vec::<usize>::new());
    assert_eq!(listed(&[1, 2, 5]), "1,2,5");
    assert!(!allowed_cpus().is_empty());
}

#[test]
fn in_kernel_load_is_for_queues_that_are_all_on_xdp() {
    let queue = |mode: &str| json!({"iface": "x", "queue": 0, "mode": mode});
    assert!(all_queues_on_xdp(&json!({"queues": [queue("xdp-native-copy"), queue("xdp-generic-copy")]})));
    assert!(!all_queues_on_xdp(&json!({"queues": [queue("xdp-native-copy"), queue("socket")]})));
    assert!(!all_queues_on_xdp(&json!({"queues": []})));
    assert!(!all_queues_on_xdp(&Value::Null));
}

#[test]
fn producers_differ_by_phase_and_load() {
    assert_ne!(producer(0, 0), producer(0, 1));
    assert_ne!(producer(0, 1) & 0xffff, producer(1, 1) & 0xffff);
}

#[test]
fn only_a_balanced_run_that_ended_well_is_a_success() {
    assert!(conclude(true, true, "").is_ok());
    for (ended_well, balanced) in [(true, false), (false, true), (false, false)] {
        assert!(conclude(ended_well, balanced, "exit status: 1").is_err());
    }
}

#[test]
fn seconds_are_a_positive_number() {
    assert_eq!(positive("2.5"), Ok(2.5));
    for text in ["0", "-1", "inf", "ten"] {
        assert!(positive(text).is_err(), "{text}");
    }
}

/// Says that a copy of this program is to run against programs that only pretend, in the folder named here.
const RUN: &str = "EVENTSTREAM_TEST_RUNS_IN";

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("esc-run-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// An engine that is ready at once, has books that balance, and notes its process; a load that has sent two datagrams.
fn pretenders(folder: &Path, mode: &str, load_seconds: f64) -> Binaries {
    let ledger = r#""ledger": {"balanced": true, "datagrams": {"parsed": 0}, "events": {}}"#;
    let queues = format!(r#"[{{"iface": "x", "queue": 0, "mode": "{mode}"}}]"#);
    fs::write(folder.join("ledger"), format!(r#"{{"seconds": 1, "queues": {queues}, {ledger}}}"#)).unwrap();
    let folder_name = folder.display();
    let eventstream = format!(
        "case \"$1\" in status) exec cat {folder_name}/ledger;; topology) exit 2;; esac\n\
         trap 'cp {folder_name}/ledger \"$5\"; exit 0' TERM\n\
         echo $$ > {folder_name}/pid\necho READY\nwhile :; do sleep 0.02; done"
    );
    let sent = "{\"sent_datagrams\": 2, \"sent_events\": 46, \"seconds\": 0.1, \"rate_events_per_s\": 460}";
    let say = format!("echo '{sent}'; exit 0");
    let blast = format!("trap \"{}\" TERM\nsleep {load_seconds} >/dev/null & wait\n{say}", say.replace('"', "\\\""));
    let binaries = Binaries { eventstream: folder.join("eventstream"), blast: folder.join("blast") };
    engine::tests::write_script(&binaries.eventstream, &eventstream);
    engine::tests::write_script(&binaries.blast, &blast);
    binaries
}

fn demonstrate(folder: &Path, ground: &Ground, mode: &str, seconds: f64, stop: &Stop) -> Result<Value> {
    let binaries = pretenders(folder, mode, seconds / 4.0);
    let report = folder.join("report.json");
    let arguments = Arguments { report: Some(report.clone()), seconds: Some(seconds), ..Arguments::default() };
    drive(&arguments, &binaries, ground, Work::Demonstration, stop)?;
    Ok(serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap())
}

#[test]
fn a_run_ends_with_the_report_of_both_sides() {
    let folder = folder("loopback");
    let merged = demonstrate(&folder, &Ground::Loopback, "socket", 0.2, &Stop::default()).unwrap();
    // Two phases with two and three loads, of which one each is TCP and has no datagrams.
    assert_eq!(merged["load"]["sent_datagrams"], 2 + 4);
    assert_eq!(merged["load"]["sent_events"], 5 * 46);
    assert_eq!(merged["phases"][1]["name"], "paced");
    assert_eq!(merged["ledger"]["balanced"], true);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_run_on_a_testbed_sends_from_its_namespace() {
    let testbed = match Testbed::create(&Options::test()) {
        Ok(testbed) => testbed,
        Err(error) => {
            return println!("SKIPPED: a_run_on_a_testbed_sends_from_its_namespace: {error}");
        }
    };
    let folder = folder("testbed");
    let ground = Ground::Testbed(testbed);
    let merged = demonstrate(&folder, &ground, "xdp-native-copy", 0.2, &Stop::default()).unwrap();
    let names: Vec<&Value> = merged["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, ["ceiling", "calibration", "paced"]);
    assert_eq!(merged["load"]["link_dropped"], 0);
    fs::remove_dir_all(&folder).unwrap();
}

/// Says that a copy of this program is to look for its ground.
const LOOK: &str = "EVENTSTREAM_TEST_LOOKS_FOR_GROUND";

#[test]
fn looks_for_its_ground_when_asked_to() {
    if std::env::var_os(LOOK).is_some() {
        assert!(matches!(testbed_or_loopback(), Ground::Loopback));
    }
}

#[test]
fn without_rights_a_run_takes_loopback_and_says_what_more_rights_would_add() {
    const TEST: &str = "without_rights_a_run_takes_loopback_and_says_what_more_rights_would_add";
    let Some(setpriv) = process::find_program("setpriv") else {
        return println!("SKIPPED: {TEST}: there is no setpriv here");
    };
    let mut command = std::process::Command::new(setpriv);
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "run::tests::looks_for_its_ground_when_asked_to", "--nocapture"]).env(LOOK, "1");
    let said = match process::capture(&mut command) {
        Ok(said) => said,
        // Who has no capability to give up may not ask for that either.
        Err(Error::NotPermitted(reason)) => return println!("SKIPPED: {TEST}: {reason}"),
        Err(error) => panic!("{error}"),
    };
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("Running on loopback")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("with the rights to") && lines[0].contains("AF_XDP"), "{said}");
}

/// A run in a process of its own, once its engine is there: the run, and the engine's process number.
fn start_run(folder: &Path) -> (std::process::Child, String) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "run::tests::runs_when_asked_to"]).env(RUN, folder);
    // It is a test program too, and whoever counts this one's lines must not count that one's.
    let run = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut pid = String::new();
    while !pid.ends_with('\n') && Instant::now() < deadline {
        std::thread::sleep(SETTLE_STEP);
        pid = fs::read_to_string(folder.join("pid")).unwrap_or_default();
    }
    // In the middle of the first phase.
    std::thread::sleep(Duration::from_millis(500));
    (run, pid.trim().to_owned())
}

#[test]
fn runs_when_asked_to() {
    let Some(folder) = std::env::var_os(RUN) else {
        return;
    };
    let stop = Stop::on_signals().unwrap();
    let _ = demonstrate(Path::new(&folder), &Ground::Loopback, "socket", 60.0, &stop);
}

fn ends_within(pid: &str, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let process = Path::new("/proc").join(pid);
    while process.exists() && Instant::now() < deadline {
        std::thread::sleep(SETTLE_STEP);
    }
    !process.exists()
}

#[test]
fn a_signal_ends_load_and_engine_and_keeps_the_books() {
    let folder = folder("signal");
    let (mut run, engine) = start_run(&folder);
    let started = Instant::now();
    assert!(process::terminate(&mut run, Duration::from_secs(20)).unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(ends_within(&engine, Duration::ZERO));
    let merged: Value = serde_json::from_str(&fs::read_to_string(folder.join("report.json")).unwrap()).unwrap();
    assert_eq!(merged["load"]["sent_events"], 2 * 46, "loads ended early say what they have sent");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_killed_run_leaves_no_engine() {
    let folder = folder("killed");
    let (mut run, engine) = start_run(&folder);
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(ends_within(&engine, Duration::from_secs(5)));
    fs::remove_dir_all(&folder).unwrap();
}
