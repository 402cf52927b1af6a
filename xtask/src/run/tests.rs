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
    assert!(all_queues_on_xdp(
        &json!({"queues": [queue("xdp-native-copy"), queue("xdp-generic-copy")]})
    ));
    assert!(!all_queues_on_xdp(
        &json!({"queues": [queue("xdp-native-copy"), queue("socket")]})
    ));
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

/// The whole of a run on loopback against programs that only pretend.
#[test]
fn a_run_ends_with_the_report_of_both_sides() {
    let folder = std::env::temp_dir().join(format!("esc-run-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let ledger = r#"{"seconds": 1, "queues": [], "rates": {}, "ledger": {"balanced": true, "datagrams": {"parsed": 0}, "events": {}}}"#;
    let eventstream = format!(
        "if [ \"$1\" = status ]; then echo '{ledger}'; exit 0; fi\n\
         trap 'echo '\"'\"'{ledger}'\"'\"' > \"$5\"; exit 0' TERM\necho READY\nwhile :; do sleep 0.02; done"
    );
    let blast = "echo '{\"sent_datagrams\": 2, \"sent_events\": 46, \"seconds\": 0.1, \"rate_events_per_s\": 460}'";
    let binaries = Binaries {
        eventstream: folder.join("eventstream"),
        blast: folder.join("blast"),
    };
    for (file, script) in [
        (&binaries.eventstream, eventstream.as_str()),
        (&binaries.blast, blast),
    ] {
        engine::tests::write_script(file, script);
    }
    let report = folder.join("report.json");
    let arguments = Arguments {
        report: Some(report.clone()),
        seconds: Some(0.2),
        ..Arguments::default()
    };
    drive(
        &arguments,
        &binaries,
        &Ground::Loopback,
        Work::Demonstration,
        &Stop::default(),
    )
    .unwrap();
    let merged: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    // Two phases with two and three loads, of which one each is TCP and has no datagrams.
    assert_eq!(merged["load"]["sent_datagrams"], 2 + 4);
    assert_eq!(merged["load"]["sent_events"], 5 * 46);
    assert_eq!(merged["phases"][1]["name"], "paced");
    assert_eq!(merged["ledger"]["balanced"], true);
    fs::remove_dir_all(&folder).unwrap();
}
