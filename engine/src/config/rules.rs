//! Rules over several keys. Each is checked on the validated values and reported at a key that takes part in it.

use super::findings::Findings;
use super::ingest::SOCKET_SLOT_BYTES;
use super::layout::NUMBERED_KINDS;
use super::words::{LayoutMode, XdpMode, XdpRequire};
use super::{Config, StreamPolicy};
use crate::frame::Class;

/// Bytes between a frame's length field and its topic, with id and time: what the longest topic needs besides itself.
const FRAME_OVERHEAD_BYTES: u32 = 1 + 2 + 16 + 8;

/// The least that can be shared out: an eighth of a TCP agent's credits may be under way to the dispatcher.
const CREDITS_MIN: u32 = 8;

/// Memory one TCP agent may set aside for frames above a slot.
const LARGE_SLOTS_BYTES_MAX: u64 = 4 << 30;

pub(super) fn check(config: &Config, findings: &Findings) {
    check_ingest(config, findings);
    check_tcp_shares(config, findings);
    check_frame_limits(config, findings);
    check_ports(config, findings);
    check_thresholds(config, findings);
    check_layout(config, findings);
    check_storage(config, findings);
    if config.retry.backoff_initial > config.retry.backoff_max {
        findings.conflict(
            &["retry.backoff_initial_ms", "retry.backoff_max_ms"],
            format!(
                "the first backoff ({} ms) is above the longest ({} ms)",
                config.retry.backoff_initial.as_millis(),
                config.retry.backoff_max.as_millis()
            ),
        );
    }
}

fn check_ingest(config: &Config, findings: &Findings) {
    let Config { udp, xdp, tcp, .. } = config;
    if udp.slots < udp.batch * 2 {
        findings.conflict(
            &["udp.batch", "udp.slots"],
            format!(
                "{} slots do not hold two batches of {} datagrams: one is read while the other is worked on",
                udp.slots, udp.batch
            ),
        );
    }
    if xdp.rx_ring > xdp.frames {
        findings.conflict(
            &["xdp.rx_ring", "xdp.frames"],
            format!("an rx ring of {} is never full with {} frames", xdp.rx_ring, xdp.frames),
        );
    }
    if xdp.mode == XdpMode::Generic && xdp.require != XdpRequire::Any {
        findings.conflict(
            &["xdp.mode", "xdp.require"],
            format!("mode generic can never achieve what require asks for ({})", xdp.require),
        );
    }
    if tcp.enabled && tcp.agents > tcp.max_connections {
        findings.conflict(
            &["tcp.agents", "tcp.max_connections"],
            format!("{} agents share {} connections: some would have none", tcp.agents, tcp.max_connections),
        );
    }
}

/// What keeps a slow class from the others' slots and credits must come to something.
fn check_tcp_shares(config: &Config, findings: &Findings) {
    let (tcp, depth) = (&config.tcp, config.queues.spsc_depth);
    if !tcp.enabled {
        return;
    }
    if depth / 2 / tcp.agents < CREDITS_MIN {
        findings.conflict(
            &["tcp.agents", "queues.spsc_depth"],
            format!(
                "half of a ring of {depth} events is less than {CREDITS_MIN} for each of {} TCP agents",
                tcp.agents
            ),
        );
    }
    for class in Class::ALL {
        let workers = config.workers.count(class);
        if tcp.slots / 4 < workers {
            findings.conflict(
                &["tcp.slots", &format!("workers.{class}")],
                format!("a quarter of {} slots is less than one for each of {workers} {class} workers", tcp.slots),
            );
        }
    }
}

/// The largest frame must fit everything that may have to hold it.
fn check_frame_limits(config: &Config, findings: &Findings) {
    let frame_bytes = config.limits.frame_bytes;
    let topic_bytes = u32::from(config.limits.topic_bytes);
    if topic_bytes + FRAME_OVERHEAD_BYTES > frame_bytes {
        findings.conflict(
            &["limits.topic_bytes", "limits.frame_bytes"],
            format!(
                "a topic of {topic_bytes} bytes and {FRAME_OVERHEAD_BYTES} bytes of header do not fit a frame of \
                 {frame_bytes} bytes"
            ),
        );
    }
    let large_slots = config.tcp.large_slots;
    if config.tcp.enabled && large_slots == 0 && frame_bytes + 4 > SOCKET_SLOT_BYTES {
        findings.conflict(
            &["tcp.large_slots", "limits.frame_bytes"],
            format!(
                "without large slots no frame above {} bytes can be taken over TCP, and the limit is {frame_bytes}",
                SOCKET_SLOT_BYTES - 4
            ),
        );
    }
    if u64::from(large_slots) * u64::from(frame_bytes) > LARGE_SLOTS_BYTES_MAX {
        findings.conflict(
            &["tcp.large_slots", "limits.frame_bytes"],
            format!(
                "{large_slots} large slots of {frame_bytes} bytes are more than the {LARGE_SLOTS_BYTES_MAX} bytes \
                 an agent may set aside"
            ),
        );
    }
    let holders = [
        ("spill.bytes_per_class", config.spill.bytes_per_class),
        ("dlq.failed_memory_bytes", config.dlq.failed_memory_bytes),
        ("dlq.shed_memory_bytes", config.dlq.shed_memory_bytes),
    ];
    for (key, bytes) in holders {
        if bytes < u64::from(frame_bytes) * 2 {
            findings.conflict(
                &[key, "limits.frame_bytes"],
                format!("{key} ({bytes}) does not hold two frames of the limit ({frame_bytes} bytes)"),
            );
        }
    }
}

/// The largest frame must fit what it is written to, and what is deleted must not be needed any more.
fn check_storage(config: &Config, findings: &Findings) {
    let (storage, frame_bytes) = (&config.storage, u64::from(config.limits.frame_bytes));
    let holders = [("storage.segment_bytes", storage.segment_bytes), ("storage.buffer_bytes", storage.buffer_bytes)];
    for (key, bytes) in holders {
        if bytes < frame_bytes * 2 {
            findings.conflict(
                &[key, "limits.frame_bytes"],
                format!("{key} ({bytes}) does not hold two frames of the limit ({frame_bytes} bytes)"),
            );
        }
    }
    for (key, bytes) in
        [("dlq.failed_disk_bytes", config.dlq.failed_disk_bytes), ("dlq.shed_disk_bytes", config.dlq.shed_disk_bytes)]
    {
        if bytes < frame_bytes * 8 {
            findings.conflict(
                &[key, "limits.frame_bytes"],
                format!("{key} ({bytes}) does not hold eight frames of the limit ({frame_bytes} bytes)"),
            );
        }
    }
    check_retention(config, "storage", &storage.policy, findings);
    for (index, stream) in storage.streams.iter().enumerate() {
        check_retention(config, &format!("storage.streams[{index}]"), &stream.policy, findings);
    }
}

fn check_retention(config: &Config, path: &str, policy: &StreamPolicy, findings: &Findings) {
    let keys = |key: &str| [format!("{path}.{key}"), path.to_owned(), format!("storage.{key}")];
    let conflict = |key: &str, other: &str, message: String| {
        let [own, stream, general] = keys(key);
        findings.conflict(&[&own, &stream, &general, other], message);
    };
    let (bytes, segment_bytes) = (policy.retention_bytes, config.storage.segment_bytes);
    if bytes < segment_bytes * 2 {
        let message = format!("retention_bytes ({bytes}) does not hold two segments of {segment_bytes} bytes");
        conflict("retention_bytes", "storage.segment_bytes", message);
    }
    let window = config.dedup.window;
    if let Some(age) = policy.retention_age.filter(|age| *age < window) {
        let (age, window) = (age.as_millis(), window.as_millis());
        let message = format!(
            "retention_age_ms ({age}) is less than dedup.window_ms ({window}): after a start, ids are remembered from what \
             is kept"
        );
        conflict("retention_age_ms", "dedup.window_ms", message);
    }
}

fn check_ports(config: &Config, findings: &Findings) {
    let Config { listen, admin, tcp, .. } = config;
    let overlap =
        listen.tcp_address == admin.address || listen.tcp_address.is_unspecified() || admin.address.is_unspecified();
    if tcp.enabled && admin.enabled && overlap && admin.port != 0 && admin.port == listen.tcp_port {
        findings.conflict(
            &["listen.tcp_port", "admin.port"],
            format!("TCP port {} is taken twice, for events and for the admin server", admin.port),
        );
    }
}

fn check_thresholds(config: &Config, findings: &Findings) {
    let dropping = config.control.dropping.by_input();
    let emergency = config.control.emergency.by_input();
    for ((input, dropping), (_, emergency)) in dropping.into_iter().zip(emergency) {
        let (Some(dropping), Some(emergency)) = (dropping, emergency) else {
            continue;
        };
        let key = |state: &str, end: &str| format!("control.{state}.{input}.{end}");
        if emergency.enter <= dropping.enter {
            let message = format!(
                "emergency must be entered above dropping, and {} is not above {}",
                emergency.enter, dropping.enter
            );
            findings.conflict(&[&key("dropping", "enter"), &key("emergency", "enter")], message);
        }
        if emergency.leave < dropping.leave {
            let message = format!(
                "emergency must not be left below dropping, and {} is below {}",
                emergency.leave, dropping.leave
            );
            findings.conflict(&[&key("dropping", "leave"), &key("emergency", "leave")], message);
        }
    }
}

fn check_layout(config: &Config, findings: &Findings) {
    let layout = &config.layout;
    match (layout.mode == LayoutMode::Explicit, layout.runners.is_empty()) {
        (true, true) => findings.conflict(&["layout.mode"], "mode explicit needs layout.runners"),
        (false, false) => findings.conflict(
            &["layout.mode", "layout.runners"],
            format!("runners are for mode explicit; the mode is {}", layout.mode),
        ),
        _ => {}
    }
    for (index, runner) in layout.runners.iter().enumerate() {
        for (position, pattern) in runner.agents.iter().enumerate() {
            let Some((kind, number)) = pattern.numbered() else {
                continue;
            };
            let Some((count, key)) = agent_count(config, kind) else {
                continue;
            };
            if number >= count {
                findings.conflict(
                    &[&format!("layout.runners[{index}].agents[{position}]")],
                    if count == 0 {
                        format!("there is no {pattern}: {key} is false")
                    } else {
                        format!("there is no {pattern}: {key} is {count}, numbered from 0")
                    },
                );
            }
        }
    }
    if layout.mode == LayoutMode::Explicit && !layout.runners.is_empty() {
        check_all_placed(config, findings);
    }
}

/// Every agent that is known to exist needs a thread. How many queues the NIC has is known only at boot, so agents of
/// the kind xdp are checked there.
fn check_all_placed(config: &Config, findings: &Findings) {
    let numbered = NUMBERED_KINDS.into_iter().filter_map(|kind| Some((kind, agent_count(config, kind)?.0)));
    let names = numbered.flat_map(|(kind, count)| (0..count).map(move |number| format!("{kind}-{number}")));
    // With a data directory it is on the log writer's thread.
    let dead_letter = config.storage.directory.is_none().then(|| "dead-letter".to_owned());
    for name in names.chain(dead_letter) {
        if config.layout.runner_of(&name).is_none() {
            findings.conflict(&["layout.runners"], format!("no runner has {name}: place it, or `*` for the rest"));
        }
    }
}

/// How many agents of a kind there are, and the key that says so; `None` where only the machine can tell.
fn agent_count(config: &Config, kind: &str) -> Option<(u32, &'static str)> {
    match kind {
        "udp" => Some((config.udp.sockets, "udp.sockets")),
        "tcp" if !config.tcp.enabled => Some((0, "tcp.enabled")),
        "tcp" => Some((config.tcp.agents, "tcp.agents")),
        "dispatcher" => Some((config.dispatchers, "dispatchers")),
        "realtime" => Some((config.workers.realtime, "workers.realtime")),
        "transactional" => Some((config.workers.transactional, "workers.transactional")),
        "batch" => Some((config.workers.batch, "workers.batch")),
        _ => None,
    }
}
