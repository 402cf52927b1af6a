//! What the configuration promises: the documentation is the defaults, every rule names its place, no text panics.

mod refusals;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::document;
use super::*;

const DEFAULT_YAML: &str = include_str!("../../../configs/default.yaml");
const DEDICATED_YAML: &str = include_str!("../../../configs/dedicated.yaml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "c.yaml").map_err(|errors| errors.to_string())
}

#[test]
fn an_empty_text_is_the_default() {
    for text in ["", "# nothing\n", "{}", "udp:\ntcp: {}\n", "---\n...\n"] {
        assert_eq!(parse(text), Ok(Config::default()), "{text:?}");
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(parse(DEFAULT_YAML), Ok(Config::default()));
}

/// The defaults as YAML parse to themselves, so printing a configuration and reading it again changes nothing.
#[test]
fn a_printed_configuration_reads_back() {
    let printed = serde_saphyr::to_string(&Config::default()).expect("prints");
    assert_eq!(parse(&printed), Ok(Config::default()), "{printed}");
}

fn leaf_keys(path: &str, value: &Json, keys: &mut BTreeSet<String>) {
    match value {
        Json::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys.insert(path.clone());
                leaf_keys(&path, value, keys);
            }
        }
        _ => assert!(!path.is_empty()),
    }
}

/// Key paths of the documentation, each with the comment lines right above it.
fn documented_keys() -> Vec<(String, Vec<&'static str>)> {
    let mut path: Vec<&str> = Vec::new();
    let mut comment = Vec::new();
    let mut keys = Vec::new();
    for line in DEFAULT_YAML.lines() {
        let content = line.trim_start();
        if let Some(text) = content.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some((key, _)) = content.split_once(':') {
            path.truncate((line.len() - content.len()) / 2);
            path.push(key);
            keys.push((path.join("."), std::mem::take(&mut comment)));
        } else {
            comment.clear();
        }
    }
    keys
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let mut keys = BTreeSet::new();
    leaf_keys("", &serde_json::to_value(Config::default()).expect("serializes"), &mut keys);
    let documented: BTreeSet<String> = documented_keys().into_iter().map(|(key, _)| key).collect();
    assert_eq!(documented, keys);
}

/// The reader itself says what it allows: a limit that changes in the code changes in the documentation.
#[test]
fn every_comment_says_what_it_does_and_what_is_allowed() {
    let document = document::parse(DEFAULT_YAML).expect("parses");
    let findings = Findings::default();
    reader::read_root(&document, &findings, Config::read);
    let documented = documented_keys();
    for (key, allowed) in findings.into_keys() {
        let (_, comment) = documented.iter().find(|(documented, _)| *documented == key).expect(&key);
        if allowed.is_empty() {
            assert!(!comment.is_empty(), "{key} has no comment");
        } else {
            assert!(comment.len() >= 2, "{key}: nothing says what it does");
            assert_eq!(comment.last(), Some(&allowed.as_str()), "{key}");
        }
    }
}

#[test]
fn the_dedicated_example_places_every_agent() {
    let config = Config::parse(DEDICATED_YAML, "dedicated.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let layout = &config.layout;
    let cpu_of = |agent: &str| layout.runner_of(agent).and_then(|index| layout.runners[index].cpu);
    assert_eq!(cpu_of("xdp-3"), Some(5));
    assert_eq!(cpu_of("tcp-1"), Some(12));
    assert_eq!(cpu_of("xdp-4"), None);
    assert_eq!(config.topics[2].class, Class::Batch);
}

#[test]
fn the_closest_pattern_has_the_agent() {
    let text = "layout: {mode: explicit, runners: [{name: a, agents: ['*']}, {name: b, agents: ['xdp-*']}, \
                {name: c, agents: [xdp-1]}]}";
    let layout = parse(text).expect("valid").layout;
    let runners = ["dead-letter", "xdp-0", "xdp-1", "xdp-10"].map(|agent| layout.runner_of(agent));
    assert_eq!(runners, [Some(0), Some(1), Some(2), Some(1)]);
}

#[test]
fn values_arrive_as_their_types() {
    let text = "
listen: {udp_address: 198.18.0.1, tcp_address: '::1', tcp_port: 0}
xdp: {interface: veth-a, queues: [0, 1], require: native, multicast_groups: [239.1.2.3, 'ff02::1']}
udp: {gro: off, batch: 1, slots: 16}
tcp: {idle_timeout_ms: 1_500}
topics: [{name: a/b, priority: 4}, {name: 'c+d', priority: low, dedup: false, order: strict}]
dedup: {classes: []}
control: {socket: /tmp/c.sock, dropping: {loss_per_million: off, pool_used_percent: {enter: 80}}}
";
    let config = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.listen.udp_address.to_string(), "198.18.0.1");
    assert_eq!(config.xdp.interface.as_deref(), Some("veth-a"));
    assert_eq!(config.xdp.queues, XdpQueues::These(vec![0, 1]));
    assert_eq!(config.xdp.multicast_groups.len(), 2);
    assert_eq!(config.udp.gro, Gro::Off);
    assert_eq!(config.tcp.idle_timeout, Some(Duration::from_millis(1500)));
    let classes: Vec<_> = config.topics.iter().map(|topic| (topic.class, topic.dedup, topic.order)).collect();
    let wanted =
        [(Class::Realtime, None, TopicOrder::Relaxed), (Class::Transactional, Some(false), TopicOrder::Strict)];
    assert_eq!(classes, wanted);
    assert!(config.dedup.classes.is_empty());
    assert!(config.control.socket_paths(["/run/user/7".into()]).eq([Path::new("/tmp/c.sock")]));
    assert_eq!(config.control.dropping.loss_per_million, None);
    assert_eq!(config.control.dropping.pool_used_percent, Some(Threshold { enter: 80, leave: 75 }));
}

#[test]
fn the_control_socket_falls_back_to_the_users_directory() {
    let mut asked = 0;
    let of_the_user = ["/run/user/7", "/tmp/runtime-7"].into_iter().inspect(|_| asked += 1).map(Into::into);
    let paths: Vec<_> = Control::default().socket_paths(of_the_user).take(2).collect();
    let expected = ["/run", "/run/user/7"].map(|folder| format!("{folder}/eventstream/control.sock"));
    assert_eq!(paths, expected.map(std::path::PathBuf::from));
    assert_eq!(asked, 1, "the second may have to be made");
}

#[test]
fn all_mistakes_of_a_file_are_reported_at_once_in_order() {
    let text = "udp:\n  batch: 0\n  gro: maybe\nlimits:\n  frame_bytes: big\nuseless: 1\n";
    let errors = Config::parse(text, "dir/c.yaml").expect_err("invalid");
    assert_eq!(
        errors.to_string(),
        "dir/c.yaml:2:10: udp.batch: value 0 is outside 1..=1024 (datagrams)\n\
         dir/c.yaml:3:8: udp.gro: value `maybe` is not one of auto | on | off\n\
         dir/c.yaml:5:16: limits.frame_bytes: expected a whole number, 64..=16777216 (bytes), found `big`\n\
         dir/c.yaml:6:1: useless: unknown key; known here: limits, batch, listen, xdp, udp, tcp, queues, dispatchers, \
         topics, workers, retry, spill, dedup, gap_tracking, dlq, storage, subscriptions, layout, control, admin, drain, log"
    );
}

#[test]
fn errors_beyond_fifty_are_counted() {
    let entry = "  - {name: '', class: batch}\n";
    let errors = Config::parse(&format!("topics:\n{}", entry.repeat(80)), "c.yaml").expect_err("invalid");
    assert_eq!((errors.errors.len(), errors.omitted), (50, 30));
    assert!(errors.to_string().ends_with("c.yaml: and 30 more errors"));
}

#[test]
fn files_that_cannot_be_read_as_text_are_named() {
    let missing = Config::load("/nonexistent/c.yaml").expect_err("missing").to_string();
    assert!(missing.starts_with("/nonexistent/c.yaml: cannot be read: "), "{missing}");
    let path = std::env::temp_dir().join(format!("eventstream-config-{}.yaml", std::process::id()));
    std::fs::write(&path, b"udp:\n  b\xff: 1\n").expect("writes");
    let errors = Config::load(&path).expect_err("not UTF-8");
    std::fs::write(&path, b"udp: {batch: 7}\n").expect("writes");
    let loaded = Config::load(&path).expect("valid");
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(errors.errors[0].at, Some(Position { line: 2, column: 4 }));
    assert_eq!(loaded.udp.batch, 7);
}

#[test]
fn a_topic_table_is_long_but_not_without_end() {
    let entry = |number: usize| format!("  - {{name: t/{number}, class: batch}}\n");
    let text: String = std::iter::once("topics:\n".to_owned()).chain((0..50_000).map(entry)).collect();
    assert_eq!(parse(&text).expect("valid").topics.len(), 50_000);

    let text = format!("topics:\n{}", "- a\n".repeat(TOPICS_MAX + 1));
    let expected = "c.yaml:2:3: topics: 1000001 topics are more than the 1000000 allowed";
    assert_eq!(parse(&text).expect_err("too many"), expected);
}

#[test]
fn a_topic_has_the_window_of_its_entry_or_of_the_class() {
    let text = "
batch: {max_events: 100, max_ms: 5}
topics:
- {name: a, class: batch, window: {max_events: 7}}
- {name: b, class: batch, window: {max_events: 1}}
- {name: c, class: batch}
- {name: d, class: realtime}
";
    let config = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let windows: Vec<_> = config.topics.iter().map(|topic| config.window_of(topic)).collect();
    let window = |max_events| Some(Window { max_events, max_time: Duration::from_millis(5), ..Window::default() });
    assert_eq!(windows, [window(7), None, window(100), None]);
    assert!(config.has_windows() && !Config::default().has_windows());
    assert!(parse("topics: [{name: a, class: batch, window: {max_events: 2}}]").expect("valid").has_windows());
}

#[test]
fn there_are_as_many_different_windows_as_topic_words_can_name() {
    let entry =
        |number: u32| format!("- {{name: t/{number}, class: batch, window: {{max_events: {}}}}}\n", number % 31 + 2);
    let text = |count: u32| (0..count).fold("topics:\n".to_owned(), |text, number| text + &entry(number));
    assert_eq!(parse(&text(30)).expect("valid").topics.len(), 30);
    let expected =
        "c.yaml:32:3: topics[30]: this is one window too many: there may be 30 different ones besides that of `batch`";
    assert_eq!(parse(&text(31)).expect_err("too many"), expected);
    assert!(parse(&text(62)).expect_err("too many").starts_with(expected));
}

#[test]
fn a_reload_applies_topics_and_thresholds_and_names_the_rest() {
    let old = Config::default();
    assert!(diff_reload(&old, &old.clone()).is_empty());
    let text = "topics: [{name: a, class: batch}]\n\
                control: {socket: /tmp/s, dwell_ms: 1, dropping: {loss_per_million: off, queue_depth_percent: {enter: 60}}}\n\
                xdp: {interface: eth0}\n\
                dedup: {classes: [batch]}";
    let diff = diff_reload(&old, &parse(text).expect("valid"));
    let live = [
        "topics",
        "control.dropping.loss_per_million",
        "control.dropping.queue_depth_percent.enter",
        "control.dwell_ms",
    ];
    assert_eq!(diff.live, live);
    assert_eq!(diff.restart, ["control.socket", "dedup.classes", "xdp.interface"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_of_yaml_punctuation_panics(text in "[-:{}\\[\\],&*!|>'\"%@#?~<=a0 \\n\\t]{0,120}") {
        let _ = parse(&text);
    }

    /// The documented file with a piece cut out and another put in reaches every reader with wrong values.
    #[test]
    fn no_damage_to_a_valid_file_panics(
        cut in 0..DEFAULT_YAML.len(),
        length in 0usize..40,
        put in "[-0-9a-z:{}\\[\\], \\n'\"]{0,20}",
    ) {
        let bytes = DEFAULT_YAML.as_bytes();
        let end = (cut + length).min(bytes.len());
        let text = [&bytes[..cut], put.as_bytes(), &bytes[end..]].concat();
        if let Err(errors) = Config::parse(&String::from_utf8_lossy(&text), "c.yaml") {
            prop_assert!(errors.errors.iter().all(|error| error.at.is_some() && !error.message.is_empty()));
        }
    }

    #[test]
    fn any_number_is_taken_or_refused_with_its_place(number in any::<i128>()) {
        let text = format!("queues:\n  mpsc_depth: {number}\n");
        match parse(&text) {
            Ok(config) => prop_assert_eq!(i128::from(config.queues.mpsc_depth), number),
            Err(errors) => prop_assert!(errors.starts_with("c.yaml:2:15: queues.mpsc_depth: "), "{}", errors),
        }
    }
}
