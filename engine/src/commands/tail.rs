//! `eventstream tail`: events as they come out, in lines.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use eventstream_client::{Class, Delivery, Error, Event, Gap, Handle, Position, Start, Subscriber, Subscription};
use serde_json::json;

use super::{ADDRESS, failed, has_gone};

/// Prints events until it is interrupted. Goes on when the engine is started anew. Ends with 0, with 1 when --timeout was over first,
/// with 2 when it could not subscribe.
#[derive(Args)]
pub struct TailOptions {
    /// Topics, with + for one level and # at the end for the rest.
    #[arg(required = true)]
    filters: Vec<String>,
    #[arg(long, value_name = "HOST:PORT", default_value = ADDRESS)]
    address: String,
    /// live, earliest, latest, EPOCH:OFFSET or STREAM:EPOCH:OFFSET, or a time: nanoseconds since the UNIX epoch as @N.
    #[arg(long, default_value = "live", value_parser = parse_start)]
    start: Start,
    /// Only events of this class; several times for several. realtime, transactional or batch.
    #[arg(long = "class", value_parser = parse_class)]
    classes: Vec<Class>,
    /// The engine keeps the position under this name: what was printed does not come again.
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    durable: Option<String>,
    /// As --durable, shared by all who give this name: each event goes to one of them.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// End after so many events.
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Only payloads, each as it is, followed by a line break.
    #[arg(long, short, conflicts_with = "json")]
    payload: bool,
    /// A JSON object a line, for scripts: also notices, of events that will not come.
    #[arg(long)]
    json: bool,
}

fn parse_class(text: &str) -> Result<Class, String> {
    let class = Class::ALL.into_iter().find(|class| class.as_str() == text);
    class.ok_or_else(|| "realtime, transactional or batch".to_owned())
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "live" => return Ok(Start::Live),
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    let expected = || "live, earliest, latest, EPOCH:OFFSET, STREAM:EPOCH:OFFSET or @NANOSECONDS".to_owned();
    if let Some(time) = text.strip_prefix('@') {
        return time.parse().map(Start::Time).map_err(|_| expected());
    }
    let (rest, offset) = text.rsplit_once(':').ok_or_else(expected)?;
    let (stream, epoch) = rest.rsplit_once(':').unwrap_or(("default", rest));
    match (epoch.parse(), offset.parse()) {
        (Ok(epoch), Ok(offset)) => Ok(Start::At(Position { stream: stream.to_owned(), epoch, offset })),
        _ => Err(expected()),
    }
}

/// From the readers of each filter: what came, and who must be told when it is printed.
type Came = (usize, Result<Delivery, Error>);

impl TailOptions {
    pub fn run(&self) -> Result<ExitCode, String> {
        let (send, came) = mpsc::sync_channel::<Came>(0);
        let mut handles = Vec::new();
        for (index, filter) in self.filters.iter().enumerate() {
            let subscriber = Subscriber::with_patience(&self.address, self.subscription(filter), None)
                .map_err(|error| failed(&self.address, &error))?;
            handles.push(subscriber.handle());
            let send = send.clone();
            // It ends when nobody takes anything any more.
            thread::spawn(move || {
                let _ = subscriber.map(|delivery| (index, delivery)).all(|came| send.send(came).is_ok());
            });
        }
        drop(send);
        let ended = self.print(&came, &handles);
        handles.iter().for_each(Handle::close);
        ended
    }

    fn subscription(&self, filter: &str) -> Subscription {
        let subscription = Subscription::new(filter).start(self.start.clone()).classes(&self.classes);
        match (&self.durable, &self.group) {
            (Some(name), _) => subscription.durable(name),
            (_, Some(name)) => subscription.group(name),
            _ => subscription,
        }
    }

    fn print(&self, came: &mpsc::Receiver<Came>, handles: &[Handle]) -> Result<ExitCode, String> {
        let deadline = self.timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.max(0.0)));
        let mut out = io::stdout().lock();
        let is_seen = out.is_terminal() || self.count.is_some();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let next = match deadline {
                None => came.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(deadline) => came.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            };
            let (index, delivery) = match next {
                Ok(next) => next,
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(ExitCode::from(1)),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(ExitCode::SUCCESS),
            };
            let delivery = delivery.map_err(|error| failed(&self.address, &error))?;
            let written = self.write(&mut out, &delivery).and_then(|()| if is_seen { out.flush() } else { Ok(()) });
            match written {
                Err(error) if has_gone(&error) => return Ok(ExitCode::SUCCESS),
                written => written.map_err(|error| format!("standard output: {error}"))?,
            }
            if let Delivery::Event(event) = &delivery {
                left -= 1;
                if self.durable.is_some() || self.group.is_some() {
                    // Printed comes before done: what is lost with a crash is at most this line, twice.
                    out.flush().map_err(|error| format!("standard output: {error}"))?;
                    handles[index].done(&[event]).map_err(|error| failed(&self.address, &error))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn write(&self, out: &mut impl Write, delivery: &Delivery) -> io::Result<()> {
        match delivery {
            Delivery::Event(event) if self.json => writeln!(out, "{}", event_json(event)),
            Delivery::Event(event) if self.payload => {
                out.write_all(&event.payload)?;
                out.write_all(b"\n")
            }
            Delivery::Event(event) => {
                write!(out, "{} ", event.topic)?;
                out.write_all(&event.payload)?;
                out.write_all(b"\n")
            }
            notice if self.json => writeln!(out, "{}", notice_json(notice)),
            notice => {
                eprintln!("eventstream: {}", in_words(notice));
                Ok(())
            }
        }
    }
}

fn event_json(event: &Event) -> serde_json::Value {
    let hex = |id: [u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut line = json!({
        "topic": event.topic,
        "class": event.class.as_str(),
        "id": event.id.map(hex),
        "sent_time_ns": event.sent_time_ns,
        "received_time_ns": event.received_time_ns,
        "epoch": event.offset.map(|_| event.epoch),
        "offset": event.offset,
        "delivery": event.delivery_count,
    });
    match std::str::from_utf8(&event.payload) {
        Ok(text) => line["payload"] = text.into(),
        Err(_) => line["payload_base64"] = BASE64.encode(&event.payload).into(),
    }
    line
}

fn notice_json(notice: &Delivery) -> serde_json::Value {
    match notice {
        Delivery::Gap(Gap { stream, epoch, start, end, count }) => {
            json!({"gap": {"stream": stream, "epoch": epoch, "from": start, "to": end, "count": count}})
        }
        Delivery::Dropped(count) => json!({"dropped": count}),
        Delivery::Reconnected { is_truncated } => json!({"reconnected": {"truncated": is_truncated}}),
        Delivery::Event(event) => event_json(event),
    }
}

fn in_words(notice: &Delivery) -> String {
    match notice {
        Delivery::Gap(gap) => {
            format!("{} events of stream {} are not kept any more, from offset {} on", gap.count, gap.stream, gap.start)
        }
        Delivery::Dropped(count) => format!("{count} events were dropped: they were not read in time"),
        Delivery::Reconnected { .. } => "the connection was made again: events may be missing here".to_owned(),
        Delivery::Event(event) => event.topic.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_words_places_or_times() {
        let at = |stream: &str, epoch, offset| Start::At(Position { stream: stream.into(), epoch, offset });
        for (text, start) in [
            ("live", Start::Live),
            ("earliest", Start::Earliest),
            ("1:7", at("default", 1, 7)),
            ("orders:2:9", at("orders", 2, 9)),
            ("@5", Start::Time(5)),
        ] {
            assert_eq!(parse_start(text), Ok(start), "{text}");
        }
        for text in ["", "first", "1", "1:x", "@", "a:b:c"] {
            assert!(parse_start(text).is_err(), "{text}");
        }
    }
}
